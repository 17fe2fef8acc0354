//! The description of the API, made from its code and committed beside it.

use crate::{api, live, plans, restores};
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "anshin",
        description = "The API of one node. Complete on its Unix socket /run/anshin/api.sock; on 127.0.0.1 it only reads.",
        license(name = "Apache-2.0 OR MIT")
    ),
    paths(
        api::status,
        live::events,
        api::token_list,
        api::token_create,
        api::token_revoke,
        api::volume_list,
        api::volume_create,
        api::service_list,
        api::service_create,
        api::service_show,
        api::service_move,
        api::service_set_state,
        api::node_set_state,
        api::set_timing,
        api::explain,
        api::drill,
        plans::list,
        plans::add,
        plans::show,
        plans::replace,
        plans::remove,
        plans::run,
        plans::runs,
        plans::run_show,
        plans::run_cancel,
        plans::run_hasten,
        plans::calendar,
        plans::retention,
        plans::catalog_rebuild,
        restores::list,
        restores::start,
        restores::show,
        restores::cancel,
        api::openapi,
    )
)]
struct Description;

/// Where the committed description lies.
#[must_use]
pub fn path() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api/openapi.json")
}

/// The description as it follows from the code.
///
/// # Panics
/// Never: the description is made of texts only.
#[must_use]
pub fn openapi_json() -> String {
    let mut text = Description::openapi().to_pretty_json().expect("invariant: plain texts become JSON");
    text.push('\n');
    text
}
