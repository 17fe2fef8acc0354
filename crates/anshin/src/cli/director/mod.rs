//! Plans and their runs on the command line.

pub mod args;
mod describe;
mod plan;
mod restore;
mod runs;
mod show;

pub use plan::plan;
pub use restore::{restore, service as service_of_restore};
pub use runs::runs;

use super::{
    client::Client,
    out::{Ending, Out},
};
use anshin_base::Problem;
use anshin_node::view::CatalogRebuilt;

/// Carries out `anshin catalog …`.
///
/// # Errors
/// What the node refused.
pub async fn catalog(command: args::Catalog, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let args::Catalog::Rebuild = command;
    let rebuilt: CatalogRebuilt = client.post("catalog/rebuild", &serde_json::json!({})).await?;
    out.show(&rebuilt, |_| format!("the catalog of this node is made anew from {} facts", rebuilt.facts))?;
    Ok(Ending::Ok)
}

#[cfg(test)]
mod tests;
