//! From what lies on the disk to an engine.

use crate::voter::bootstrap::{Bootstrap, LOST, site_number};
use anshin_base::Problem;
use anshin_ledger::{
    Engine, Settings,
    log::{Identity, Record, Recovered},
};
use anshin_link::clock;
use std::fs::File;

/// The engine over what the disk holds.
pub(super) fn open_engine(
    bootstrap: &Bootstrap,
    recovered: Recovered,
) -> Result<(Settings, Engine), Problem> {
    let damaged = |why: String| Problem::new(LOST, format!("the ledger of this node: {why}"));
    let mut identities = recovered.records.iter().filter_map(|record| match record {
        Record::Identity(identity) => Some(*identity),
        _ => None,
    });
    let Identity { site, node, voter, epoch } =
        identities.next_back().ok_or_else(|| damaged("it does not say whose it is".to_owned()))?;
    if (site, node, voter) != (site_number(bootstrap.site), bootstrap.node, bootstrap.voter) {
        return Err(damaged(format!(
            "it belongs to {voter} of {node}, not to {} of {}",
            bootstrap.voter, bootstrap.node
        )));
    }
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| Problem::new("randomness", format!("the machine gives no random bytes: {error}")))?;
    let incarnation = u64::from_le_bytes(random).max(1);
    let settings = Settings::new(voter, epoch, incarnation, bootstrap.witness);
    let engine = Engine::open(clock::now(), settings.clone(), recovered)
        .map_err(|error| damaged(error.to_string()))?;
    Ok((settings, engine))
}

/// Keeps a second voter away from the same directory.
pub(super) fn lock(directory: &std::path::Path) -> Result<File, Problem> {
    let path = directory.join("lock");
    let failed = |error: &dyn std::fmt::Display| {
        Problem::new("voter-running", format!("{}: {error}", path.display()))
            .hint("another voter process of this node is running")
    };
    let file = File::create(&path).map_err(|error| failed(&error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed(&error))?;
    Ok(file)
}
