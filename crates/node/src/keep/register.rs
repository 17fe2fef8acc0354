//! A vault's process tells the ledger that it serves the vault, so that every node of the site finds it.

use super::members::{LedgerView, propose};
use anshin_base::{NodeId, Problem};
use anshin_director::{VaultName, record::Change, record::VaultRecord};
use anshin_ledger::Command;
use anshin_vault::Vault;
use std::{path::Path, time::Duration};

/// How often the ledger is compared with what is.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Backups into one vault at once, until somebody says otherwise.
const CONCURRENT: u32 = 4;

/// Keeps the ledger's record of the vault true as long as this runs.
pub async fn keep_registered(
    ledger: LedgerView,
    socket: &Path,
    vault: &Vault,
    name: &VaultName,
    node: NodeId,
) {
    let mut told = None;
    loop {
        if let Some(state) = ledger.state()
            && state.nodes.contains_key(&node)
        {
            match wanted(state.director.records().vaults.get(name), vault, name, node) {
                Ok(None) => told = None,
                Ok(Some(record)) => {
                    match propose(socket, Command::Director(Change::SetVault(record))).await {
                        Ok(()) => {
                            tracing::info!(vault = %name, "the ledger knows now that the vault is served here")
                        }
                        Err(problem) => say_once(&mut told, problem),
                    }
                }
                Err(problem) => say_once(&mut told, problem),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn say_once(told: &mut Option<Problem>, problem: Problem) {
    if told.as_ref() != Some(&problem) {
        tracing::warn!(%problem, "the vault could not be recorded in the ledger; it is tried again");
        *told = Some(problem);
    }
}

/// What the ledger should say instead of what it says; None if it is right.
fn wanted(
    known: Option<&VaultRecord>,
    vault: &Vault,
    name: &VaultName,
    node: NodeId,
) -> Result<Option<VaultRecord>, Problem> {
    let id: String = vault.descriptor().id.iter().map(|byte| format!("{byte:02x}")).collect();
    // The same vault may have been moved to another node with its disk; another vault never takes its name.
    if let Some(other) = known.filter(|known| known.id != id) {
        let message = format!("the site has another vault named {name}, served by {}", other.node);
        return Err(Problem::new("vault-exists", message)
            .hint("make this one under another name, or remove the record of the other first"));
    }
    let record = VaultRecord {
        name: name.clone(),
        id,
        url: vault.place(),
        node,
        concurrent: known.map_or(CONCURRENT, |known| known.concurrent),
    };
    Ok((known != Some(&record)).then_some(record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_vault::{Options, Place};

    #[test]
    fn the_same_vault_may_move_and_another_never_takes_its_name() {
        let directory = std::env::temp_dir().join(format!("anshin-register-{}", std::process::id()));
        let store = Place::parse(directory.to_str().unwrap()).unwrap().store(true).unwrap();
        let vault = Vault::create(store, Options::default()).unwrap();
        let name = VaultName::checked("main").unwrap();
        let record = wanted(None, &vault, &name, NodeId(3)).unwrap().unwrap();
        assert_eq!(wanted(Some(&record), &vault, &name, NodeId(3)).unwrap(), None);
        let changed = VaultRecord { concurrent: 9, ..record.clone() };
        assert_eq!(wanted(Some(&changed), &vault, &name, NodeId(3)).unwrap(), None);
        let moved = wanted(Some(&changed), &vault, &name, NodeId(4)).unwrap().unwrap();
        assert_eq!((moved.node, moved.concurrent), (NodeId(4), 9));
        let other = VaultRecord { id: "00".into(), ..record };
        assert_eq!(wanted(Some(&other), &vault, &name, NodeId(3)).unwrap_err().code, "vault-exists");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
