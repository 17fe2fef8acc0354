//! The node: the voter process, the daemon with its public interface, and making and joining a site.

pub mod backup;
pub mod control;
pub mod daemon;
pub mod keep;
pub mod paths;
pub mod setup;
pub mod supervise;
pub mod view;
pub mod voter;

use anshin_base::Problem;

/// The version of this build. With the feature `next` it is a higher one that also speaks one more optional field: the
/// second build that the check of upgrades needs.
pub const VERSION: &str = if cfg!(feature = "next") {
    concat!(env!("CARGO_PKG_VERSION"), "-next")
} else {
    env!("CARGO_PKG_VERSION")
};

/// A random number that is not 0.
///
/// # Errors
/// If the machine gives no randomness.
pub fn random_id() -> Result<u64, Problem> {
    let mut bytes = [0; 8];
    loop {
        getrandom::fill(&mut bytes).map_err(|error| {
            Problem::new("randomness", format!("the machine gives no random bytes: {error}"))
        })?;
        if bytes != [0; 8] {
            return Ok(u64::from_le_bytes(bytes));
        }
    }
}
