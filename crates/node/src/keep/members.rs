//! The ledger as a process beside the daemon sees it: read from the node's voter, so that the daemon may be restarted meanwhile.

use crate::{
    backup::job::VaultAccess,
    paths::Paths,
    voter::{
        Client,
        protocol::{FromVoter, ToVoter},
    },
};
use anshin_ledger::State;
use anshin_link::LinkError;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    let Some(state) = look(paths) else { return Vec::new() };
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
