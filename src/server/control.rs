//! The control plane as the application behind the wire.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Application, Call};
use crate::api::{Fault, Operation};
use crate::control::{self, Control};
use crate::store::Owner;

#[async_trait]
impl Application for Control {
    fn carries_out(&self, operation: Operation) -> bool {
        control::BUILT.contains(&operation)
    }

    async fn call(&self, call: Call) -> Result<String, Fault> {
        let owner = Owner { account: call.scope.account, region: call.scope.region };
        Control::call(self, owner, call.operation, call.body).await
    }

    async fn health(&self) -> Value {
        json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })
    }

    async fn metrics(&self) -> String {
        Control::metrics(self).await
    }

    async fn reset(&self) -> Result<(), Fault> {
        Control::reset(self).await
    }
}
