//! `synch_*`: consistent points that applications mark.

use serde::Deserialize;
use serde_json::Value;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::NoParams;
use crate::volume::SynchInfo;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("synch_create", "Marks this moment of every volume with a label and details.", create)
            .changing(),
        Method::on_reactor("synch_list", "Every synch of the log, oldest first.", list),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    label: String,
    #[serde(default)]
    details: Value,
}

async fn create(app: App, params: CreateParams) -> Result<SynchInfo, RpcError> {
    Ok(app.pool()?.create_synch(params.label, params.details).await?)
}

fn list(app: &App, _: NoParams) -> Result<Vec<SynchInfo>, RpcError> {
    Ok(app.pool()?.synchs())
}
