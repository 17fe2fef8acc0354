//! The console in a real browser. Needs Chromium, so it runs only when asked for:
//! `cargo nextest run --release -p anshin-console --run-ignored only`. With `ANSHIN_SCREENSHOTS=DIR` it keeps what it saw.

use super::{SCENARIOS, facts, fixed_node::FixedNode};
use crate::{Surface, router};
use anshin_node::view::SiteStatus;
use axum::{
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Widths from the smallest phone to a desk.
const WIDTHS: [(&str, u32, u32); 2] = [("phone", 375, 2600), ("desk", 1200, 1700)];

async fn serve(name: &str) -> (Arc<FixedNode>, SocketAddr) {
    let node = FixedNode::new(facts(name));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(Arc::clone(&node) as Arc<_>, Surface::Loopback);
    tokio::spawn(async move { axum::serve(listener, app).await });
    (node, address)
}

fn chromium(profile: &Path, more: &[String]) -> Output {
    let program = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".to_owned());
    let fixed = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
    ];
    let mut command = Command::new(program);
    command.args(fixed).arg(format!("--user-data-dir={}", profile.display())).args(more);
    command.output().expect("chromium is installed")
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("anshin-console-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn a_browser_shows_every_scenario_light_and_dark_narrow_and_wide() {
    let profile = scratch("shots");
    let kept = std::env::var_os("ANSHIN_SCREENSHOTS").map_or_else(|| profile.join("shots"), PathBuf::from);
    std::fs::create_dir_all(&kept).unwrap();
    for name in SCENARIOS {
        let (_node, address) = serve(name).await;
        for (width_name, width, height) in WIDTHS {
            for (tone, scheme) in [("light", 1), ("dark", 0)] {
                let picture = kept.join(format!("{name}-{width_name}-{tone}.png"));
                let more = [
                    format!("--blink-settings=preferredColorScheme={scheme}"),
                    format!("--window-size={width},{height}"),
                    format!("--screenshot={}", picture.display()),
                    format!("http://{address}/"),
                ];
                let output = tokio::task::spawn_blocking({
                    let profile = profile.clone();
                    move || chromium(&profile, &more)
                });
                let output = output.await.unwrap();
                let size = std::fs::metadata(&picture).map_or(0, |file| file.len());
                assert!(size > 10_000, "{name}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
    }
    std::fs::remove_dir_all(profile).unwrap();
}

/// Serves a page that changes from one scenario to the next while it is open, and gives what a browser made of it.
async fn followed(
    name: &str,
    from: (&'static str, &'static str),
    to: (&'static str, &'static str),
) -> String {
    let profile = scratch(name);
    let node = FixedNode::new(facts(from.0));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(Arc::clone(&node) as Arc<_>, Surface::Loopback);
    let stream = Arc::new(Finite { node, used: AtomicBool::new(false), from, to });
    let app = app.layer(middleware::from_fn_with_state(stream, one_finite_stream));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let more =
        ["--dump-dom".to_owned(), "--virtual-time-budget=9000".to_owned(), format!("http://{address}/")];
    let browser = tokio::task::spawn_blocking({
        let profile = profile.clone();
        move || chromium(&profile, &more)
    });
    let output = browser.await.unwrap();
    std::fs::remove_dir_all(profile).unwrap();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!dom.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    dom
}

/// The page arrives, its script runs under the policy, and follows the stream: it shows a state that it was not served
/// with. When the stream ends and does not come back, the page says that what it shows is old.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn a_browser_follows_the_node_without_a_reload_and_notices_its_silence() {
    let dom =
        followed("live", ("healthy", "any one server may die now"), ("suspended", "bring back b or c")).await;
    let expected = SiteStatus::from_facts(facts("suspended")).posture.sentence;
    assert!(dom.contains(&expected), "{dom}");
    assert!(dom.contains("<body class=\"silent\">") && !dom.contains("role=\"alert\" hidden"), "{dom}");
}

/// Backups, drills, runs and the calendar are part of what is followed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium"]
async fn a_browser_sees_a_backup_turn_bad() {
    let dom = followed(
        "backups",
        ("backed-up", "the newest good backup is 11 hours old"),
        ("backup-failing", "3 objects of the vault are damaged"),
    )
    .await;
    for wanted in [
        "broken",
        "Backup of service/postgresql",
        "Calendar of runs",
        "22:03 failed: the vault was full",
        "44 files/a",
    ] {
        assert!(dom.contains(wanted), "{wanted}: {dom}");
    }
}

struct Finite {
    node: Arc<FixedNode>,
    used: AtomicBool,
    from: (&'static str, &'static str),
    to: (&'static str, &'static str),
}

/// The browser's clock stands while a request is open, so it gets the real stream up to a change of the site, cut off
/// there, and nothing afterwards.
async fn one_finite_stream(State(stream): State<Arc<Finite>>, request: Request, next: Next) -> Response {
    if request.uri().path() != "/live" {
        return next.run(request).await;
    }
    if stream.used.swap(true, Ordering::SeqCst) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (head, mut body) = next.run(request).await.into_parts();
    let mut seen = String::new();
    for (state, wanted) in [(None, stream.from.1), (Some(stream.to.0), stream.to.1)] {
        if let Some(state) = state {
            *stream.node.facts.lock().unwrap() = facts(state);
            stream.node.events.send(facts("node-dead").recent[0].clone()).unwrap();
        }
        while !seen.contains(wanted) {
            let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
            seen += std::str::from_utf8(&frame).unwrap();
        }
    }
    Response::from_parts(head, Body::from(seen))
}
