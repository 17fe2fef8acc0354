//! What is asked of a restore, and what speaks against it.

use super::{
    restore::too_full,
    restore_choice::{Base, text},
};
use crate::{
    backup::swap::Swap,
    daemon::{drill::running_on, world::World},
    view::RestoreStart,
};
use anshin_base::Problem;
use anshin_director::UnixMillis;
use anshin_ledger::state::Service;
use std::path::{Path, PathBuf};

/// Left free beside what is restored.
const FREE_MIN: u64 = 64 << 20;

/// An instant that has come.
pub(super) fn instant(text: &str) -> Result<UnixMillis, Problem> {
    let read = text.parse::<jiff::Timestamp>().map_err(|error| {
        Problem::new("restore-at-invalid", format!("`{text}` is no instant: {error}"))
            .hint("write it as 2026-11-29T21:00:05+01:00")
    })?;
    if read > jiff::Timestamp::now() {
        return Err(Problem::new("restore-at-invalid", format!("{read} has not come yet")));
    }
    Ok(UnixMillis(read.as_millisecond()))
}

/// To the microsecond: an instant just before a mistake is near to it.
pub(super) fn exact(text: &str) -> Option<String> {
    text.parse::<jiff::Timestamp>().ok().map(|time| time.to_string())
}

/// Where the volume of a service is mounted whose data may be replaced here and now.
pub(super) fn in_place(
    world: &World,
    service: &Service,
    request: &RestoreStart,
    at: Option<UnixMillis>,
    base: &Base,
) -> Result<PathBuf, Problem> {
    let name = &service.name;
    let (Some(mount), Some(_)) = (&service.mount, &service.volume) else {
        let problem = Problem::new("restore-service-invalid", format!("{name} stands on no mounted volume"));
        return Err(problem.hint("restore it into a directory: --to DIR"));
    };
    match running_on(world, service) {
        Some(node) if node == world.me => {}
        Some(node) => {
            let problem = Problem::new(
                "restore-here-invalid",
                format!(
                    "service {name} runs on node {}, and is restored in place there",
                    world.name_of(node)
                ),
            );
            return Err(problem.hint(format!("run the command on {}", world.name_of(node))));
        }
        None => {
            let problem = Problem::new("service-busy", format!("service {name} does not run now"));
            return Err(problem.hint(format!("see: anshin explain {name}")));
        }
    }
    if let Some(swap) = Swap::waiting(Path::new(mount)) {
        let message = format!("another restore waits to be put at {}", swap.place.display());
        return Err(Problem::new("restore-busy", message).hint("it is when the service is started next"));
    }
    if !request.confirmed {
        let to = match at {
            Some(at) => format!("as it was at {}", text(at)),
            None => "by the newest state that is archived".to_owned(),
        };
        let message = format!(
            "the data of service {name} would be replaced {to} (from the snapshot of {}); its program stops for a moment",
            text(base.point)
        );
        return Err(Problem::refused("restore-in-place", message)
            .hint("if that is meant: --yes. What is there now is kept beside it, and its place is told"));
    }
    Ok(PathBuf::from(mount))
}

/// Whether there is room for so much.
pub(super) fn room(to: &Path, bytes: u64) -> Result<(), Problem> {
    match too_full(to, bytes, FREE_MIN) {
        None => Ok(()),
        Some(why) => {
            Err(Problem::new("restore-space-busy", why).hint("make room, or restore elsewhere: --to DIR"))
        }
    }
}

pub(super) fn no_keys() -> Problem {
    let message = "this node has no key of the site's data, so it can restore none";
    Problem::new("restore-here-invalid", message).hint("ask a data node")
}
