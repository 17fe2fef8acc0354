//! Keeping the processes of served vaults running, for as long as the daemon runs; they outlive it.

use super::VaultSettings;
use crate::{
    paths::Paths,
    supervise::{LOG_SIZE_MAX, Supervisor},
};
use anshin_director::VaultName;
use std::{path::PathBuf, time::Duration};

/// How often it is looked which vaults are served and whether their processes live.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts, adopts and restarts the process of each vault that this node's settings say is served, from now on.
pub async fn tend(paths: Paths, executable: PathBuf, log_dir: PathBuf) {
    let mut supervisor = Supervisor::new(executable, paths.run.clone(), log_dir);
    let mut told = None;
    loop {
        match served(&paths) {
            Ok(names) => {
                for name in names {
                    supervisor.want(&process_name(&name), &["run".into(), "vault".into(), name.0]);
                }
                told = None;
            }
            Err(problem) if told.as_ref() != Some(&problem) => {
                tracing::warn!(%problem, "a vault's settings cannot be read");
                told = Some(problem);
            }
            Err(_) => {}
        }
        let (ended, failed) = supervisor.tick();
        for ended in ended {
            tracing::error!(process = ended.name, how = ended.how, "a process ended and is started again");
        }
        for problem in failed {
            tracing::error!(%problem, "a vault's process cannot be started");
        }
        supervisor.bound_logs(LOG_SIZE_MAX);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn process_name(vault: &VaultName) -> String {
    format!("vault-{vault}")
}

/// The vaults that this node serves.
///
/// # Errors
/// Settings that cannot be read.
pub fn served(paths: &Paths) -> Result<Vec<VaultName>, anshin_base::Problem> {
    let mut served = Vec::new();
    for name in VaultSettings::list(paths)? {
        if VaultSettings::load(paths, &name)?.is_some_and(|settings| settings.serve) {
            served.push(name);
        }
    }
    Ok(served)
}
