//! What is asked of a vault by those who answer for it, where its store is: without any key of the data.
//!
//! The same tasks are carried out in the process of the command line when it opens the store itself, and in the vault's
//! process when they arrive over its control socket.

use anshin_base::Problem;
use anshin_vault::{DomainId, Snapshot, SnapshotId, Vault, VaultError, VerifyOptions};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Something to do with a vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// How much it holds. Answered by [`Answer::Status`].
    Status,
    /// Read and check everything, without keys. Answered by [`Answer::Verified`].
    Verify,
    /// Collect garbage. Answered by [`Answer::Collected`].
    Gc,
    /// Every snapshot of every domain. Answered by [`Answer::Snapshots`].
    Snapshots,
    /// Mark snapshots as forgotten. One that is not there is no failure. Answered by [`Answer::Done`].
    Forget {
        /// Which, by their ids of 32 digits.
        snapshots: Vec<String>,
        /// They cannot be taken back once garbage was collected: another snapshot holds all that they hold.
        #[serde(default)]
        for_good: bool,
    },
    /// Take forgotten snapshots back. Answered by [`Answer::Done`].
    Remember {
        /// Which.
        snapshots: Vec<String>,
    },
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// It was done.
    Done,
    /// How much there is.
    Status(VaultStatus),
    /// What a verification found.
    Verified(Verified),
    /// What a collection did.
    Collected(Collected),
    /// Snapshots, oldest first within each domain.
    Snapshots {
        /// The snapshots.
        snapshots: Vec<ClearSnapshot>,
    },
    /// It was not done.
    Failed(Problem),
}

/// A vault in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultStatus {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// Where it lies.
    pub place: String,
    /// When it was made, in seconds of Unix time.
    pub created: u64,
    /// Bytes of all objects in the storage.
    pub bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Its key domains.
    pub domains: Vec<DomainStatus>,
}

/// A key domain in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainStatus {
    /// Its id, 32 hexadecimal digits.
    pub id: String,
    /// Its name; empty if its key file cannot be read.
    pub name: String,
    /// Whether a recovery key opens it.
    #[serde(default)]
    pub recovery: bool,
    /// Snapshots that are kept.
    pub snapshots: u64,
    /// Snapshots that are forgotten but can still be taken back.
    pub forgotten: u64,
    /// When the newest one was sealed, in seconds of Unix time.
    pub last_sealed: Option<u64>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Whether everything is as it was written, or was put right without loss.
    pub good: bool,
    /// Packs read.
    pub packs: u64,
    /// Objects compared with their checks.
    pub objects: u64,
    /// Objects that were decrypted and compared with their ids.
    pub objects_decrypted: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Snapshots walked.
    pub snapshots: u64,
    /// What is not as it was written.
    pub findings: Vec<Found>,
    /// Snapshots that cannot be restored as a whole.
    pub damaged: Vec<Damaged>,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// What, in words that name it.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// Whether it was put right.
    pub repaired: bool,
    /// Objects of which no intact copy is left.
    pub lost: u64,
}

/// A snapshot that cannot be restored as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Its key domain.
    pub domain: String,
    /// Which.
    pub snapshot: String,
    /// Whose.
    pub client: String,
    /// When it was sealed, in seconds of Unix time.
    pub sealed: u64,
    /// The objects that it needs and that are lost, 64 hexadecimal digits each.
    pub lost: Vec<String>,
    /// The files that this concerns, if the key was at hand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// What a collection of garbage did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Forgotten snapshots that were removed for good.
    pub snapshots_removed: u64,
    /// Packs deleted.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Bytes that were written anew.
    pub bytes_rewritten: u64,
    /// Packs that a later collection will delete.
    pub packs_condemned: u64,
    /// From when on it can, in seconds of Unix time.
    pub next: Option<u64>,
    /// A running backup came in between; the next collection does the rest.
    pub postponed: bool,
}

/// A snapshot as those see it who have no key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClearSnapshot {
    /// Its key domain.
    pub domain: String,
    /// Which.
    pub id: String,
    /// Whose data it holds.
    pub client: String,
    /// The plan that made it.
    pub plan: String,
    /// The run that made it: `run-17/2:service/db`.
    pub run: String,
    /// The instant whose state it holds, in nanoseconds of Unix time by the client's clock.
    pub time: i64,
    /// When it was sealed, in seconds of Unix time by the keeper's clock.
    pub sealed: u64,
    /// When it was forgotten, if it was.
    pub forgotten: Option<u64>,
    /// Files and directories, or extents.
    pub entries: u64,
    /// Bytes as the source had them.
    pub bytes: u64,
    /// Bytes that were new to the vault.
    pub new_bytes: u64,
}

impl ClearSnapshot {
    /// What can be seen of a snapshot without a key.
    #[must_use]
    pub fn of(domain: DomainId, snapshot: &Snapshot) -> Self {
        let record = &snapshot.record;
        Self {
            domain: domain.to_string(),
            id: record.id.to_string(),
            client: record.client.clone(),
            plan: record.plan.clone(),
            run: record.run.clone(),
            time: record.time,
            sealed: snapshot.sealed,
            forgotten: snapshot.forgotten,
            entries: record.stats.entries,
            bytes: record.stats.bytes,
            new_bytes: record.stats.new_bytes,
        }
    }
}

/// Carries out a task.
#[must_use]
pub fn carry_out(vault: &Vault, task: &Task) -> Answer {
    attempt(vault, task).unwrap_or_else(Answer::Failed)
}

fn attempt(vault: &Vault, task: &Task) -> Result<Answer, Problem> {
    Ok(match task {
        Task::Status => Answer::Status(status(vault)?),
        Task::Verify => Answer::Verified(verify(vault, &VerifyOptions::default())?),
        Task::Gc => {
            let done = vault.gc()?;
            Answer::Collected(Collected {
                snapshots_removed: done.snapshots_removed,
                packs_deleted: done.packs_deleted,
                bytes_deleted: done.bytes_deleted,
                bytes_rewritten: done.bytes_rewritten,
                packs_condemned: done.packs_condemned,
                next: done.next,
                postponed: done.postponed,
            })
        }
        Task::Snapshots => {
            let all = vault.snapshots()?;
            let snapshots =
                all.iter().map(|(domain, snapshot)| ClearSnapshot::of(*domain, snapshot)).collect();
            Answer::Snapshots { snapshots }
        }
        Task::Forget { snapshots, for_good } => {
            let (found, mut left) = named(vault, snapshots)?;
            for (domain, snapshot) in found {
                gone_is_fine(match for_good {
                    true => vault.forget_for_good(domain, snapshot),
                    false => vault.forget(domain, snapshot),
                })?;
            }
            // One that cannot be read is in no list and can be given up all the same.
            if !left.is_empty() {
                for domain in vault.domains()? {
                    left.retain(|snapshot| !matches!(vault.forget(domain, *snapshot), Ok(())));
                }
            }
            Answer::Done
        }
        Task::Remember { snapshots } => {
            for (domain, snapshot) in named(vault, snapshots)?.0 {
                vault.remember(domain, snapshot)?;
            }
            Answer::Done
        }
    })
}

/// The snapshots of these ids, with their key domains; and the ids that are in no list.
#[allow(clippy::type_complexity)]
fn named(
    vault: &Vault,
    ids: &[String],
) -> Result<(Vec<(DomainId, SnapshotId)>, BTreeSet<SnapshotId>), Problem> {
    let parse = |id: &String| {
        SnapshotId::parse(id).ok_or_else(|| {
            Problem::new("snapshot-format", format!("`{}` names no snapshot", id.escape_debug()))
        })
    };
    let mut left = ids.iter().map(parse).collect::<Result<BTreeSet<SnapshotId>, Problem>>()?;
    let all = vault.snapshots()?.into_iter().map(|(domain, snapshot)| (domain, snapshot.record.id));
    let found: Vec<_> = all.filter(|(_, id)| left.contains(id)).collect();
    for (_, id) in &found {
        left.remove(id);
    }
    Ok((found, left))
}

fn gone_is_fine(done: Result<(), VaultError>) -> Result<(), VaultError> {
    match done {
        Err(VaultError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn status(vault: &Vault) -> Result<VaultStatus, Problem> {
    let size = vault.size()?;
    let mut domains: BTreeMap<DomainId, DomainStatus> = BTreeMap::new();
    for id in vault.domains()? {
        domains.insert(id, DomainStatus { id: id.to_string(), ..DomainStatus::default() });
    }
    for file in vault.key_files()? {
        let domain = domains.entry(file.domain).or_default();
        domain.recovery = file.has_recovery();
        domain.name = file.name;
    }
    for (id, snapshot) in vault.snapshots()? {
        let domain = domains.entry(id).or_default();
        match snapshot.forgotten {
            Some(_) => domain.forgotten += 1,
            None => {
                domain.snapshots += 1;
                domain.last_sealed = domain.last_sealed.max(Some(snapshot.sealed));
            }
        }
    }
    let descriptor = vault.descriptor();
    Ok(VaultStatus {
        id: descriptor.id.iter().map(|byte| format!("{byte:02x}")).collect(),
        place: vault.place(),
        created: descriptor.created,
        bytes: size.bytes,
        packs: size.packs,
        domains: domains.into_values().collect(),
    })
}

/// Reads and checks everything; with keys, contents are decrypted and compared with their ids.
///
/// # Errors
/// Why the storage cannot be read; damage is no error.
pub fn verify(vault: &Vault, options: &VerifyOptions) -> Result<Verified, Problem> {
    let report = vault.verify(options)?;
    Ok(Verified {
        good: report.is_good(),
        packs: report.packs,
        objects: report.objects,
        objects_decrypted: report.objects_decrypted,
        bytes: report.bytes,
        snapshots: report.snapshots_walked,
        findings: report
            .findings
            .iter()
            .map(|finding| Found {
                what: finding.what.clone(),
                why: finding.why.clone(),
                repaired: finding.repaired,
                lost: finding.lost.len() as u64,
            })
            .collect(),
        damaged: report
            .snapshots
            .iter()
            .map(|damaged| Damaged {
                domain: damaged.domain.to_string(),
                snapshot: damaged.snapshot.record.id.to_string(),
                client: damaged.snapshot.record.client.clone(),
                sealed: damaged.snapshot.sealed,
                lost: damaged.lost.iter().map(anshin_vault::ChunkId::hex).collect(),
                files: Vec::new(),
            })
            .collect(),
    })
}
