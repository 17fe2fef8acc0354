//! How a volume process is started.

use anshin_base::{Millis, Problem};
use std::{net::SocketAddr, path::PathBuf};

/// The times of a volume, in one place. The same on every node of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// A silent peer is proposed for removal after this.
    pub peer_silent: Millis,
    /// How long a grant of the lease lasts.
    pub lease: Millis,
    /// By how much a grantor waits longer, in thousandths of the lease.
    pub drift_permille: u32,
    /// How often a request for a lease, which is the sign of life, is sent.
    pub heartbeat: Millis,
}

impl Default for Times {
    fn default() -> Self {
        Self { peer_silent: Millis(1_000), lease: Millis(900), drift_permille: 20, heartbeat: Millis(100) }
    }
}

/// The other replicas: where they reach this one, and who this node is to them.
#[derive(Clone, Debug)]
pub struct Network {
    /// Where the data link listens.
    pub listen: SocketAddr,
    /// Directory with the node's key and certificates (`/etc/anshin`).
    pub identity: PathBuf,
}

/// Where the ledger is.
#[derive(Clone, Debug)]
pub enum Ledger {
    /// The socket of the node's voter process.
    Voter(PathBuf),
    /// An ideal ledger in this process, for measuring and testing one volume without a site.
    Standalone,
}

/// Everything that [`crate::run`] wants to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The volume's name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Where `data` and `meta` are (`/var/lib/anshin/volumes/NAME`).
    pub directory: PathBuf,
    /// Where sockets, records and the mount go (`/run/anshin`); on tmpfs.
    pub run: PathBuf,
    /// Where the device's name goes (`/dev/anshin`).
    pub devices: PathBuf,
    /// None for a volume without other replicas.
    pub network: Option<Network>,
    /// Where the ledger is.
    pub ledger: Ledger,
    /// Whether to make a block device; without it there is the NBD socket alone.
    pub block_device: bool,
    /// Whether to lock memory and so on (R17); off only in tests.
    pub protect_memory: bool,
    /// Times.
    pub times: Times,
    /// Hot extents of the activity log.
    pub hot_extents: u32,
}

/// 1,237 hot extents cover 4.8 GiB of working set; the on-disk log is sized for the same number.
pub const HOT_EXTENTS: u32 = 1237;

impl Options {
    /// The usual places for the volume `name` of a node that is in a site.
    #[must_use]
    pub fn of_node(name: &str, listen: SocketAddr) -> Self {
        let run = PathBuf::from("/run/anshin");
        Self {
            name: name.into(),
            directory: PathBuf::from("/var/lib/anshin/volumes").join(name),
            ledger: Ledger::Voter(run.join("voter.sock")),
            run,
            devices: "/dev/anshin".into(),
            network: Some(Network { listen, identity: "/etc/anshin".into() }),
            block_device: true,
            protect_memory: true,
            times: Times::default(),
            hot_extents: HOT_EXTENTS,
        }
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.run.join(format!("volume-{}.ctl", self.name))
    }

    /// The NBD socket.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.run.join(format!("volume-{}.nbd", self.name))
    }

    /// The NBD socket of a point.
    #[must_use]
    pub fn point_socket(&self, point: u64) -> PathBuf {
        self.run.join(format!("volume-{}@{point}.nbd", self.name))
    }

    /// The lease record.
    #[must_use]
    pub fn lease_record(&self) -> PathBuf {
        self.run.join(format!("lease-{}", self.name))
    }

    /// Refuses what cannot work before anything is touched.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), Problem> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let short = !self.name.is_empty() && self.name.len() <= 63;
        if !short || self.name.starts_with('.') || !self.name.chars().all(allowed) {
            return Err(Problem::new("volume-name", format!("`{}` is not a volume's name", self.name))
                .hint("up to 63 letters, digits, `-`, `_` and `.`"));
        }
        if matches!(self.ledger, Ledger::Standalone) && self.network.is_some() {
            return Err(Problem::refused(
                "standalone",
                "a standalone volume has no ledger and cannot have other replicas",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        let listen = "127.0.0.1:1".parse().unwrap();
        assert!(Options::of_node("data-1", listen).check().is_ok());
        for bad in ["", ".", "..", "a/b", "a b", &"x".repeat(64)] {
            assert!(Options::of_node(bad, listen).check().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_standalone_volume_has_no_peers() {
        let mut options = Options::of_node("data", "127.0.0.1:1".parse().unwrap());
        options.ledger = Ledger::Standalone;
        assert!(options.check().unwrap_err().refused_for_safety);
    }
}
