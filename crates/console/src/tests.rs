//! What the API and the page promise, asked of the router as a client would ask.

mod browser;
mod fixed_node;
mod fixed_plans;

use crate::{Surface, openapi_json, openapi_path, page, router};
use anshin_base::Problem;
use anshin_node::view::*;
use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use fixed_node::FixedNode;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

fn facts(name: &str) -> Facts {
    let path = format!("{}/../node/fixtures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

const SCENARIOS: [&str; 8] = [
    "healthy",
    "node-dead",
    "witness-dead",
    "resyncing",
    "suspended",
    "no-quorum",
    "backed-up",
    "backup-failing",
];

fn over(surface: Surface, name: &str) -> (Arc<FixedNode>, Router) {
    let node = FixedNode::new(facts(name));
    (Arc::clone(&node), router(node, surface))
}

async fn send(router: &Router, request: Request<Body>) -> Response<Body> {
    router.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).header(header::HOST, "127.0.0.1:7880").body(Body::empty()).unwrap()
}

async fn change(router: &Router, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    let request = request.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string()));
    let response = send(router, request.unwrap()).await;
    let status = response.status();
    (status, serde_json::from_str(&text(response).await).unwrap())
}

#[tokio::test]
async fn the_status_is_what_the_node_says_with_its_posture() {
    for name in SCENARIOS {
        let (_, router) = over(Surface::Loopback, name);
        let response = send(&router, get("/api/v1/status")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let status: SiteStatus = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(status, SiteStatus::from_facts(facts(name)));
    }
}

#[tokio::test]
async fn every_change_reaches_the_node_over_its_socket() {
    let (node, router) = over(Surface::UnixSocket, "healthy");
    let volume = json!({"name": "more", "size_bytes": 1024, "mount": null, "filesystem": null});
    let service = json!({"name": "web", "program": {"kind": "systemd", "unit": "web.service"}, "volumes": ["data"],
        "address": "10.0.0.51/24", "prefer": null});
    let changes = [
        ("POST", "/api/v1/tokens", json!({"valid_s": 60})),
        ("DELETE", "/api/v1/tokens/t1", json!({})),
        ("POST", "/api/v1/volumes", volume),
        ("POST", "/api/v1/services", service),
        ("POST", "/api/v1/services/postgresql/move", json!({"to": "b"})),
        ("PUT", "/api/v1/services/postgresql/state", json!({"state": "stopped"})),
        ("PUT", "/api/v1/nodes/a/state", json!({"state": "standby"})),
        ("PUT", "/api/v1/site/timing", json!({"silence_ms": 2_500})),
        ("POST", "/api/v1/plans", json!({"toml": "name = 'x'"})),
        ("PUT", "/api/v1/plans/nightly", json!({"toml": "name = 'nightly'", "revision": 3})),
        ("DELETE", "/api/v1/plans/old", json!({})),
        ("POST", "/api/v1/plans/nightly/runs", json!({"targets": ["service/postgresql"]})),
    ];
    for (method, path, body) in &changes {
        let (status, answer) = change(&router, method, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    }
    insta::assert_snapshot!(node.asked.lock().unwrap().join("\n"));
}

#[tokio::test]
async fn problems_come_as_json_with_a_fitting_status() {
    let (_, router) = over(Surface::UnixSocket, "healthy");
    let cases = [
        ("GET", "/api/v1/services/nope", json!({}), 404, "service-unknown"),
        ("GET", "/api/v1/nope", json!({}), 404, "path-unknown"),
        ("DELETE", "/api/v1/status", json!({}), 405, "method-unknown"),
        ("POST", "/api/v1/services/postgresql/move", json!({"to": "c"}), 409, "no-current-copy"),
        (
            "POST",
            "/api/v1/volumes",
            json!({"name": "data", "size_bytes": 1, "mount": null, "filesystem": null}),
            409,
            "volume-exists",
        ),
        ("POST", "/api/v1/volumes", json!({"name": 1}), 422, "body-invalid"),
        ("PUT", "/api/v1/nodes/z/state", json!({"state": "active"}), 503, "no-quorum"),
        ("POST", "/api/v1/drills", json!({}), 500, "drill-failed"),
    ];
    for (method, path, body, status, code) in &cases {
        let (got, problem) = change(&router, method, path, body).await;
        assert_eq!((got.as_u16(), problem["code"].as_str()), (*status, Some(*code)), "{path}: {problem}");
        let problem: Problem = serde_json::from_value(problem).unwrap();
        assert_eq!(problem.refused_for_safety, *code == "no-current-copy");
    }
}

#[tokio::test]
async fn a_body_that_is_no_json_or_too_long_is_refused() {
    let (node, router) = over(Surface::UnixSocket, "healthy");
    let form = Request::post("/api/v1/tokens").body(Body::from("{}")).unwrap();
    assert_eq!(send(&router, form).await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let long = Request::post("/api/v1/tokens").header(header::CONTENT_TYPE, "application/json");
    let long = long.body(Body::from(" ".repeat(70_000))).unwrap();
    assert_eq!(send(&router, long).await.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_loopback_address_changes_nothing() {
    let (node, router) = over(Surface::Loopback, "healthy");
    for (method, path) in [
        ("POST", "/api/v1/tokens"),
        ("DELETE", "/api/v1/tokens/t1"),
        ("POST", "/api/v1/services/postgresql/move"),
        ("PUT", "/api/v1/nodes/a/state"),
        ("PUT", "/api/v1/site/timing"),
        ("POST", "/api/v1/drills"),
        ("POST", "/api/v1/plans"),
        ("DELETE", "/api/v1/plans/nightly"),
        ("POST", "/api/v1/plans/nightly/runs"),
        ("POST", "/api/v1/runs/7/cancel"),
    ] {
        let (status, problem) = change(&router, method, path, &json!({"state": "standby"})).await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (StatusCode::FORBIDDEN, Some("change-forbidden")),
            "{path}"
        );
    }
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn reading_changes_nothing() {
    let (node, router) = over(Surface::UnixSocket, "healthy");
    for path in [
        "/",
        "/api/v1/status",
        "/api/v1/tokens",
        "/api/v1/volumes",
        "/api/v1/services",
        "/api/v1/explain/a",
        "/api/v1/plans",
        "/api/v1/plans/nightly",
        "/api/v1/runs",
        "/api/v1/calendar",
    ] {
        assert_eq!(send(&router, get(path)).await.status(), StatusCode::OK, "{path}");
    }
    for path in ["/api/v1/services/postgresql/move", "/api/v1/drills", "/api/v1/nodes/a/state"] {
        assert_eq!(send(&router, get(path)).await.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert!(node.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stranger_s_name_or_page_gets_no_answer_on_loopback() {
    let (_, router) = over(Surface::Loopback, "healthy");
    let host =
        |name: &str| Request::get("/api/v1/status").header(header::HOST, name).body(Body::empty()).unwrap();
    assert_eq!(send(&router, host("evil.example")).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(send(&router, host("localhost:9000")).await.status(), StatusCode::OK);
    let nameless = Request::get("/").body(Body::empty()).unwrap();
    assert_eq!(send(&router, nameless).await.status(), StatusCode::FORBIDDEN);
    let mut request = get("/api/v1/status");
    request.headers_mut().insert(header::ORIGIN, "http://evil.example".parse().unwrap());
    assert_eq!(send(&router, request).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_page_and_refusals_carry_a_strict_content_policy() {
    let (_, router) = over(Surface::Loopback, "healthy");
    for path in ["/", "/assets/console.js", "/nope"] {
        let response = send(&router, get(path)).await;
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}

/// The policy forbids it, so the page must not rely on it; and nothing comes from elsewhere.
#[test]
fn the_page_has_no_inline_script_or_style_and_names_no_other_place() {
    for name in SCENARIOS {
        let html = page::render_page(&SiteStatus::from_facts(facts(name))).unwrap();
        for bad in ["<style", " style=", "onclick", "javascript:", "http://", "https://", "<form"] {
            assert!(!html.contains(bad), "{name}: {bad}");
        }
        assert_eq!(html.matches("<script").count(), 1);
    }
}

#[test]
fn names_from_the_site_cannot_become_markup() {
    let mut hostile = facts("healthy");
    hostile.site = "<script>alert(1)</script>".to_owned();
    hostile.services[0].why = "\"><img src=x>".to_owned();
    let html = page::render_page(&SiteStatus::from_facts(hostile)).unwrap();
    assert!(!html.contains("<script>alert") && !html.contains("<img"));
}

#[test]
fn the_page_of_each_scenario() {
    for name in SCENARIOS {
        insta::assert_snapshot!(name, page::render_page(&SiteStatus::from_facts(facts(name))).unwrap());
    }
}

#[test]
fn a_new_site_is_taught_the_next_commands() {
    let mut fresh = facts("healthy");
    fresh.services.clear();
    fresh.volumes.clear();
    fresh.nodes.truncate(1);
    let html = page::render_page(&SiteStatus::from_facts(fresh)).unwrap();
    assert!(html.contains("anshin token create") && html.contains("anshin volume create"));
}

#[tokio::test]
async fn the_page_is_pushed_at_once_and_again_when_something_happens() {
    let (node, router) = over(Surface::Loopback, "healthy");
    let response = send(&router, get("/live")).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let mut seen = String::new();
    let mut read_until = async |wanted: &str| {
        while !seen.contains(wanted) {
            let frame = body.frame().await.unwrap().unwrap();
            seen += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
        }
    };
    read_until("any one server may die now").await;
    *node.facts.lock().unwrap() = facts("node-dead");
    node.events.send(facts("node-dead").recent[0].clone()).unwrap();
    read_until("node a does not answer").await;
    assert!(seen.contains("event: beat"));
}

#[tokio::test]
async fn happenings_are_streamed_as_json() {
    let (node, router) = over(Surface::UnixSocket, "healthy");
    let mut body = send(&router, get("/api/v1/events")).await.into_body();
    let happening = facts("node-dead").recent[0].clone();
    node.events.send(happening.clone()).unwrap();
    let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
    let line =
        std::str::from_utf8(&frame).unwrap().lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Happening>(line).unwrap(), happening);
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let (_, router) = over(Surface::UnixSocket, "healthy");
    let mut held = Vec::new();
    let refused = loop {
        let response = send(&router, get("/live")).await;
        if response.status() != StatusCode::OK || held.len() > 1_000 {
            break response.status();
        }
        held.push(response);
    };
    assert_eq!((refused, held.len()), (StatusCode::CONFLICT, 64));
    held.pop();
    assert_eq!(send(&router, get("/live")).await.status(), StatusCode::OK);
}

#[test]
fn the_committed_description_of_the_api_follows_the_code() {
    let now = openapi_json();
    if std::env::var_os("ANSHIN_REGENERATE").is_some() {
        std::fs::create_dir_all(std::path::Path::new(openapi_path()).parent().unwrap()).unwrap();
        std::fs::write(openapi_path(), &now).unwrap();
    }
    let kept = std::fs::read_to_string(openapi_path()).unwrap_or_default();
    assert!(
        kept == now,
        "docs/api/openapi.json is out of date; regenerate it with\n  \
         ANSHIN_REGENERATE=1 cargo nextest run --release -p anshin-console the_committed_description"
    );
}

#[test]
fn every_path_of_the_api_is_described() {
    let described: Value = serde_json::from_str(&openapi_json()).unwrap();
    let described: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
    let routes = include_str!("serve.rs").lines().filter_map(|line| line.trim().strip_prefix(".route(\""));
    let routes = routes
        .filter_map(|rest| rest.split('"').next())
        .filter(|path| !["/", "/live", "/assets/{name}"].contains(path));
    let mut count = 0;
    for route in routes {
        count += 1;
        assert!(described.contains(&&format!("/api/v1{route}")), "{route} is missing");
    }
    assert_eq!(count, described.len());
}

#[tokio::test]
async fn the_socket_is_the_administrator_s_alone_and_replaces_what_an_earlier_daemon_left() {
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let directory = std::env::temp_dir().join(format!("anshin-console-{}-socket", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("api.sock");
    std::fs::write(&path, "left over").unwrap();
    let served = path.clone();
    let node: Arc<dyn anshin_node::control::Control> = FixedNode::new(facts("healthy"));
    let server = tokio::spawn(async move { crate::serve_unix(&served, node).await });
    let mut stream = loop {
        match tokio::net::UnixStream::connect(&path).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream
        .write_all(b"GET /api/v1/services HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"postgresql\""), "{answer}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    server.abort();
    std::fs::remove_dir_all(directory).unwrap();
}
