//! Problems as HTTP answers.

use anshin_base::Problem;
use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, Request},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

/// A [`Problem`] in an answer.
#[derive(Debug)]
pub struct Refusal(pub Problem);

/// What an API handler returns.
pub type Reply<T> = Result<Json<T>, Refusal>;

/// A request that was refused or failed. The same as on the command line: a stable code, what failed on what and why,
/// and what to do.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "describes the JSON of anshin_base::Problem, which is what is sent")]
pub struct ProblemSchema {
    /// Stable, kebab-case.
    code: String,
    /// What failed, on what, and why.
    message: String,
    /// What to do about it.
    hint: Option<String>,
    /// True if carrying out the request could have lost data.
    refused_for_safety: bool,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

/// The HTTP status that fits a problem, by the rule in [`anshin_node::control`].
pub fn status_of(problem: &Problem) -> StatusCode {
    if problem.refused_for_safety {
        return StatusCode::CONFLICT;
    }
    let code = problem.code.as_str();
    match code.rsplit('-').next().unwrap_or(code) {
        _ if code == "method-unknown" => StatusCode::METHOD_NOT_ALLOWED,
        _ if code == "no-quorum" || code == "not-ready" => StatusCode::SERVICE_UNAVAILABLE,
        "unreachable" | "timeout" => StatusCode::SERVICE_UNAVAILABLE,
        "unknown" => StatusCode::NOT_FOUND,
        "exists" | "busy" => StatusCode::CONFLICT,
        "invalid" | "format" => StatusCode::UNPROCESSABLE_ENTITY,
        "forbidden" => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = status_of(&self.0);
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::warn!(code = self.0.code, "request failed: {}", self.0.message);
        }
        (status, Json(self.0)).into_response()
    }
}

/// A JSON body. Unlike axum's own it answers with a [`Problem`], and it insists on the content type, which no web page
/// of another origin can send without asking first.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let kind =
            request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if kind.split(';').next().map(str::trim) != Some("application/json") {
            let problem =
                Problem::new("content-type-invalid", "the request's content type is not application/json");
            return Err(problem.into());
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            Problem::new("body-invalid", format!("the request's body cannot be read: {error}"))
        })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Problem::new("body-invalid", format!("the request's body is not as expected: {error}")).into()
        })
    }
}
