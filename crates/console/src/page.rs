//! The web console: one page, a function of the status alone, so that it works in a partition too.

use crate::{
    backups::{self, Grid},
    serve::Shared,
    words::{ENGLISH, Words},
};
use anshin_base::{ByteSize, Problem};
use anshin_node::view::{
    HEARD_MS_MAX, Level, NodeView, ReplicaState, ReplicaView, RunView, ServiceView, SiteStatus, VolumeView,
    age,
};
use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{Html, IntoResponse, Response},
};

#[derive(Template)]
#[template(path = "page.html")]
struct Page<'a> {
    w: &'static Words,
    main: Main<'a>,
}

#[derive(Template)]
#[template(path = "main.html")]
struct Main<'a> {
    w: &'static Words,
    status: &'a SiteStatus,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct NoStatus<'a> {
    w: &'static Words,
    problem: &'a Problem,
}

/// The page.
pub async fn page(State(shared): State<Shared>) -> Response {
    let (code, html) = match shared.control.status().await {
        Ok(status) => (StatusCode::OK, render_page(&status)),
        Err(problem) => {
            (StatusCode::SERVICE_UNAVAILABLE, NoStatus { w: &ENGLISH, problem: &problem }.render())
        }
    };
    match html {
        Ok(html) => (code, Html(html)).into_response(),
        Err(error) => {
            tracing::error!("the page cannot be made: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// The whole page.
pub(crate) fn render_page(status: &SiteStatus) -> askama::Result<String> {
    Page { w: &ENGLISH, main: Main { w: &ENGLISH, status } }.render()
}

/// Its living part.
pub(crate) fn render_main(status: &SiteStatus) -> askama::Result<String> {
    Main { w: &ENGLISH, status }.render()
}

/// `2026-03-02 09:30:00 UTC` for an RFC 3339 time in UTC, and the text itself for any other.
pub(crate) fn clock(at: &str) -> String {
    match (at.get(..10), at.get(10..11), at.get(11..19), at.ends_with('Z')) {
        (Some(day), Some("T"), Some(time), true) => format!("{day} {time} UTC"),
        _ => at.to_owned(),
    }
}

/// How a copy stands, as the table shows it.
struct Copy<'a> {
    replica: &'a ReplicaView,
    level: Level,
    behind: String,
    heard: String,
    /// Percent done and the rest in words, while a resync runs.
    resync: Option<(u64, String)>,
}

impl Main<'_> {
    fn title(&self) -> String {
        let mark = mark(&self.status.posture.level);
        format!("{mark} {} · {} · anshin", self.status.posture.level.word(), self.status.facts.site)
    }

    /// Set when what is shown is what was known last, not what is known now.
    fn old(&self) -> Option<String> {
        let facts = &self.status.facts;
        (!facts.quorate()).then(|| age(facts.quorum.ledger_age_ms))
    }

    /// What the posture says of a subject.
    fn finding(&self, subject: &str) -> (Level, &str) {
        let line = self.status.posture.lines.iter().find(|line| line.subject == subject);
        line.map_or((Level::Unknown, self.w.not_known), |line| (line.level, &line.sentence))
    }

    fn volumes_of(&self, service: &ServiceView) -> Vec<&VolumeView> {
        self.status.facts.volumes.iter().filter(|volume| service.volumes.contains(&volume.name)).collect()
    }

    fn bare_volumes(&self) -> Vec<&VolumeView> {
        let facts = &self.status.facts;
        let carried = |volume: &VolumeView| facts.services.iter().any(|s| s.volumes.contains(&volume.name));
        facts.volumes.iter().filter(|volume| !carried(volume)).collect()
    }

    fn volume_finding(&self, volume: &VolumeView) -> (Level, &str) {
        self.finding(&format!("volume {}", volume.name))
    }

    fn copies<'v>(&self, volume: &'v VolumeView) -> Vec<Copy<'v>> {
        volume.replicas.iter().map(|replica| self.copy(volume, replica)).collect()
    }

    fn copy<'v>(&self, volume: &VolumeView, replica: &'v ReplicaView) -> Copy<'v> {
        let fresh = replica.last_heard_ms.is_some_and(|ms| ms <= HEARD_MS_MAX);
        let level = match replica.state {
            _ if !fresh => Level::Unknown,
            ReplicaState::Primary if volume.suspended.is_some() => Level::Red,
            ReplicaState::Primary | ReplicaState::InSync => Level::Green,
            ReplicaState::Resyncing | ReplicaState::Behind => Level::Amber,
            ReplicaState::Unknown => Level::Unknown,
            ReplicaState::OldImage | ReplicaState::Failed => Level::Red,
        };
        let behind = match replica.behind_bytes {
            Some(0) => self.w.nothing_behind.to_owned(),
            Some(bytes) => format!("{} {}", self.w.at_most, ByteSize(bytes)),
            None => self.w.not_known.to_owned(),
        };
        let resync = replica.resync.as_ref().map(|resync| {
            let w = self.w;
            let left = resync.seconds_left.map(|s| format!(", {} {}", age(s.saturating_mul(1_000)), w.left));
            let percent = resync.done_bytes.saturating_mul(100) / resync.total_bytes.max(1);
            let words = format!(
                "{} {} {}, {}{}{}",
                ByteSize(resync.done_bytes),
                w.of,
                ByteSize(resync.total_bytes),
                ByteSize(resync.bytes_per_s),
                w.per_second,
                left.unwrap_or_default()
            );
            (percent.min(100), words)
        });
        Copy { replica, level, behind, heard: self.heard(&replica.last_heard_ms), resync }
    }

    /// Coarse on purpose: what is of now does not flicker.
    fn heard(&self, heard_ms: &Option<u64>) -> String {
        match heard_ms {
            Some(ms) if *ms <= HEARD_MS_MAX => self.w.just_now.to_owned(),
            Some(ms) => format!("{} {}", age(*ms), self.w.ago),
            None => self.w.never.to_owned(),
        }
    }

    fn grid(&self) -> Grid {
        backups::grid(self.w, &self.status.facts)
    }

    fn run_words(&self, run: &RunView) -> String {
        backups::run_words(self.w, run)
    }

    fn roles(&self, node: &NodeView) -> String {
        let words: Vec<&str> = node.roles.iter().map(|role| role.word()).collect();
        words.join(", ")
    }

    fn is_leader(&self, node: &NodeView) -> bool {
        self.status.facts.quorum.leader.as_deref() == Some(node.name.as_str())
    }

    fn size(&self, bytes: &u64) -> String {
        ByteSize(*bytes).to_string()
    }
}

/// A sign for a level, each of another shape, for eyes that do not see the colours.
fn mark(level: &Level) -> &'static str {
    match level {
        Level::Green => "✓",
        Level::Amber => "!",
        Level::Unknown => "?",
        Level::Red => "✕",
    }
}

/// The level's name in the style sheet.
fn class(level: &Level) -> &'static str {
    match level {
        Level::Green => "green",
        Level::Amber => "amber",
        Level::Unknown => "unknown",
        Level::Red => "red",
    }
}
