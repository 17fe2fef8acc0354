//! `anshin run vault NAME`: the process that serves one vault on the node that holds its store.
//!
//! It holds the store's credentials and no key of the data. It outlives the daemon, whose restart interrupts no backup.

use super::{
    VaultSettings,
    admission::RunAdmission,
    control,
    door::SiteDoor,
    link::{Admission, Served, Server},
    members::LedgerView,
    register::keep_registered,
};
use crate::paths::Paths;
use anshin_base::Problem;
use anshin_director::VaultName;
use anshin_link::Credentials;
use anshin_vault::{Options, Vault};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

/// When garbage is collected first, and how often: what is forgotten waits for days anyway.
const GC_FIRST: Duration = Duration::from_secs(3_600);
const GC_EVERY: Duration = Duration::from_secs(12 * 3_600);

/// Collects garbage from time to time, beside backups.
async fn collect_garbage(vault: Arc<Vault>) {
    tokio::time::sleep(GC_FIRST).await;
    loop {
        let collected = vault.clone();
        match tokio::task::spawn_blocking(move || collected.gc()).await {
            Ok(Ok(report)) => tracing::info!(?report, "garbage was collected"),
            Ok(Err(error)) => tracing::error!(%error, "garbage could not be collected"),
            Err(error) => tracing::error!(%error, "collecting garbage ended badly"),
        }
        tokio::time::sleep(GC_EVERY).await;
    }
}

/// Serves a vault until SIGTERM or SIGINT. Of a run only its present attempt may be sealed.
///
/// # Errors
/// What keeps it from starting.
pub fn run(paths: &Paths, name: &VaultName, listen: SocketAddr) -> Result<(), Problem> {
    run_with(paths, name, listen, |ledger| Arc::new(RunAdmission::new(ledger.clone())))
}

/// [`run`], with what decides which snapshots may be sealed, made from the view of the ledger.
///
/// # Errors
/// What keeps it from starting.
pub fn run_with(
    paths: &Paths,
    name: &VaultName,
    listen: SocketAddr,
    admission: impl FnOnce(&LedgerView) -> Arc<dyn Admission>,
) -> Result<(), Problem> {
    let settings = VaultSettings::load(paths, name)?.ok_or_else(|| {
        Problem::new("vault-unknown", format!("this machine knows no vault `{name}`"))
            .hint("make it: anshin vault init PLACE --name NAME")
    })?;
    let vault = Arc::new(Vault::open(settings.place()?.store(false)?, Options::default())?);
    let credentials = Credentials::load(&paths.identity())?;
    let failed = |error: std::io::Error| Problem::new("vault-start", format!("cannot start: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let ledger = LedgerView::new();
    let book = paths.var.join("door").join(format!("{name}.json"));
    let door = Arc::new(SiteDoor::open(ledger.clone(), &book)?);
    let served = Served {
        vault: vault.clone(),
        name: name.to_string(),
        doorkeeper: door,
        admission: admission(&ledger),
    };
    runtime.block_on(async {
        tokio::spawn(ledger.clone().follow(paths.voter_socket()));
        let server = Server::start(served, &credentials, listen).await?;
        tracing::info!(vault = %name, place = vault.place(), address = %server.address(), "a vault is served");
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::interrupt()).map_err(failed)?,
        );
        let (registered, socket, known, node) =
            (vault.clone(), paths.voter_socket(), name.clone(), credentials.identity().node);
        tokio::spawn(async move { keep_registered(ledger, &socket, &registered, &known, node).await });
        tokio::spawn(collect_garbage(vault.clone()));
        let path = paths.vault_control(&name.0);
        tokio::select! {
            ended = control::serve(vault.clone(), &path) => ended?,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.stop().await;
        let _ = std::fs::remove_file(&path);
        tracing::info!(vault = %name, "a vault is no longer served");
        Ok(())
    })
}
