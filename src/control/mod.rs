//! The control plane: what each operation of the API does. One file per resource family.
//!
//! Handlers take typed requests that have been validated against the model, and answer JSON text. They never set a
//! status by hand: `status` says what follows what.

mod catalog;
mod connection;
mod context;
mod endpoint;
mod endpoint_settings;
mod event;
mod identifier;
mod instance;
mod listing;
mod metrics;
mod running;
mod schema;
mod statistics;
mod status;
mod subnet_group;
mod tag;
mod task;

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::api::{self, Fault, Operation};
use crate::store::{Kind, Owner, Store};
use context::{Context, Shared};

pub use context::Settings;

/// The JSON text of an answer, or a fault.
pub type Answer = Result<String, Fault>;

/// The table of contents: every operation that is built, and its handler. All others answer 501.
macro_rules! operations {
    ($($operation:ident => $handler:path,)+) => {
        /// Operations that are built, in the order of the table.
        pub const BUILT: &[Operation] = &[$(Operation::$operation),+];

        async fn dispatch(context: &Context, operation: Operation, body: Json) -> Answer {
            match operation {
                $(Operation::$operation => handle(context, body, $handler).await,)+
                other => Err(Fault::not_implemented(other)),
            }
        }
    };
}

operations! {
    CreateReplicationInstance => instance::create,
    DescribeReplicationInstances => instance::describe,
    ModifyReplicationInstance => instance::modify,
    RebootReplicationInstance => instance::reboot,
    DeleteReplicationInstance => instance::delete,
    DescribeOrderableReplicationInstances => catalog::orderable_instances,
    DescribeEngineVersions => catalog::engine_versions,
    CreateReplicationSubnetGroup => subnet_group::create,
    DescribeReplicationSubnetGroups => subnet_group::describe,
    ModifyReplicationSubnetGroup => subnet_group::modify,
    DeleteReplicationSubnetGroup => subnet_group::delete,
    CreateEndpoint => endpoint::create,
    DescribeEndpoints => endpoint::describe,
    ModifyEndpoint => endpoint::modify,
    DeleteEndpoint => endpoint::delete,
    DescribeEndpointTypes => catalog::endpoint_types,
    DescribeEndpointSettings => endpoint_settings::describe,
    TestConnection => connection::test,
    DescribeConnections => connection::describe,
    DeleteConnection => connection::delete,
    RefreshSchemas => schema::refresh,
    DescribeRefreshSchemasStatus => schema::status,
    DescribeSchemas => schema::describe,
    CreateReplicationTask => task::create,
    DescribeReplicationTasks => task::describe,
    ModifyReplicationTask => task::modify,
    StartReplicationTask => task::start,
    StopReplicationTask => task::stop,
    DeleteReplicationTask => task::delete,
    DescribeTableStatistics => statistics::describe,
    ReloadTables => statistics::reload,
    DescribeEvents => event::describe,
    DescribeEventCategories => event::categories,
    AddTagsToResource => tag::add,
    RemoveTagsFromResource => tag::remove,
    ListTagsForResource => tag::list,
    DescribeAccountAttributes => catalog::account_attributes,
}

async fn handle<R: DeserializeOwned>(
    context: &Context,
    body: Json,
    handler: impl AsyncFnOnce(&Context, R) -> Answer,
) -> Answer {
    handler(context, api::decode(body)?).await
}

/// The control plane as the server calls it.
pub struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Takes up what an earlier process left: tests and changes under way, tasks that were running.
    pub async fn start(store: Store, settings: Settings) -> Result<Control, Fault> {
        let control = Control { shared: Shared::new(store, settings) };
        control.recover().await?;
        Ok(control)
    }

    async fn recover(&self) -> Result<(), Fault> {
        let store = &self.shared.store;
        let transient = ["creating", "modifying", "upgrading", "rebooting", "deleting"];
        for found in store.in_status(Kind::ReplicationInstance, &transient).await? {
            instance::settle(&self.shared.context(found.owner), &found.arn).await?;
        }
        for (kind, status) in [(Kind::Connection, "testing"), (Kind::Schemas, "refreshing")] {
            for found in store.in_status(kind, &[status]).await? {
                let context = self.shared.context(found.owner.clone());
                let endpoint = found.body["EndpointArn"].as_str().unwrap_or_default();
                let endpoint = endpoint::find(&context, "EndpointArn", endpoint).await?;
                match kind {
                    Kind::Connection => connection::resume(&context, found.arn, endpoint),
                    _ => schema::resume(&context, found.arn, endpoint),
                }
            }
        }
        for found in store.in_status(Kind::ReplicationTask, &task::INTERRUPTED).await? {
            task::recover(&self.shared.context(found.owner.clone()), &found).await?;
        }
        Ok(())
    }

    /// Carries out one operation for an account in a region; the body has been validated against the model.
    pub async fn call(&self, owner: Owner, operation: Operation, body: Json) -> Answer {
        dispatch(&self.shared.context(owner), operation, body).await
    }

    /// How the tasks that run here get on.
    pub async fn metrics(&self) -> String {
        metrics::text(&self.shared).await
    }

    /// Stops all tasks and forgets everything, for test suites.
    pub async fn reset(&self) -> Result<(), Fault> {
        self.shared.abort_tasks();
        self.shared.store.reset().await?;
        Ok(())
    }

    /// Ends the running tasks and closes the store. The tasks stay `running` in it: the next start resumes them.
    pub async fn stop(&self) {
        self.shared.abort_tasks();
        self.shared.store.close().await;
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Fault {
        Fault::internal(format!("the store failed: {error}"))
    }
}
