//! House rules that a machine can check: the layers of `lib.rs`, the length of files, and the README's tables.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::Operation;
use crate::connector::ENGINES;
use crate::control;
use crate::replication::settings::WITHOUT_EFFECT;

/// What each module may use, besides itself.
const LAYERS: [(&str, &[&str]); 12] = [
    ("data", &[]),
    ("api", &[]),
    ("aws", &[]),
    ("sandbox", &[]),
    ("store", &["data"]),
    ("mapping", &["data"]),
    ("connector", &["data"]),
    ("replication", &["connector", "data", "mapping"]),
    ("control", &["api", "connector", "data", "mapping", "replication", "store"]),
    ("server", &["api", "aws", "control", "store"]),
    ("config", &["sandbox"]),
    ("tidy", &["api", "connector", "control", "replication"]),
];

/// Tests may start servers, whatever they test.
const FOR_TESTS: &str = "sandbox";

const FILE_LINES_MAX: usize = 800;

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn modules_use_only_what_is_below_them() {
    let path_in_crate = regex_lite::Regex::new(r"\bcrate::(?:\{([^}]*)\}|(\w+))").unwrap();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            assert!(["lib", "main"].contains(&module.as_str()), "{module} is not in LAYERS");
            continue;
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for used in path_in_crate.captures_iter(line) {
                let names = used.get(1).or(used.get(2)).unwrap().as_str();
                for name in names.split(',').map(|name| name.trim().split("::").next().unwrap_or_default()) {
                    seen += 1;
                    if name != module && name != FOR_TESTS && !allowed.contains(&name) {
                        wrong.push(format!("{}:{}: {module} uses {name}", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(seen > 50, "the pattern finds nothing any more");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn connectors_do_not_import_each_other() {
    for (path, text) in sources() {
        for (own, other) in [("postgres", "mysql"), ("mysql", "postgres")] {
            let foreign = [format!("connector::{other}"), format!("super::{other}")];
            let inside = path.components().any(|part| part.as_os_str() == own);
            assert!(
                !(inside && foreign.iter().any(|foreign| text.contains(foreign.as_str()))),
                "{} uses the {other} connector",
                path.display()
            );
        }
    }
}

#[test]
fn files_are_short_enough_to_read() {
    for (path, text) in sources() {
        let generated = text.starts_with("// @generated");
        let lines = text.lines().count();
        assert!(generated || lines <= FILE_LINES_MAX, "{} has {lines} lines", path.display());
    }
}

/// What works and what does not yet, from the code's own lists. `UPDATE_GENERATED=1 cargo test tidy` writes it.
#[test]
fn the_readme_lists_what_the_code_lists() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- generated: begin -->\n", "<!-- generated: end -->\n");
    let from = readme.find(begin).expect("README.md has the first marker") + begin.len();
    let to = readme.find(end).expect("README.md has the second marker");
    let tables = format!("{}\n{}\n{}", engines(), operations(), settings_without_effect());
    if readme[from..to] == tables {
        return;
    }
    let fresh = format!("{}{tables}{}", &readme[..from], &readme[to..]);
    match std::env::var_os("UPDATE_GENERATED") {
        Some(_) => fs::write(path, fresh).unwrap(),
        None => panic!("README.md is stale; to refresh it: UPDATE_GENERATED=1 cargo test tidy"),
    }
}

fn engines() -> String {
    let mark = |yes: bool| if yes { "full load, changes" } else { "–" };
    let mut table = String::from("| Engine | `EngineName` | as source | as target |\n|---|---|---|---|\n");
    for engine in ENGINES {
        let row = format!(
            "| {} | `{}` | {} | {} |\n",
            engine.display_name,
            engine.name,
            mark(engine.source),
            mark(engine.target)
        );
        table.push_str(&row);
    }
    table
}

fn operations() -> String {
    let names = |built: bool| {
        let all = Operation::ALL.iter().filter(|operation| control::BUILT.contains(operation) == built);
        all.map(|operation| format!("`{}`", operation.name())).collect::<Vec<_>>()
    };
    let (built, missing) = (names(true), names(false));
    format!(
        "**{} of {} operations work:** {}.\n\n**The other {} answer HTTP 501 `NotImplementedException`:** {}.\n",
        built.len(),
        Operation::ALL.len(),
        built.join(", "),
        missing.len(),
        missing.join(", ")
    )
}

fn settings_without_effect() -> String {
    let mut table = String::from(
        "**Task settings that are accepted and change nothing here:**\n\n| Section | Settings | Why |\n|---|---|---|\n",
    );
    for entry in WITHOUT_EFFECT {
        let settings: Vec<String> = entry.settings.iter().map(|setting| format!("`{setting}`")).collect();
        let settings = if settings.is_empty() { "all".to_owned() } else { settings.join(", ") };
        let section = if entry.section.is_empty() { "–".to_owned() } else { format!("`{}`", entry.section) };
        table.push_str(&format!("| {section} | {settings} | {} |\n", entry.why));
    }
    table
}
