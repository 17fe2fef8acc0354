//! `anshin restore service/NAME`: a service as it was at an instant.

use super::super::{
    client::Client,
    keep::args::Restore,
    out::{Ending, Out, Style},
};
use anshin_base::{ByteSize, Problem};
use anshin_node::view::{RestoreStand, RestoreStart, RestoreView};
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    path::Path,
    time::Duration,
};

/// How often its progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How a service is named beside snapshots.
const SERVICE: &str = "service/";

/// The service that is meant, if it is none of a snapshot.
pub fn service(asked: &Restore) -> Option<&str> {
    asked.snapshot.strip_prefix(SERVICE)
}

/// Carries out `anshin restore service/NAME`.
///
/// # Errors
/// What was not understood, and what the node refused or failed at.
pub async fn restore(asked: Restore, client: &Client, out: &Out) -> Result<Ending, Problem> {
    let request = request(&asked)?;
    if let (Some(at), false) = (&request.at, out.is_json()) {
        let _ =
            writeln!(io::stderr(), "{} as it was at {}", asked.snapshot, understood(at, &TimeZone::system()));
    }
    let begun: RestoreView = client.post("restores", &request).await?;
    let view = follow(begun, client, out).await?;
    if view.stand == RestoreStand::Failed {
        let message = view.problem.clone().unwrap_or_else(|| "it failed".into());
        let problem = Problem::new("restore-failed", message);
        return Err(match &view.hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        });
    }
    out.show(&view, |style| text(style, &view))?;
    Ok(if view.warnings.is_empty() { Ending::Ok } else { Ending::Degraded })
}

fn request(asked: &Restore) -> Result<RestoreStart, Problem> {
    let for_files = |what: &str| {
        let message = format!("{what} is for the files of a snapshot, and a service is restored as a whole");
        Err(Problem::new("restore-service", message)
            .hint("its plain files: anshin restore SNAPSHOT PATH --to DIR"))
    };
    if !asked.paths.is_empty() {
        return for_files("a path");
    }
    for (given, what) in [(asked.dry_run, "--dry-run"), (asked.verify, "--verify")] {
        if given {
            return for_files(what);
        }
    }
    let to = match &asked.to {
        Some(to) if to == Path::new("-") => return for_files("standard output"),
        Some(to) => {
            let absolute = std::path::absolute(to)
                .map_err(|error| Problem::new("restore-to", format!("{}: {error}", to.display())))?;
            Some(absolute.display().to_string())
        }
        None => None,
    };
    Ok(RestoreStart {
        service: service(asked).unwrap_or_default().to_owned(),
        at: asked.at.as_deref().map(|at| instant(at, &TimeZone::system())).transpose()?,
        snapshot: asked.from.clone(),
        to,
        confirmed: asked.yes,
    })
}

/// RFC 3339 in UTC of an instant that was written with its offset, or by the clocks of `zone`.
fn instant(text: &str, zone: &TimeZone) -> Result<String, Problem> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at.to_string());
    }
    let bad = |why: String| {
        Problem::new("restore-at", format!("`{text}` is no instant: {why}"))
            .hint("write 2026-11-29T21:00:05+01:00, or by this machine's clock '2026-11-29 21:00:05'")
    };
    let local = text.parse::<DateTime>().map_err(|error| bad(error.to_string()))?;
    // An hour that the clocks passed twice, or never, means nothing without its offset.
    let at = zone.to_ambiguous_timestamp(local).unambiguous().map_err(|error| bad(error.to_string()))?;
    Ok(at.to_string())
}

/// By the clock on the wall, and in UTC.
fn understood(at: &str, zone: &TimeZone) -> String {
    match at.parse::<Timestamp>() {
        Ok(time) => format!("{} ({at})", time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.f %:z")),
        Err(_) => at.to_owned(),
    }
}

/// Until it has ended. The first interrupt cancels it.
async fn follow(mut view: RestoreView, client: &Client, out: &Out) -> Result<RestoreView, Problem> {
    let live = !out.is_json() && io::stderr().is_terminal();
    let id = view.id;
    let mut told = String::new();
    while view.stand == RestoreStand::Working {
        if live {
            let _ = write!(io::stderr(), "\r\x1b[K{}", progress(&view)).and_then(|()| io::stderr().flush());
        } else if !out.is_json() && told != view.doing {
            told.clone_from(&view.doing);
            let _ = writeln!(io::stderr(), "{told}");
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                client.post::<RestoreView>(&format!("restores/{id}/cancel"), &serde_json::json!({})).await?;
            }
        }
        view = client.get(&format!("restores/{id}")).await?;
    }
    if live {
        let _ = write!(io::stderr(), "\r\x1b[K").and_then(|()| io::stderr().flush());
    }
    Ok(view)
}

fn progress(view: &RestoreView) -> String {
    let mut text = view.doing.clone();
    if view.bytes > 0 {
        let _ = write!(text, ", {}, {} files", ByteSize(view.bytes), view.files);
    }
    text.chars().take(79).collect()
}

fn text(style: Style, view: &RestoreView) -> String {
    let id: String = view.snapshot.chars().take(8).collect();
    let mut text = format!(
        "service {} is restored from snapshot {id} of {} and {} pieces of its log, {:.1} s",
        view.service,
        view.point,
        view.log_pieces,
        view.took_ms as f64 / 1_000.0
    );
    let mut line = |label: &str, value: Option<&String>| {
        if let Some(value) = value {
            let _ = write!(text, "\n{}", style.wrap(&format!("{label} {value}"), 2));
        }
    };
    line("wanted:     ", view.at.as_ref());
    line("last change:", view.reached.as_ref());
    line("it lies in: ", view.place.as_ref());
    line("before it:  ", view.before.as_ref());
    line("looked at:  ", view.checked.as_ref());
    if let Some(pause) = view.pause_ms {
        line("stopped for:", Some(&format!("{:.1} s", pause as f64 / 1_000.0)));
    }
    line("new base:   ", view.run.map(|run| format!("run {run}")).as_ref());
    for warning in &view.warnings {
        line("warning:    ", Some(warning));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_understood_with_its_offset_or_by_the_clocks_here() {
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let read = |text: &str| instant(text, &berlin).map_err(|problem| problem.message);
        assert_eq!(read("2026-11-29T21:00:05.25Z").unwrap(), "2026-11-29T21:00:05.25Z");
        assert_eq!(read("2026-11-29 21:00:05+09:00").unwrap(), "2026-11-29T12:00:05Z");
        assert_eq!(read("2026-11-29 21:00:05").unwrap(), "2026-11-29T20:00:05Z");
        assert_eq!(read("2026-07-01 21:00").unwrap(), "2026-07-01T19:00:00Z");
        // Passed twice, never, and no instant at all.
        for bad in ["2026-10-25 02:30:00", "2026-03-29 02:30:00", "yesterday", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(
            understood("2026-11-29T20:00:05Z", &berlin),
            "2026-11-29 21:00:05 +01:00 (2026-11-29T20:00:05Z)"
        );
    }

    #[test]
    fn what_was_restored_is_told_with_where_everything_is() {
        let view = RestoreView {
            service: "db".into(),
            at: Some("2026-11-29T20:00:05Z".into()),
            snapshot: "3f2a9c0000000000".into(),
            point: "2026-11-29T02:00:00Z".into(),
            took_ms: 4_260,
            pause_ms: Some(1_900),
            log_pieces: 3,
            reached: Some("2026-11-29 20:00:04.9+00".into()),
            checked: Some("PostgreSQL 15 started; 3 databases, 30 MB".into()),
            place: Some("/srv/data/pg".into()),
            before: Some("/srv/data/pg.before-restore-20261129-200100".into()),
            run: Some(12),
            ..RestoreView::default()
        };
        insta::assert_snapshot!(text(Style { width: 80, color: false }, &view));
    }
}
