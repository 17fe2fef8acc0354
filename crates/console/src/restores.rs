//! The JSON API of restores of services.

use crate::{
    answer::{Body, ProblemSchema, Reply},
    serve::Shared,
};
use anshin_node::view::{RestoreStart, RestoreView};
use axum::{
    Json,
    extract::{Path, State},
};

/// Restores that this node's daemon knows, oldest first.
#[utoipa::path(get, path = "/api/v1/restores", tag = "backup",
    responses((status = 200, body = Vec<RestoreView>), (status = "default", body = ProblemSchema)))]
pub async fn list(State(shared): State<Shared>) -> Reply<Vec<RestoreView>> {
    Ok(Json(shared.control.restore_list().await?))
}

/// Begins to bring a service back on this node: into a directory, or in place where it runs.
#[utoipa::path(post, path = "/api/v1/restores", tag = "backup", request_body = RestoreStart,
    responses((status = 200, body = RestoreView), (status = "default", body = ProblemSchema)))]
pub async fn start(State(shared): State<Shared>, Body(request): Body<RestoreStart>) -> Reply<RestoreView> {
    Ok(Json(shared.control.restore_start(request).await?))
}

/// One restore.
#[utoipa::path(get, path = "/api/v1/restores/{id}", tag = "backup", params(("id" = u64, Path, description = "the restore's number on this node")),
    responses((status = 200, body = RestoreView), (status = "default", body = ProblemSchema)))]
pub async fn show(State(shared): State<Shared>, Path(id): Path<u64>) -> Reply<RestoreView> {
    Ok(Json(shared.control.restore_show(id).await?))
}

/// Ends a restore that goes on. What it was to replace stays as it is.
#[utoipa::path(post, path = "/api/v1/restores/{id}/cancel", tag = "backup", params(("id" = u64, Path, description = "the restore's number on this node")),
    responses((status = 200, body = RestoreView), (status = "default", body = ProblemSchema)))]
pub async fn cancel(State(shared): State<Shared>, Path(id): Path<u64>) -> Reply<RestoreView> {
    Ok(Json(shared.control.restore_cancel(id).await?))
}
