//! Wildcards in object locators.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Wildcards.html>

/// A name as a rule spells it: exact, or with wildcards. Case counts, as it does for DMS.
///
/// `%` is any run of characters and `_` any single one; `[ab]` and `[a-d]` are one character of a set, and so `[_]`
/// and `[%]` are those characters themselves. A bracket that is never closed, and an empty pair, are ordinary
/// characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    Exact(String),
    Wild(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Run,
    One,
    Char(char),
    /// Inclusive ranges; a reversed one holds nothing.
    Set(Vec<(char, char)>),
}

impl Pattern {
    /// A name in which wildcards are ordinary characters.
    pub(super) fn exact(name: &str) -> Pattern {
        Pattern::Exact(name.to_owned())
    }

    pub(super) fn with_wildcards(pattern: &str) -> Pattern {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some(first) = rest.chars().next() {
            rest = &rest[first.len_utf8()..];
            tokens.push(match first {
                '%' if tokens.last() == Some(&Token::Run) => continue,
                '%' => Token::Run,
                '_' => Token::One,
                '[' => match rest.find(']') {
                    None | Some(0) => Token::Char('['),
                    Some(end) => {
                        let set = set(&rest[..end]);
                        rest = &rest[end + 1..];
                        Token::Set(set)
                    }
                },
                other => Token::Char(other),
            });
        }
        if tokens.iter().all(|token| matches!(token, Token::Char(_))) {
            return Pattern::exact(pattern);
        }
        Pattern::Wild(tokens)
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Pattern::Exact(exact) => exact == name,
            Pattern::Wild(tokens) => matches(tokens, name),
        }
    }
}

fn set(inside: &str) -> Vec<(char, char)> {
    let mut ranges = Vec::new();
    let mut chars = inside.chars();
    while let Some(from) = chars.next() {
        let mut ahead = chars.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(to)) => {
                ranges.push((from, to));
                chars = ahead;
            }
            _ => ranges.push((from, from)),
        }
    }
    ranges
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Run => false,
            Token::One => true,
            Token::Char(own) => *own == c,
            Token::Set(ranges) => ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)),
        }
    }
}

/// Only the last run is ever widened, so the time is at most pattern length times name length.
fn matches(tokens: &[Token], name: &str) -> bool {
    let mut at = 0;
    let mut rest = name;
    let mut last_run: Option<(usize, &str)> = None;
    loop {
        match (tokens.get(at), rest.chars().next()) {
            (None, None) => return true,
            (Some(Token::Run), _) => {
                at += 1;
                last_run = Some((at, rest));
                continue;
            }
            (Some(token), Some(c)) if token.accepts(c) => {
                at += 1;
                rest = &rest[c.len_utf8()..];
                continue;
            }
            _ => {}
        }
        let Some((after_run, from)) = last_run else { return false };
        let Some(swallowed) = from.chars().next() else { return false };
        rest = &from[swallowed.len_utf8()..];
        at = after_run;
        last_run = Some((after_run, rest));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::with_wildcards(pattern);
        for name in yes {
            assert!(compiled.matches(name), "{pattern} must match {name}");
        }
        for name in no {
            assert!(!compiled.matches(name), "{pattern} must not match {name}");
        }
    }

    #[test]
    fn matches_as_documented() {
        check("%", &["", "a", "größe", "a%b"], &[]);
        check("Test", &["Test"], &["test", "Test1", "Tes", ""]);
        check("DMS%", &["DMS", "DMS_1"], &["dms", "xDMS"]);
        check("%_log", &["a_log", "ablog"], &["log", "_logs"]);
        check("t_", &["t1", "té", "t_"], &["t", "t12"]);
        check("TEST[_]T%", &["TEST_T", "TEST_Tables"], &["TESTxT"]);
        check("[ab]x", &["ax", "bx"], &["cx", "abx", "x"]);
        check("[a-d]1", &["a1", "d1"], &["e1", "-1"]);
        check("[a-]1", &["a1", "-1"], &["b1"]);
        check("[d-a]1", &[], &["a1", "b1", "d1", "-1"]);
        check("[%]%", &["%", "%x"], &["x"]);
        check("a[b", &["a[b"], &["ab"]);
        check("a[]b", &["a[]b"], &["ab"]);
        check("%a%b%", &["ab", "xaxbx"], &["ba"]);
    }

    #[test]
    fn takes_wildcards_of_an_exact_name_literally() {
        let exact = Pattern::exact("order_items");
        assert!(exact.matches("order_items") && !exact.matches("orderXitems"));
    }

    #[test]
    fn stays_fast_on_hostile_patterns() {
        let pattern = Pattern::with_wildcards(&"%a".repeat(2_000));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(4_000))));
    }

    /// Says the same as the documentation, one character at a time and without any care for speed.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        let Some((&first, rest)) = pattern.split_first() else { return name.is_empty() };
        let inside = match rest.iter().position(|c| *c == ']') {
            Some(end) if first == '[' && end > 0 => Some(&rest[..end]),
            _ => None,
        };
        match (first, inside) {
            ('%', _) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
            (_, Some(inside)) => {
                !name.is_empty() && in_set(inside, name[0]) && naive(&rest[inside.len() + 1..], &name[1..])
            }
            _ => !name.is_empty() && (first == '_' || first == name[0]) && naive(rest, &name[1..]),
        }
    }

    fn in_set(inside: &[char], c: char) -> bool {
        match inside {
            [] => false,
            [from, '-', to, rest @ ..] => (*from <= c && c <= *to) || in_set(rest, c),
            [own, rest @ ..] => *own == c || in_set(rest, c),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_the_naive_reading(pattern in "[ab%_\\[\\]\\-é]{0,9}", name in "[abc_é\\[\\]%-]{0,9}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(
                Pattern::with_wildcards(&pattern).matches(&name),
                naive(&chars(&pattern), &chars(&name)),
                "pattern {:?}, name {:?}", pattern, name
            );
        }
    }
}
