//! Which snapshot is meant, and what each says of itself.

use super::{args::Which, vault};
use anshin_base::Problem;
use anshin_capture::browse;
use anshin_director::catalog::LogLabel;
use anshin_node::keep::{Access, Answer, Description, Task, administer::ClearSnapshot, host_name};
use anshin_vault::{ChunkId, Session, Snapshot};
use serde::Serialize;

/// The newest one.
const LATEST: &str = "latest";
/// Fewest digits by which a snapshot can be named.
const DIGITS_MIN: usize = 4;

/// A vault that is open for reading and writing.
pub struct Desk {
    /// The vault.
    pub access: Access,
    /// The session.
    pub session: Session,
}

/// Opens a vault with this machine's key.
///
/// # Errors
/// What keeps it from being opened.
pub fn open(which: &Which) -> Result<Desk, Problem> {
    let access = vault::open(which)?;
    let domain = access.unlock(&vault::keyring(which)?)?;
    let session = access.session(&domain, &host_name())?;
    Ok(Desk { access, session })
}

/// A vault as far as it can be seen from here.
pub struct Look {
    /// The vault.
    pub access: Access,
    /// Every snapshot, with what each says of itself where the key is.
    pub all: Vec<Told>,
    /// Why no more can be seen: for who serves the vault and has no key of what is in it, and for who lost it.
    pub locked: Option<Problem>,
}

/// Opens a vault with this machine's key, or without one as far as that goes.
///
/// # Errors
/// What keeps the vault from being opened.
pub fn look(which: &Which) -> Result<Look, Problem> {
    let access = vault::open(which)?;
    match vault::keyring(which).and_then(|keyring| access.unlock(&keyring)) {
        Ok(domain) => {
            let all = all(&access.session(&domain, &host_name())?)?;
            Ok(Look { access, all, locked: None })
        }
        Err(locked) => {
            let Answer::Snapshots { snapshots } = access.administer(&Task::Snapshots)? else {
                return Err(vault::odd_answer());
            };
            if snapshots.is_empty() {
                return Err(locked);
            }
            let told = |clear| Told { clear, description: Seen::Locked, root: ChunkId([0; 32]) };
            let all = snapshots.into_iter().map(told).collect();
            Ok(Look { access, all, locked: Some(locked) })
        }
    }
}

/// What can be seen of a snapshot's description.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Seen {
    /// The description.
    Described(Description),
    /// It is not what was sealed.
    Damaged,
    /// The key is not here.
    Locked,
}

/// A snapshot with what it says of itself.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// What can be seen without a key.
    #[serde(flatten)]
    pub clear: ClearSnapshot,
    /// What takes the key.
    pub description: Seen,
    /// The object from which all others are reached.
    #[serde(skip)]
    pub root: ChunkId,
}

impl Told {
    fn of(snapshot: &Snapshot, session: &Session, meta: Option<&[u8]>) -> Self {
        Self {
            clear: ClearSnapshot::of(session.keys().domain(), snapshot),
            description: meta.map_or(Seen::Damaged, |meta| Seen::Described(Description::decode(meta))),
            root: snapshot.record.root,
        }
    }

    /// What it says of itself, if that can be seen.
    pub fn described(&self) -> Option<&Description> {
        match &self.description {
            Seen::Described(description) => Some(description),
            Seen::Damaged | Seen::Locked => None,
        }
    }

    /// The machine that was read.
    pub fn host(&self) -> &str {
        self.described().map_or(&self.clear.client, |described| &described.host)
    }

    /// What was read, in a few words.
    pub fn what(&self) -> String {
        match &self.description {
            Seen::Described(described) if !described.paths.is_empty() => described.paths.join(" "),
            Seen::Described(_) | Seen::Locked => self.clear.run.clone(),
            Seen::Damaged => "not what was sealed: run `anshin vault verify`".to_owned(),
        }
    }

    /// Its id as it is shown in lists.
    pub fn short(&self) -> &str {
        &self.clear.id[..8]
    }
}

/// Every snapshot, oldest first.
///
/// # Errors
/// Why the vault cannot be read.
pub fn all(session: &Session) -> Result<Vec<Told>, Problem> {
    let mut snapshots = session.snapshots()?;
    // Several may be sealed within one second of the keeper's clock.
    snapshots.sort_by_key(|(snapshot, _)| (snapshot.sealed, snapshot.record.time));
    Ok(snapshots.iter().map(|(snapshot, meta)| Told::of(snapshot, session, meta.as_deref().ok())).collect())
}

/// The snapshot that is meant by `latest` or the first digits of an id.
///
/// # Errors
/// If there is none, or more than one.
pub fn one(session: &Session, text: &str) -> Result<Told, Problem> {
    named(all(session)?, text)
}

/// [`one`], where `latest` is the newest that has a path: of several things that are backed up, most have not.
///
/// # Errors
/// As [`one`].
pub fn one_with(session: &Session, text: &str, path: Option<&str>) -> Result<Told, Problem> {
    let all = all(session)?;
    if let Some(path) = path.filter(|_| text == LATEST) {
        let has = |told: &&Told| is_whole(told) && browse::show(session, &told.root, path.as_bytes()).is_ok();
        if let Some(told) = all.iter().rfind(has) {
            return Ok(told.clone());
        }
    }
    named(all, text)
}

/// Whether something can be brought back from it alone: not a piece of a log, and not forgotten.
fn is_whole(told: &Told) -> bool {
    told.clear.forgotten.is_none() && !is_log(told)
}

/// Whether it is a piece of a service's log, which completes the snapshots of the service.
pub fn is_log(told: &Told) -> bool {
    told.clear.run.parse::<LogLabel>().is_ok()
}

/// [`one`] of these.
///
/// # Errors
/// As [`one`].
pub fn named(snapshots: Vec<Told>, text: &str) -> Result<Told, Problem> {
    let list = "see `anshin snapshots list`";
    if text == LATEST {
        let newest = snapshots.into_iter().rfind(is_whole);
        return newest.ok_or_else(|| {
            Problem::new("snapshot-unknown", "there is no snapshot in this vault").hint(list)
        });
    }
    let digits = text.to_ascii_lowercase();
    if digits.len() < DIGITS_MIN || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let message = format!("`{text}` names no snapshot");
        return Err(Problem::new("snapshot-format", message)
            .hint("write `latest` or at least the first 4 digits of its id, as in `anshin snapshots list`"));
    }
    let mut found: Vec<Told> =
        snapshots.into_iter().filter(|told| told.clear.id.starts_with(&digits)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => {
            Err(Problem::new("snapshot-unknown", format!("there is no snapshot {text} in this vault"))
                .hint(list))
        }
        count => Err(Problem::new("snapshot-unknown", format!("{count} snapshots begin with {text}"))
            .hint("write more of its digits")),
    }
}
