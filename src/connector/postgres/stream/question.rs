//! What the catalog is asked about the log.
//!
//! The catalog is of now, the log of some time ago: an answer helps, and may be of a table that has moved on. Nothing is
//! taken from the log while an answer is waited for, and what is waited for survives that the reading is given up.

use std::collections::HashMap;

use futures_util::future::BoxFuture;

use super::super::Endpoint;
use super::super::capture;
use super::super::catalog::{Catalog, Described, Parent, Types};
use super::super::publication::Lacking;
use super::super::slot::Plugin;
use super::log::Recorded;
use super::relation::OwnedRelation;
use crate::connector::Capture;
use crate::data::{Result, TableName};

/// What cannot be taken before the catalog has answered.
pub enum Question {
    /// A relation that is new or has changed.
    Relation(OwnedRelation),
    /// A line of a table that is new or has changed.
    Line(Vec<u8>),
    /// A statement that defines tables.
    Statement(Recorded),
}

/// What became of a message.
pub enum Taken {
    Whole,
    Ask(Question),
}

/// How far a question is.
pub enum Step {
    Done,
    Ask(Request),
}

#[derive(Default)]
pub struct Request {
    /// All tables and what they inherit from.
    pub relations: bool,
    pub tables: Vec<TableName>,
    pub types: Vec<(u32, i32)>,
    /// Texts of types, and the schema that was the current one where they were written.
    pub texts: Vec<String>,
    pub schema: String,
    /// For what and how the tables are sent, where they may have to be sent in another way.
    pub review: Option<(Plugin, Box<Capture>)>,
}

/// What is known by now for one question.
#[derive(Debug, Default)]
pub struct Facts {
    pub relations: Option<Vec<(TableName, Option<Parent>)>>,
    /// More than relations was asked for, and this is all there is to know.
    pub is_complete: bool,
    pub tables: HashMap<TableName, Described>,
    pub types: HashMap<(u32, i32), Types>,
    pub texts: HashMap<String, Types>,
    pub lacking: Vec<Lacking>,
}

pub type Answer = BoxFuture<'static, Result<Facts>>;

/// Asks in a session of its own.
pub fn ask(endpoint: Endpoint, request: Request) -> Answer {
    Box::pin(async move {
        let mut catalog = Catalog::open(&endpoint).await?;
        let mut facts = Facts { is_complete: !request.relations, ..Facts::default() };
        if request.relations {
            facts.relations = Some(catalog.relations().await?);
        }
        facts.tables = catalog.tables(&request.tables).await?;
        if let Some((plugin, capture)) = &request.review {
            let mut client = endpoint.connect().await?;
            facts.lacking = capture::review(&endpoint, &mut client, *plugin, capture, &request.tables).await?;
        }
        facts.types = catalog.types(&request.types).await?;
        facts.texts = catalog.types_of_texts(&request.schema, &request.texts).await?;
        Ok(facts)
    })
}
