//! The daemon and the vault process of its node.

use super::DirectorEvent;
use crate::control::Answer;
use anshin_base::Problem;
use anshin_director::{Attempt, RunId, SnapshotId, VaultName, record::Sealed};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How often a vault is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A look that takes longer finds a vault that does not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// What a vault process says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeeperSeen {
    /// The identifier of its vault; None while it does not answer.
    pub id: Option<String>,
    /// Where its store is, without secrets.
    pub url: String,
    /// Why it cannot be written, if so.
    pub trouble: Option<String>,
    /// Newest snapshots that name a run, oldest run first.
    pub snapshots: Vec<(RunId, Attempt, Sealed)>,
}

/// The vault process of a vault that this node serves.
pub trait Keeper: Send + Sync + 'static {
    /// What it says.
    fn look<'a>(&'a self, vault: &'a VaultName) -> Answer<'a, KeeperSeen>;

    /// Has it give up snapshots. One that is gone already is no failure.
    fn forget<'a>(&'a self, vault: &'a VaultName, snapshots: Vec<SnapshotId>, why: &'a str)
    -> Answer<'a, ()>;
}

/// A node whose build serves no vault.
pub struct NoKeeper;

impl Keeper for NoKeeper {
    fn look<'a>(&'a self, vault: &'a VaultName) -> Answer<'a, KeeperSeen> {
        Box::pin(async move { Err(none(vault)) })
    }

    fn forget<'a>(&'a self, vault: &'a VaultName, _: Vec<SnapshotId>, _: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { Err(none(vault)) })
    }
}

fn none(vault: &VaultName) -> Problem {
    Problem::new("vault-unreachable", format!("nothing serves vault {vault} here"))
}

/// Looks at a vault from now on, and tells what it sees.
pub fn watch(
    keeper: Arc<dyn Keeper>,
    vault: VaultName,
    events: mpsc::Sender<DirectorEvent>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let seen = match tokio::time::timeout(LOOK_LIMIT, keeper.look(&vault)).await {
                Ok(Ok(seen)) => seen,
                Ok(Err(problem)) => KeeperSeen { trouble: Some(problem.message), ..KeeperSeen::default() },
                Err(_) => KeeperSeen {
                    trouble: Some("its process does not answer".into()),
                    ..KeeperSeen::default()
                },
            };
            if events.send(DirectorEvent::Vault { vault: vault.clone(), seen }).await.is_err() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
}
