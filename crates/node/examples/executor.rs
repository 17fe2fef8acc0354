//! An executor with a vault in a directory of this machine, for tests and measurements without a site.
//!
//! ```text
//! executor backup|restore|archive|archive-end VAULT VAR [PLUGINS]      the job on standard input
//! executor plugin NAME
//! executor volume NAME DIRECTORY RUN SIZE                  a volume of its own, without other replicas
//! ```
//! The vault's key is made from its path: this is no place for data that matters.

use anshin_base::{ByteSize, GroupId, Problem};
use anshin_device::{Create, HOT_EXTENTS, Ledger, Options, Times};
use anshin_node::{
    backup::{
        Tools,
        job::VaultAccess,
        plugin, run_archive, run_archive_end, run_backup, run_restore,
        vault::{LocalVault, OpenVault},
    },
    paths::Paths,
};
use anshin_vault::{DomainKeys, Session};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    sync::Arc,
};

fn main() -> ExitCode {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["backup", rest @ ..] => tools(rest).and_then(|tools| run_backup(&tools)),
        ["restore", rest @ ..] => tools(rest).and_then(|tools| run_restore(&tools)),
        ["archive", rest @ ..] => tools(rest).and_then(|tools| run_archive(&tools)),
        ["archive-end", rest @ ..] => tools(rest).and_then(|tools| run_archive_end(&tools)),
        ["plugin", plugin::postgresql::NAME] => plugin::postgresql::run().map(|()| true),
        ["volume", name, directory, run, size] => volume(name, directory, run, size).map(|()| true),
        _ => Err(Problem::new("usage", "executor backup|restore|archive|plugin|volume …")),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// A vault that may be away for a while.
struct Vault {
    directory: PathBuf,
    keys: DomainKeys,
}

impl OpenVault for Vault {
    fn open(&self, access: &VaultAccess) -> Result<Session, Problem> {
        LocalVault::open(self.directory.clone(), self.keys.clone())?.open(access)
    }
}

fn tools(words: &[&str]) -> Result<Tools, Problem> {
    let (vault, var, plugins) = match words {
        [vault, var] => (vault, var, None),
        [vault, var, plugins] => (vault, var, Some(PathBuf::from(plugins))),
        _ => return Err(Problem::new("usage", "VAULT VAR [PLUGINS]")),
    };
    let executable = std::env::current_exe().map_err(|error| Problem::new("usage", error.to_string()))?;
    let mut places = plugin::Places::usual(executable);
    places.directories = plugins.into_iter().collect();
    places.arguments = vec!["plugin".into()];
    let key = vault.bytes().fold([7u8; 32], |mut key, byte| {
        key.rotate_left(1);
        key[0] ^= byte;
        key
    });
    let vault = Vault { directory: PathBuf::from(vault), keys: DomainKeys::derive(key) };
    let paths = Paths { var: PathBuf::from(var), ..Paths::default() };
    Ok(Tools { paths, vaults: Arc::new(vault), plugins: places })
}

fn volume(name: &str, directory: &str, run: &str, size: &str) -> Result<(), Problem> {
    let directory = Path::new(directory);
    if !directory.join("data").exists() {
        let bytes = ByteSize::from_str(size)?;
        let what = Create { bytes, group: GroupId(1), hot_extents: HOT_EXTENTS, preallocate: true };
        anshin_device::create(directory, &what)?;
    }
    anshin_device::run(Options {
        name: name.into(),
        directory: directory.into(),
        run: run.into(),
        devices: PathBuf::from(run).join("dev"),
        network: None,
        ledger: Ledger::Standalone,
        block_device: true,
        protect_memory: true,
        times: Times::default(),
        hot_extents: HOT_EXTENTS,
    })
}
