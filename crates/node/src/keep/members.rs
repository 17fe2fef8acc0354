//! The ledger as a process beside the daemon sees it: read from the node's voter, so that the daemon may be restarted meanwhile.

use crate::{
    backup::job::VaultAccess,
    paths::Paths,
    voter::{
        Client,
        protocol::{FromVoter, ProposalOutcome, ToVoter},
    },
};
use anshin_base::Problem;
use anshin_director::{
    SnapshotId, UnixMillis, VaultName,
    record::{self, Change},
};
use anshin_ledger::{Command, Refused, State};
use anshin_link::LinkError;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// For the ledger to decide; an election may be under way.
const DECIDE_LIMIT: Duration = Duration::from_secs(15);
/// The ledger has what is to be put there, or has not what is to be taken away.
const EXISTS: &str = "ledger-exists";
const MISSING: &str = "ledger-missing";
/// Pause before a lost connection is tried again.
const RECONNECT: Duration = Duration::from_millis(500);

/// The newest state of the ledger that this node has applied; cheap to clone.
#[derive(Clone, Default)]
pub struct LedgerView {
    latest: Arc<Mutex<Option<Arc<State>>>>,
}

impl LedgerView {
    /// A view that shows nothing until it is told.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the view new from the voter's socket until the task is dropped with its runtime.
    pub async fn follow(self, socket: PathBuf) {
        loop {
            if let Err(error) = self.read(&socket).await {
                tracing::debug!(%error, "the connection to the voter ended");
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn read(&self, socket: &Path) -> Result<(), LinkError> {
        let mut client = Client::connect(socket).await?;
        client.send(&ToVoter::Subscribe).await?;
        loop {
            if let FromVoter::Ledger { state, .. } = client.next().await? {
                self.show(*state);
            }
        }
    }

    /// Shows this state from now on.
    pub fn show(&self, state: State) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(state));
    }

    /// The newest state; None before the first was read. It stays when the voter is gone: who was a node is one until
    /// something else is known.
    #[must_use]
    pub fn state(&self) -> Option<Arc<State>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// For the voter of this node to show the ledger to a command.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The ledger's state as this node's voter has it now; None if there is no voter, or it has none.
#[must_use]
pub fn look(paths: &Paths) -> Option<State> {
    let socket = paths.voter_socket();
    if !socket.exists() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let read = async {
        let mut client = Client::connect(&socket).await.ok()?;
        client.send(&ToVoter::Subscribe).await.ok()?;
        loop {
            if let FromVoter::Ledger { state, .. } = client.next().await.ok()? {
                return Some(*state);
            }
        }
    };
    runtime.block_on(async { tokio::time::timeout(LOOK_LIMIT, read).await.ok().flatten() })
}

/// The vaults of the site that this machine is a node of, with where they are served; none on any other machine.
#[must_use]
pub fn vaults(paths: &Paths) -> Vec<VaultAccess> {
    look(paths).map_or_else(Vec::new, |state| vaults_of(&state))
}

/// The vaults of a site, with where they are served.
#[must_use]
pub fn vaults_of(state: &State) -> Vec<VaultAccess> {
    let records = state.director.records();
    let served = records.vaults.values().filter_map(|vault| {
        let node = state.nodes.get(&vault.node)?;
        let addresses = node
            .addresses
            .iter()
            .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, node.ports.vault)));
        Some(VaultAccess { name: vault.name.clone(), server: vault.node, addresses: addresses.collect() })
    });
    served.collect()
}

/// Proposes a change to the ledger through the voter at this socket.
///
/// # Errors
/// `ledger-refused` with the reason, `no-quorum` if it cannot decide now.
pub async fn propose(socket: &Path, command: Command) -> Result<(), Problem> {
    let failed = |why: String| Problem::new("node-unreachable", format!("this node's voter: {why}"));
    let ask = async {
        let mut client = Client::connect(socket).await.map_err(|error| failed(error.to_string()))?;
        let question = ToVoter::Propose { request: 1, command };
        client.send(&question).await.map_err(|error| failed(error.to_string()))?;
        loop {
            if let FromVoter::Outcome { outcome, .. } =
                client.next().await.map_err(|error| failed(error.to_string()))?
            {
                return match outcome {
                    ProposalOutcome::Applied(_) => Ok(()),
                    ProposalOutcome::Refused(refused) => {
                        let code = match &refused {
                            Refused::Director(record::Refused::Exists(_)) => EXISTS,
                            Refused::Director(record::Refused::Missing(_)) => MISSING,
                            _ => "ledger-refused",
                        };
                        Err(Problem::new(code, refused.to_string()))
                    }
                    ProposalOutcome::Dropped | ProposalOutcome::Unknown => Err(no_quorum()),
                };
            }
        }
    };
    tokio::time::timeout(DECIDE_LIMIT, ask).await.unwrap_or_else(|_| Err(no_quorum()))
}

fn no_quorum() -> Problem {
    Problem::new("no-quorum", "the ledger cannot decide now: too few voters are heard")
        .hint("see which nodes are away: anshin status")
}

/// [`propose`] for a command.
///
/// # Errors
/// As [`propose`].
pub fn propose_now(paths: &Paths, command: Command) -> Result<(), Problem> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Problem::new("runtime", format!("no runtime: {error}")))?;
    runtime.block_on(propose(&paths.voter_socket(), command))
}

/// Tells the plans of the site what a person does with snapshots: what is taken back is held, or they would give it up again at
/// their next look; what is given up is not held any more.
///
/// # Errors
/// As [`propose`].
pub fn by_hand(
    paths: &Paths,
    vault: &VaultName,
    snapshots: impl IntoIterator<Item = SnapshotId>,
    taken_back: bool,
) -> Result<(), Problem> {
    let at = UnixMillis(jiff::Timestamp::now().as_millisecond());
    let by = "anshin forget --undo".to_owned();
    for snapshot in snapshots {
        let change = match taken_back {
            true => {
                let reason = "a person took it back".to_owned();
                Change::Hold { snapshot, vault: vault.clone(), by: by.clone(), reason, at }
            }
            false => Change::Release { snapshot, by: "anshin forget".to_owned(), at },
        };
        match propose_now(paths, Command::Director(change)) {
            Err(problem) if [EXISTS, MISSING].contains(&problem.code.as_str()) => {}
            result => result?,
        }
    }
    Ok(())
}
