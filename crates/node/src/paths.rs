//! Where a node keeps what. Every path is below one of three directories, so that a trial site or a test can run
//! several nodes on one machine.

use std::path::{Path, PathBuf};

/// The three directories of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Identity and the node's own configuration; survives everything. `/etc/anshin`.
    pub etc: PathBuf,
    /// Ledger and replicas. `/var/lib/anshin`.
    pub var: PathBuf,
    /// Sockets, lease records, records of running processes; on tmpfs. `/run/anshin`.
    pub run: PathBuf,
    /// Where the volumes' devices appear. `/dev/anshin`.
    pub dev: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            etc: "/etc/anshin".into(),
            var: "/var/lib/anshin".into(),
            run: "/run/anshin".into(),
            dev: "/dev/anshin".into(),
        }
    }
}

/// Names a directory below which all of a node's directories lie, for several nodes on one machine and for who is not root.
pub const ROOT_VARIABLE: &str = "ANSHIN_ROOT";

impl Paths {
    /// The usual directories, below the one that the environment names if it does.
    #[must_use]
    pub fn of_environment() -> Self {
        match std::env::var_os(ROOT_VARIABLE).filter(|root| !root.is_empty()) {
            Some(root) => Self::below(Path::new(&root)),
            None => Self::default(),
        }
    }

    /// The usual directories below `root`.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let usual = Self::default();
        let moved = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        Self {
            etc: moved(&usual.etc),
            var: moved(&usual.var),
            run: moved(&usual.run),
            dev: moved(&usual.dev),
        }
    }

    /// Where the settings of the vaults that this machine reaches by itself are.
    #[must_use]
    pub fn vaults(&self) -> PathBuf {
        self.etc.join("vaults")
    }

    /// The control socket of the process that serves a vault.
    #[must_use]
    pub fn vault_control(&self, name: &str) -> PathBuf {
        self.run.join(format!("vault-{name}.ctl"))
    }

    /// Where the machine's own key and its copies of key files are.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.var.join("keys")
    }

    /// Where files caches are.
    #[must_use]
    pub fn caches(&self) -> PathBuf {
        self.var.join("cache")
    }

    /// The node's own file: who it is. Its existence means that the node was initialised or has joined.
    #[must_use]
    pub fn node_file(&self) -> PathBuf {
        self.etc.join("node.toml")
    }

    /// Who votes and where, for a voter that lost its ledger.
    #[must_use]
    pub fn voters_file(&self) -> PathBuf {
        self.etc.join("voters.json")
    }

    /// Directory of the node's certificate and keys.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.etc.join("identity")
    }

    /// The ledger's log.
    #[must_use]
    pub fn voter(&self) -> PathBuf {
        self.var.join("voter")
    }

    /// The two files of a replica.
    #[must_use]
    pub fn volume(&self, name: &str) -> PathBuf {
        self.var.join("volumes").join(name)
    }

    /// The voter process's socket.
    #[must_use]
    pub fn voter_socket(&self) -> PathBuf {
        self.run.join("voter.sock")
    }

    /// The guard's socket.
    #[must_use]
    pub fn guard_socket(&self) -> PathBuf {
        self.run.join("guard.sock")
    }

    /// The API's socket.
    #[must_use]
    pub fn api_socket(&self) -> PathBuf {
        self.run.join("api.sock")
    }

    /// A volume process's control socket.
    #[must_use]
    pub fn volume_control(&self, name: &str) -> PathBuf {
        self.run.join(format!("volume-{name}.ctl"))
    }

    /// A volume's lease record.
    #[must_use]
    pub fn lease(&self, name: &str) -> PathBuf {
        self.run.join(format!("lease-{name}"))
    }

    /// A volume's device while this node is its primary.
    #[must_use]
    pub fn device(&self, name: &str) -> PathBuf {
        self.dev.join(name)
    }

    /// Makes the directories that are missing.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(&self) -> std::io::Result<()> {
        let all: [&Path; 6] =
            [&self.etc, &self.var, &self.run, &self.dev, &self.identity(), &self.var.join("volumes")];
        all.into_iter().try_for_each(std::fs::create_dir_all)
    }
}
