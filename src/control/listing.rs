//! Describe calls over stored resources: filters, pages, and the short wait for a status that is about to change.

use data_encoding::BASE64URL_NOPAD;

use super::context::Context;
use super::identifier::filter_identifier;
use super::status::is_transient;
use crate::api::Fault;
use crate::api::shapes::Filter as WireFilter;
use crate::store::{Filter, Kind, Listed};

/// What a Describe operation lists.
pub struct Listing {
    pub kind: Kind,
    /// The member of the answer that holds the page: `Endpoints`.
    pub member: &'static str,
    /// The message of ResourceNotFoundFault when filters match nothing; `None` answers an empty list.
    pub miss: Option<&'static str>,
    pub filters: &'static [(&'static str, FilterBy)],
    pub page: PageSize,
}

/// How a filter of the wire finds resources.
#[derive(Clone, Copy)]
pub enum FilterBy {
    Arn,
    /// By the rule of identifiers; compared lower-case.
    Identifier,
    /// One of these members of the body has the value.
    Member(&'static [&'static str]),
    /// Same, of values that the wire returns in upper case.
    UpperCaseMember(&'static [&'static str]),
}

/// Bounds of `MaxRecords`.
#[derive(Clone, Copy)]
pub struct PageSize {
    pub default: i32,
    pub min: i32,
    pub max: i32,
}

impl PageSize {
    pub const USUAL: PageSize = PageSize { default: 100, min: 20, max: 100 };

    /// AWS's own samples send 0 for "not given".
    pub fn check(self, max_records: Option<i32>) -> Result<u32, Fault> {
        match max_records.unwrap_or(0) {
            0 => Ok(self.default as u32),
            given if (self.min..=self.max).contains(&given) => Ok(given as u32),
            given => Err(Fault::invalid_parameter_value(format!(
                "Invalid value {given} for MaxRecords. Must be between {} and {}",
                self.min, self.max
            ))),
        }
    }
}

/// The paging members of a request.
#[derive(Default)]
pub struct Paging {
    pub max_records: Option<i32>,
    pub marker: Option<String>,
}

/// A describe of more resources than this does not wait: its caller looks around and does not wait for one of them.
const WAITED_FOR_MAX: usize = 10;

/// One page: items as JSON text, and the marker of the next.
pub struct Page {
    pub items: Vec<Listed>,
    pub marker: Option<String>,
}

impl Page {
    /// `{"Endpoints":[…],"Marker":"…"}`, each item through `render`.
    pub fn answer(self, member: &str, mut render: impl FnMut(Listed) -> String) -> String {
        let mut answer = format!("{{\"{member}\":[");
        for (index, item) in self.items.into_iter().enumerate() {
            if index > 0 {
                answer.push(',');
            }
            answer.push_str(&render(item));
        }
        answer.push(']');
        if let Some(marker) = self.marker {
            answer.push_str(&format!(",\"Marker\":\"{marker}\""));
        }
        answer.push('}');
        answer
    }
}

/// Lists resources as a Describe operation does: everything in order of creation, RNF when filters match nothing, and
/// a wait of at most the settle time when a few resources are asked for and the status of one is about to change.
pub async fn list(
    context: &Context,
    listing: &Listing,
    filters: Option<&[WireFilter]>,
    paging: &Paging,
) -> Result<Page, Fault> {
    let filters = filters.unwrap_or_default();
    let mut filter = to_filter(listing, filters)?;
    let size = listing.page.check(paging.max_records)?;
    filter.after = parse_marker(paging.marker.as_deref())?;
    filter.limit = Some(size + 1);
    let mut changes = context.watch_changes();
    let mut items = context.store().list(&context.owner, listing.kind, &filter).await?;
    if !filters.is_empty() && items.len() <= WAITED_FOR_MAX {
        let deadline = context.settle_deadline();
        while items.iter().any(|item| waits(context, listing, item))
            && context.wait_for_change(&mut changes, deadline).await
        {
            items = context.store().list(&context.owner, listing.kind, &filter).await?;
        }
        items.iter().for_each(|item| context.observed(&item.arn, &item.status));
    }
    if let Some(miss) = listing.miss
        && items.is_empty()
        && !filters.is_empty()
        && filter.after == 0
    {
        return Err(Fault::resource_not_found(miss));
    }
    let marker = (items.len() > size as usize).then(|| {
        items.truncate(size as usize);
        BASE64URL_NOPAD.encode(items.last().map_or(0, |item| item.sequence).to_string().as_bytes())
    });
    Ok(Page { items, marker })
}

fn waits(context: &Context, listing: &Listing, item: &Listed) -> bool {
    is_transient(&item.status) || (listing.kind == Kind::ReplicationTask && context.ends_soon(&item.arn, &item.status))
}

fn to_filter(listing: &Listing, filters: &[WireFilter]) -> Result<Filter, Fault> {
    let mut filter = Filter::default();
    for WireFilter { name, values } in filters {
        let Some((name, by)) = listing.filters.iter().find(|(known, _)| known == name) else {
            let known: Vec<&str> = listing.filters.iter().map(|(name, _)| *name).collect();
            return Err(Fault::invalid_parameter_value(match known.is_empty() {
                true => format!("Invalid filter name: {name}. This operation takes no filters"),
                false => format!("Invalid filter name: {name}. Allowed filters: {}", known.join(", ")),
            }));
        };
        check_values(name, values)?;
        match by {
            FilterBy::Arn => narrow(&mut filter.arns, values.clone()),
            FilterBy::Identifier => {
                let values: Result<_, _> = values.iter().map(|value| filter_identifier(name, value)).collect();
                narrow(&mut filter.identifiers, values?);
            }
            FilterBy::Member(paths) => filter.members.push((*paths, values.clone())),
            FilterBy::UpperCaseMember(paths) => {
                filter.members.push((*paths, values.iter().map(|value| value.to_uppercase()).collect()));
            }
        }
    }
    Ok(filter)
}

/// A filter without values is a mistake of the caller, not one that nothing matches.
pub fn check_values(name: &str, values: &[String]) -> Result<(), Fault> {
    match values.is_empty() {
        true => Err(Fault::invalid_parameter_value(format!("The parameter Filter: {name} must have a value."))),
        false => Ok(()),
    }
}

/// The same filter given twice: both must hold.
fn narrow(slot: &mut Option<Vec<String>>, values: Vec<String>) {
    *slot = Some(match slot.take() {
        Some(earlier) => earlier.into_iter().filter(|value| values.contains(value)).collect(),
        None => values,
    });
}

fn parse_marker(marker: Option<&str>) -> Result<i64, Fault> {
    match marker {
        None | Some("") => Ok(0),
        Some(marker) => BASE64URL_NOPAD
            .decode(marker.as_bytes())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .and_then(|text| text.parse().ok())
            .filter(|sequence| *sequence > 0)
            .ok_or_else(|| Fault::invalid_parameter_value(format!("Invalid value {marker} for Marker"))),
    }
}

/// Pages of something that is not a stored resource, such as the orderable instance classes.
pub fn page_of<T>(all: Vec<T>, size: PageSize, paging: &Paging) -> Result<(Vec<T>, Option<String>), Fault> {
    let size = size.check(paging.max_records)? as usize;
    let start = parse_marker(paging.marker.as_deref())? as usize;
    let more = all.len() > start + size;
    let page = all.into_iter().skip(start).take(size).collect();
    Ok((page, more.then(|| BASE64URL_NOPAD.encode((start + size).to_string().as_bytes()))))
}
