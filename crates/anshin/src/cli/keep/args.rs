//! What can be typed about vaults, backups and snapshots.

use anshin_director::Span;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Which vault, and with which key.
#[derive(Clone, Debug, Default, Args)]
pub struct Which {
    /// The vault: its name on this machine, a directory, or s3://BUCKET/PREFIX?endpoint=URL [env: ANSHIN_VAULT]
    #[arg(long, value_name = "URL|NAME")]
    pub vault: Option<String>,
    /// File of this machine's key
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// `anshin vault`
#[derive(Debug, Subcommand)]
pub enum Vault {
    /// Make a vault, and this machine's key to it
    Init(VaultInit),
    /// How much a vault holds, and whether this machine can read it
    Status {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// Read everything and compare it with its checksums; names what is damaged
    Verify {
        /// Which
        #[command(flatten)]
        which: Which,
        /// Decrypt contents as well and compare them with their ids
        #[arg(long)]
        keys: bool,
    },
    /// Remove what no snapshot refers to any more; backups may run meanwhile
    Gc {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// What opens the vault
    #[command(subcommand)]
    Keys(Keys),
}

/// `anshin vault init`
#[derive(Debug, Args)]
pub struct VaultInit {
    /// A directory, or s3://BUCKET/PREFIX?endpoint=URL&region=NAME; an object store's credentials are taken from
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    pub place: String,
    /// The name by which this machine knows it
    #[arg(long, default_value = "main")]
    pub name: String,
    /// The vault is there: make a key domain of this machine's own in it
    #[arg(long)]
    pub attach: bool,
    /// File of this machine's key; made if need be
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Write the recovery key into this file instead of asking for it to be typed back
    #[arg(long, value_name = "FILE")]
    pub recovery_key_file: Option<PathBuf>,
    /// Print the recovery key and do not ask for it to be typed back
    #[arg(long)]
    pub yes: bool,
}

/// `anshin vault keys`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// The ways in which key domains can be opened
    List {
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// One more way to open this machine's key domain
    Add {
        /// Which
        #[command(flatten)]
        which: Which,
        /// A passphrase: the first line of this file, `-` for standard input
        #[arg(long, value_name = "FILE", required_unless_present_any = ["recovery", "recovery_key_file"])]
        passphrase_file: Option<PathBuf>,
        /// A new recovery key, shown and typed back
        #[arg(long, conflicts_with = "passphrase_file")]
        recovery: bool,
        /// A new recovery key, written into this file
        #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
        recovery_key_file: Option<PathBuf>,
        /// What it is called in lists
        #[arg(long)]
        label: Option<String>,
    },
    /// Take a way to open this machine's key domain back; a recovery key must be left
    Remove {
        /// Its number, as listed
        number: usize,
        /// Which
        #[command(flatten)]
        which: Which,
    },
    /// With the recovery key or a passphrase, give this machine a key
    Recover {
        /// Which
        #[command(flatten)]
        which: Which,
        /// The recovery key stands in this file, `-` for standard input; asked for if not given
        #[arg(long, value_name = "FILE")]
        recovery_key_file: Option<PathBuf>,
        /// A passphrase: the first line of this file, `-` for standard input
        #[arg(long, value_name = "FILE", conflicts_with = "recovery_key_file")]
        passphrase_file: Option<PathBuf>,
    },
}

/// `anshin backup`
#[derive(Debug, Args)]
pub struct Backup {
    /// Files and directories
    #[arg(value_name = "PATH", required_unless_present_any = ["stdin", "image"])]
    pub paths: Vec<PathBuf>,
    /// Which vault
    #[command(flatten)]
    pub which: Which,
    /// Leave out what matches, as in .gitignore; may be repeated
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave out what matches the patterns in this file
    #[arg(long, value_name = "FILE")]
    pub exclude_from: Vec<PathBuf>,
    /// Leave out directories that are marked as caches (CACHEDIR.TAG)
    #[arg(long)]
    pub exclude_caches: bool,
    /// Stay on the file systems of the paths
    #[arg(long)]
    pub one_file_system: bool,
    /// Read standard input, as a file of this name
    #[arg(long, value_name = "NAME", conflicts_with_all = ["paths", "image"])]
    pub stdin: Option<String>,
    /// Read a block device or disk image
    #[arg(long, value_name = "DEVICE", conflicts_with = "paths")]
    pub image: Option<PathBuf>,
    /// Put on the snapshot, for `forget --keep-tag`; may be repeated
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Read everything, also what the files cache says is unchanged
    #[arg(long)]
    pub no_cache: bool,
}

/// `anshin snapshots`
#[derive(Debug, Subcommand)]
pub enum Snapshots {
    /// Every snapshot
    List {
        /// Which vault
        #[command(flatten)]
        which: Which,
        /// Of this machine only
        #[arg(long)]
        host: Option<String>,
        /// Also those that are forgotten and can still be taken back, and the pieces of services' logs
        #[arg(long)]
        all: bool,
    },
    /// One snapshot, or what lies at a path in it
    Show {
        /// `latest`, or the first digits of its id
        snapshot: String,
        /// A path in it
        path: Option<String>,
        /// Everything beneath, too
        #[arg(long, short)]
        recursive: bool,
        /// Which vault
        #[command(flatten)]
        which: Which,
    },
    /// In which snapshots something is
    Find {
        /// For example **/report.odt
        #[arg(required = true)]
        patterns: Vec<String>,
        /// In this snapshot only
        #[arg(long)]
        snapshot: Option<String>,
        /// Which vault
        #[command(flatten)]
        which: Which,
    },
    /// What differs between two snapshots
    Diff {
        /// The earlier one
        before: String,
        /// The later one
        after: String,
        /// Beneath this path only
        path: Option<String>,
        /// Which vault
        #[command(flatten)]
        which: Which,
    },
    /// Show a snapshot as a directory, until it is unmounted
    Mount {
        /// `latest`, or the first digits of its id
        snapshot: String,
        /// Where; must be there
        directory: PathBuf,
        /// Let every user look into it, as modes and owners say
        #[arg(long)]
        everyone: bool,
        /// Which vault
        #[command(flatten)]
        which: Which,
    },
}

/// What happens to a file that is in the way of a restored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnConflict {
    /// Restore nothing at all
    Refuse,
    /// Leave it as it is
    Skip,
    /// Bring it to what the snapshot has unless size and time are equal
    IfDifferent,
    /// Bring it to what the snapshot has
    Overwrite,
    /// Leave it if it was changed later than the one in the snapshot
    KeepNewer,
}

/// Whom restored files belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OwnersAre {
    /// The numbers in the snapshot
    Numbers,
    /// The users and groups of the same names here
    Names,
    /// Whoever restores
    Caller,
}

const RESTORES: &str = "\
Examples:\n  \
  anshin restore latest /etc/fstab --in-place\n  \
  anshin restore service/db --at '2026-11-29 21:00:05' --to /var/tmp/db\n  \
  anshin restore service/db --at 2026-11-29T21:00:05+01:00 --in-place --yes";

/// `anshin restore`
#[derive(Debug, Args)]
#[command(after_help = RESTORES)]
pub struct Restore {
    /// A snapshot: `latest`, or the first digits of its id. Or a service of this site: service/NAME
    pub snapshot: String,
    /// What of it: paths, or patterns such as etc/**/*.conf; everything if not given
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,
    /// Beneath this directory; with one path: also a block device, or `-` for standard output
    #[arg(long, value_name = "DIR", required_unless_present = "in_place")]
    pub to: Option<PathBuf>,
    /// Where it was
    #[arg(long, conflicts_with = "to")]
    pub in_place: bool,
    /// A service: as it was at this instant, with its offset or by this machine's clock; the latest if not given
    #[arg(long, value_name = "INSTANT")]
    pub at: Option<String>,
    /// A service: begin with this snapshot instead of the newest before the instant
    #[arg(long = "snapshot", value_name = "SNAPSHOT")]
    pub from: Option<String>,
    /// A service in place: replace its data; what is there now is kept beside it
    #[arg(long)]
    pub yes: bool,
    /// What happens to files that are in the way
    #[arg(long, value_enum, default_value = "refuse")]
    pub conflict: OnConflict,
    /// Whom restored files belong to
    #[arg(long, value_enum, default_value = "numbers")]
    pub owners: OwnersAre,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Read everything again afterwards and compare it
    #[arg(long, conflicts_with = "dry_run")]
    pub verify: bool,
    /// Which vault
    #[command(flatten)]
    pub which: Which,
}

/// `anshin forget`
#[derive(Debug, Args)]
pub struct Forget {
    /// These snapshots; their first digits suffice
    #[arg(value_name = "SNAPSHOT")]
    pub snapshots: Vec<String>,
    /// Take these back instead, while garbage collection has not removed them
    #[arg(long, requires = "snapshots")]
    pub undo: bool,
    /// Which are kept
    #[command(flatten)]
    pub keep: KeepRules,
    /// Of this machine only
    #[arg(long)]
    pub host: Option<String>,
    /// Say what would be forgotten and why, and forget nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Which vault
    #[command(flatten)]
    pub which: Which,
}

/// Which snapshots `anshin forget` keeps of each thing that is backed up.
#[derive(Clone, Debug, Default, Args)]
pub struct KeepRules {
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_last: u32,
    /// The newest of each of the last so many hours that have one
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_hourly: u32,
    /// … days
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_daily: u32,
    /// … weeks
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_weekly: u32,
    /// … months
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_monthly: u32,
    /// … years
    #[arg(long, value_name = "N", default_value_t, hide_default_value = true)]
    pub keep_yearly: u32,
    /// All within this time of the newest, for example 36h or 14d
    #[arg(long, value_name = "TIME", value_parser = span)]
    pub keep_within: Option<Span>,
    /// Those with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
}

/// `anshin client`
#[derive(Debug, Subcommand)]
pub enum Client {
    /// Tokens with which machines become clients
    #[command(subcommand)]
    Token(ClientToken),
    /// Make this machine a client: it can add backups, and nothing else
    Join {
        /// As printed by `client token create`
        token: String,
        /// Name of this client; its host name if not given
        #[arg(long)]
        name: Option<String>,
        /// Write the recovery key into this file instead of asking for it to be typed back
        #[arg(long, value_name = "FILE")]
        recovery_key_file: Option<PathBuf>,
        /// Print the recovery key and do not ask for it to be typed back
        #[arg(long)]
        yes: bool,
    },
}

/// `anshin client token`
#[derive(Debug, Subcommand)]
pub enum ClientToken {
    /// Make a token with which one machine can become a client; on a data node
    Create {
        /// For a client of this name only
        #[arg(long)]
        name: Option<String>,
        /// For how long, for example 30m or 7d
        #[arg(long, value_parser = span)]
        valid: Option<Span>,
    },
}

fn span(text: &str) -> Result<Span, String> {
    text.parse::<Span>().map_err(|problem| problem.message)
}
