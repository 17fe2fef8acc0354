//! Which times a site may run by. Pure.
//!
//! Silence decides when a node or copy is given up: how long a failover takes, and how long a hiccup may last. No write rests
//! on it, so it can be changed at any time. The lease is a promise between copies: one trusts it for as long as another waits,
//! so both must have the same one. It can be changed only while there is no volume.

use crate::view::TimingChange;
use anshin_base::{Millis, Problem};
use anshin_ledger::state::Timing;

/// Below this the scheduler of a busy machine alone makes a node silent.
const SILENCE_MIN: Millis = Millis(300);
/// Above this nobody would call it a failover.
const SILENCE_MAX: Millis = Millis(60_000);
const LEASE_MIN: Millis = Millis(200);
const HEARTBEAT_MIN: Millis = Millis(20);
/// Signs of life that may be lost in a row before somebody counts as silent, or a lease ends.
const SIGNS_IN_SILENCE: u64 = 3;

/// The times after a change, or why it would not be safe.
///
/// # Errors
/// `timing-invalid` for times that do not fit together; a refusal for a lease that cannot be changed any more.
pub fn changed(now: &Timing, change: &TimingChange, volumes: usize) -> Result<Timing, Problem> {
    let wanted = Timing {
        heartbeat: change.heartbeat_ms.map_or(now.heartbeat, Millis),
        silent: change.silence_ms.map_or(now.silent, Millis),
        lease: change.lease_ms.map_or(now.lease, Millis),
        drift_permille: now.drift_permille,
    };
    if wanted.lease != now.lease && volumes > 0 {
        let message = format!("the lease of {} cannot be changed while there are volumes", now.lease);
        return Err(Problem::refused("lease-in-use", message).hint(
            "copies of a volume must agree on it at every moment; set it before the first volume is made",
        ));
    }
    let invalid = |message: String, hint: String| Err(Problem::new("timing-invalid", message).hint(hint));
    if wanted.heartbeat < HEARTBEAT_MIN {
        return invalid(
            format!("a heartbeat of {} is too short", wanted.heartbeat),
            format!("at least {HEARTBEAT_MIN}"),
        );
    }
    if !(SILENCE_MIN..=SILENCE_MAX).contains(&wanted.silent) {
        return invalid(
            format!("{} is no useful time of silence", wanted.silent),
            format!("between {SILENCE_MIN} and {SILENCE_MAX}"),
        );
    }
    if wanted.lease < LEASE_MIN {
        return invalid(format!("a lease of {} is too short", wanted.lease), format!("at least {LEASE_MIN}"));
    }
    let signs = Millis(wanted.heartbeat.0.saturating_mul(SIGNS_IN_SILENCE));
    if signs > wanted.silent || signs > wanted.lease {
        return invalid(
            format!("with a heartbeat of {} a single lost packet could look like a death", wanted.heartbeat),
            format!("silence and lease must be at least {signs}, or the heartbeat shorter"),
        );
    }
    // A successor waits the lease out, with the allowance for clocks that differ: a shorter silence gains nothing, and
    // judges a node before it has let go.
    let waited = Millis(wanted.lease.0 + (wanted.lease.0 * u64::from(wanted.drift_permille)).div_ceil(1_000));
    if wanted.silent < waited {
        return invalid(
            format!("a silence of {} is shorter than what a successor must wait, {waited}", wanted.silent),
            format!("a silence of at least {waited}, or a shorter lease (before the first volume)"),
        );
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(silence: Option<u64>, lease: Option<u64>, heartbeat: Option<u64>) -> TimingChange {
        TimingChange { silence_ms: silence, lease_ms: lease, heartbeat_ms: heartbeat }
    }

    fn code(silence: Option<u64>, lease: Option<u64>, heartbeat: Option<u64>, volumes: usize) -> String {
        let problem = changed(&Timing::default(), &change(silence, lease, heartbeat), volumes).unwrap_err();
        assert!(problem.hint.is_some(), "{problem}");
        problem.code
    }

    #[test]
    fn silence_can_be_changed_at_any_time() {
        let now = Timing::default();
        let longer = changed(&now, &change(Some(2_500), None, None), 3).unwrap();
        assert_eq!(longer, Timing { silent: Millis(2_500), ..now });
    }

    #[test]
    fn r11_a_lease_that_copies_may_rely_on_is_not_changed() {
        assert_eq!(code(None, Some(2_000), None, 1), "lease-in-use");
        let longer = changed(&Timing::default(), &change(Some(2_500), Some(2_000), None), 0).unwrap();
        assert_eq!((longer.silent, longer.lease), (Millis(2_500), Millis(2_000)));
    }

    #[test]
    fn times_that_do_not_fit_together_are_refused_with_what_would() {
        assert_eq!(code(Some(900), None, None, 0), "timing-invalid", "shorter than lease and drift");
        assert_eq!(code(Some(100), None, None, 0), "timing-invalid");
        assert_eq!(code(Some(100_000), None, None, 0), "timing-invalid");
        assert_eq!(code(None, Some(100), None, 0), "timing-invalid");
        assert_eq!(code(None, None, Some(5), 0), "timing-invalid");
        assert_eq!(code(None, None, Some(400), 0), "timing-invalid", "three signs do not fit into the lease");
        assert!(changed(&Timing::default(), &change(Some(918), None, None), 1).is_ok());
    }
}
