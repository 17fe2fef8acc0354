//! The JSON API: each handler passes its request on and sends the answer.

use crate::{
    answer::{Body, ProblemSchema, Reply},
    openapi,
    serve::Shared,
};
use anshin_node::view::{
    DrillReport, DrillRequest, Explanation, JoinToken, JoinTokenInfo, JoinTokenRequest, NodeStateChange,
    NodeView, ServiceCreate, ServiceMove, ServiceStateChange, ServiceView, SiteStatus, Times, TimingChange,
    VolumeCreate, VolumeView,
};
use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::IntoResponse,
};

/// What this node knows of the site now, with its posture. Answers without quorum too.
#[utoipa::path(get, path = "/api/v1/status", tag = "site",
    responses((status = 200, body = SiteStatus), (status = "default", body = ProblemSchema)))]
pub async fn status(State(shared): State<Shared>) -> Reply<SiteStatus> {
    Ok(Json(shared.control.status().await?))
}

/// Tokens neither used nor expired.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens",
    responses((status = 200, body = Vec<JoinTokenInfo>), (status = "default", body = ProblemSchema)))]
pub async fn token_list(State(shared): State<Shared>) -> Reply<Vec<JoinTokenInfo>> {
    Ok(Json(shared.control.join_tokens().await?))
}

/// Makes a token with which one node can join.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = JoinTokenRequest,
    responses((status = 200, body = JoinToken), (status = "default", body = ProblemSchema)))]
pub async fn token_create(
    State(shared): State<Shared>,
    Body(request): Body<JoinTokenRequest>,
) -> Reply<JoinToken> {
    Ok(Json(shared.control.create_join_token(request).await?))
}

/// Takes a token back.
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "the token's id")),
    responses((status = 200, description = "taken back"), (status = "default", body = ProblemSchema)))]
pub async fn token_revoke(State(shared): State<Shared>, Path(id): Path<String>) -> Reply<()> {
    Ok(Json(shared.control.revoke_join_token(&id).await?))
}

/// Every volume.
#[utoipa::path(get, path = "/api/v1/volumes", tag = "volumes",
    responses((status = 200, body = Vec<VolumeView>), (status = "default", body = ProblemSchema)))]
pub async fn volume_list(State(shared): State<Shared>) -> Reply<Vec<VolumeView>> {
    Ok(Json(shared.control.volume_list().await?))
}

/// Makes a volume.
#[utoipa::path(post, path = "/api/v1/volumes", tag = "volumes", request_body = VolumeCreate,
    responses((status = 200, body = VolumeView), (status = "default", body = ProblemSchema)))]
pub async fn volume_create(
    State(shared): State<Shared>,
    Body(request): Body<VolumeCreate>,
) -> Reply<VolumeView> {
    Ok(Json(shared.control.volume_create(request).await?))
}

/// Every service.
#[utoipa::path(get, path = "/api/v1/services", tag = "services",
    responses((status = 200, body = Vec<ServiceView>), (status = "default", body = ProblemSchema)))]
pub async fn service_list(State(shared): State<Shared>) -> Reply<Vec<ServiceView>> {
    Ok(Json(shared.control.service_list().await?))
}

/// Makes a service.
#[utoipa::path(post, path = "/api/v1/services", tag = "services", request_body = ServiceCreate,
    responses((status = 200, body = ServiceView), (status = "default", body = ProblemSchema)))]
pub async fn service_create(
    State(shared): State<Shared>,
    Body(request): Body<ServiceCreate>,
) -> Reply<ServiceView> {
    Ok(Json(shared.control.service_create(request).await?))
}

/// One service.
#[utoipa::path(get, path = "/api/v1/services/{name}", tag = "services", params(("name" = String, Path, description = "the service")),
    responses((status = 200, body = ServiceView), (status = "default", body = ProblemSchema)))]
pub async fn service_show(State(shared): State<Shared>, Path(name): Path<String>) -> Reply<ServiceView> {
    Ok(Json(shared.control.service_show(&name).await?))
}

/// Moves a service to another node.
#[utoipa::path(post, path = "/api/v1/services/{name}/move", tag = "services", request_body = ServiceMove,
    params(("name" = String, Path, description = "the service")),
    responses((status = 200, body = ServiceView), (status = "default", body = ProblemSchema)))]
pub async fn service_move(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<ServiceMove>,
) -> Reply<ServiceView> {
    Ok(Json(shared.control.service_move(&name, request).await?))
}

/// Starts or stops a service.
#[utoipa::path(put, path = "/api/v1/services/{name}/state", tag = "services", request_body = ServiceStateChange,
    params(("name" = String, Path, description = "the service")),
    responses((status = 200, body = ServiceView), (status = "default", body = ProblemSchema)))]
pub async fn service_set_state(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<ServiceStateChange>,
) -> Reply<ServiceView> {
    Ok(Json(shared.control.service_set_state(&name, request).await?))
}

/// Changes what a node should be doing.
#[utoipa::path(put, path = "/api/v1/nodes/{name}/state", tag = "nodes", request_body = NodeStateChange,
    params(("name" = String, Path, description = "the node")),
    responses((status = 200, body = NodeView), (status = "default", body = ProblemSchema)))]
pub async fn node_set_state(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<NodeStateChange>,
) -> Reply<NodeView> {
    Ok(Json(shared.control.node_set_state(&name, request).await?))
}

/// Changes the times that the site runs by.
#[utoipa::path(put, path = "/api/v1/site/timing", tag = "site", request_body = TimingChange,
    responses((status = 200, body = Times), (status = "default", body = ProblemSchema)))]
pub async fn set_timing(State(shared): State<Shared>, Body(request): Body<TimingChange>) -> Reply<Times> {
    Ok(Json(shared.control.set_timing(request).await?))
}

/// Why a node, volume or service is as it is.
#[utoipa::path(get, path = "/api/v1/explain/{subject}", tag = "site",
    params(("subject" = String, Path, description = "a node, volume or service")),
    responses((status = 200, body = Explanation), (status = "default", body = ProblemSchema)))]
pub async fn explain(State(shared): State<Shared>, Path(subject): Path<String>) -> Reply<Explanation> {
    Ok(Json(shared.control.explain(&subject).await?))
}

/// Rehearses a failover.
#[utoipa::path(post, path = "/api/v1/drills", tag = "services", request_body = DrillRequest,
    responses((status = 200, body = DrillReport), (status = "default", body = ProblemSchema)))]
pub async fn drill(State(shared): State<Shared>, Body(request): Body<DrillRequest>) -> Reply<DrillReport> {
    Ok(Json(shared.control.drill(request).await?))
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "site", responses((status = 200, content_type = "application/json")))]
pub async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], openapi::openapi_json())
}
