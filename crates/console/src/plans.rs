//! The JSON API of plans and their runs.

use crate::{
    answer::{Body, ProblemSchema, Reply},
    serve::Shared,
};
use anshin_node::view::{
    CalendarEntry, CatalogRebuilt, EndedRunView, PlanRun, PlanSet, PlanView, RetentionView, RunCancel,
    RunList, RunShow, RunsOpened,
};
use axum::{
    Json,
    extract::{Path, State},
};

/// Every plan.
#[utoipa::path(get, path = "/api/v1/plans", tag = "backup",
    responses((status = 200, body = Vec<PlanView>), (status = "default", body = ProblemSchema)))]
pub async fn list(State(shared): State<Shared>) -> Reply<Vec<PlanView>> {
    Ok(Json(shared.control.plan_list().await?))
}

/// Adds plans; all of them or none.
#[utoipa::path(post, path = "/api/v1/plans", tag = "backup", request_body = PlanSet,
    responses((status = 200, body = Vec<PlanView>), (status = "default", body = ProblemSchema)))]
pub async fn add(State(shared): State<Shared>, Body(request): Body<PlanSet>) -> Reply<Vec<PlanView>> {
    Ok(Json(shared.control.plan_add(request).await?))
}

/// One plan.
#[utoipa::path(get, path = "/api/v1/plans/{name}", tag = "backup", params(("name" = String, Path, description = "the plan")),
    responses((status = 200, body = PlanView), (status = "default", body = ProblemSchema)))]
pub async fn show(State(shared): State<Shared>, Path(name): Path<String>) -> Reply<PlanView> {
    Ok(Json(shared.control.plan_show(&name).await?))
}

/// Replaces a plan.
#[utoipa::path(put, path = "/api/v1/plans/{name}", tag = "backup", request_body = PlanSet,
    params(("name" = String, Path, description = "the plan")),
    responses((status = 200, body = PlanView), (status = "default", body = ProblemSchema)))]
pub async fn replace(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<PlanSet>,
) -> Reply<PlanView> {
    Ok(Json(shared.control.plan_replace(&name, request).await?))
}

/// Removes a plan and cancels its open runs. Its snapshots stay.
#[utoipa::path(delete, path = "/api/v1/plans/{name}", tag = "backup", params(("name" = String, Path, description = "the plan")),
    responses((status = 200, description = "removed"), (status = "default", body = ProblemSchema)))]
pub async fn remove(State(shared): State<Shared>, Path(name): Path<String>) -> Reply<()> {
    Ok(Json(shared.control.plan_remove(&name).await?))
}

/// Runs a plan now.
#[utoipa::path(post, path = "/api/v1/plans/{name}/runs", tag = "backup", request_body = PlanRun,
    params(("name" = String, Path, description = "the plan")),
    responses((status = 200, body = RunsOpened), (status = "default", body = ProblemSchema)))]
pub async fn run(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Body(request): Body<PlanRun>,
) -> Reply<RunsOpened> {
    Ok(Json(shared.control.plan_run(&name, request).await?))
}

/// Open runs, and those that ended last.
#[utoipa::path(get, path = "/api/v1/runs", tag = "backup",
    responses((status = 200, body = RunList), (status = "default", body = ProblemSchema)))]
pub async fn runs(State(shared): State<Shared>) -> Reply<RunList> {
    Ok(Json(shared.control.run_list().await?))
}

/// One run.
#[utoipa::path(get, path = "/api/v1/runs/{id}", tag = "backup", params(("id" = u64, Path, description = "the run's number")),
    responses((status = 200, body = RunShow), (status = "default", body = ProblemSchema)))]
pub async fn run_show(State(shared): State<Shared>, Path(run): Path<u64>) -> Reply<RunShow> {
    Ok(Json(shared.control.run_show(run).await?))
}

/// Cancels a run that has not ended.
#[utoipa::path(post, path = "/api/v1/runs/{id}/cancel", tag = "backup", request_body = RunCancel,
    params(("id" = u64, Path, description = "the run's number")),
    responses((status = 200, body = EndedRunView), (status = "default", body = ProblemSchema)))]
pub async fn run_cancel(
    State(shared): State<Shared>,
    Path(run): Path<u64>,
    Body(request): Body<RunCancel>,
) -> Reply<EndedRunView> {
    Ok(Json(shared.control.run_cancel(run, request).await?))
}

/// Lets a run that waits for its next attempt try again now.
#[utoipa::path(post, path = "/api/v1/runs/{id}/hasten", tag = "backup", params(("id" = u64, Path, description = "the run's number")),
    responses((status = 200, body = RunShow), (status = "default", body = ProblemSchema)))]
pub async fn run_hasten(State(shared): State<Shared>, Path(run): Path<u64>) -> Reply<RunShow> {
    Ok(Json(shared.control.run_hasten(run).await?))
}

/// Runs of the last and the next seven days, oldest first.
#[utoipa::path(get, path = "/api/v1/calendar", tag = "backup",
    responses((status = 200, body = Vec<CalendarEntry>), (status = "default", body = ProblemSchema)))]
pub async fn calendar(State(shared): State<Shared>) -> Reply<Vec<CalendarEntry>> {
    Ok(Json(shared.control.calendar().await?))
}

/// What the rules of a plan say of the snapshots that are there.
#[utoipa::path(get, path = "/api/v1/plans/{name}/retention", tag = "backup", params(("name" = String, Path, description = "the plan")),
    responses((status = 200, body = Vec<RetentionView>), (status = "default", body = ProblemSchema)))]
pub async fn retention(State(shared): State<Shared>, Path(name): Path<String>) -> Reply<Vec<RetentionView>> {
    Ok(Json(shared.control.retention(&name).await?))
}

/// Makes this node's catalog anew from the ledger and the vaults.
#[utoipa::path(post, path = "/api/v1/catalog/rebuild", tag = "backup",
    responses((status = 200, body = CatalogRebuilt), (status = "default", body = ProblemSchema)))]
pub async fn catalog_rebuild(State(shared): State<Shared>) -> Reply<CatalogRebuilt> {
    Ok(Json(shared.control.catalog_rebuild().await?))
}
