//! A client's way into the vault: what its rights allow, and nothing else.

use super::domain::{Domain, Pins};
use super::read::Copies;
use super::writer::Writer;
use super::{GET_MAX, Keeper, MISSING_MAX, Reading, Rights, rounds};
use crate::keys::DomainId;
use crate::keys::file::KeyFile;
use crate::object::{ChunkId, VaultError};
use crate::pack::WriterId;
use crate::seal::{Sealed, SealedKind};
use crate::snapshot::{Snapshot, SnapshotId, SnapshotRecord};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// See [`Keeper`]. Dropping it ends the session: what it was told is there is no longer kept for it.
pub struct Handle {
    domain: Arc<Domain>,
    client: String,
    writer: Arc<Writer>,
    rights: Rights,
    pins: Arc<Pins>,
    failures_seen: u64,
    shared: bool,
    /// Objects that it asked for, that are not there, and that it has not sent since.
    asked: AtomicU64,
    /// Held while a snapshot is sealed.
    sealing: Mutex<()>,
}

/// Most objects that a session may ask for ahead of sending them.
const ASKED_MAX: u64 = 2 << 20;
/// Most snapshots of a client that is not of the site, and most bytes of what they say of themselves.
const OF_CLIENT_MAX: usize = 10_000;
const OF_CLIENT_BYTES_MAX: usize = 64 << 20;

impl Handle {
    pub(crate) fn new(domain: Arc<Domain>, client: &str, writer: &str, rights: Rights, shared: bool) -> Self {
        let writer = domain.writer(WriterId::of(writer));
        let pins = domain.pins();
        let failures_seen = writer.failures();
        let (client, asked, sealing) = (client.to_owned(), AtomicU64::new(0), Mutex::default());
        Self { domain, client, writer, rights, pins, failures_seen, shared, asked, sealing }
    }

    const fn may_add(&self) -> Result<(), VaultError> {
        if self.rights.add { Ok(()) } else { Err(VaultError::denied("add anything")) }
    }

    const fn may_administer(&self, what: &'static str) -> Result<(), VaultError> {
        if self.rights.administer { Ok(()) } else { Err(VaultError::denied(what)) }
    }

    fn copies(&self) -> Result<Copies, VaultError> {
        match self.rights.read {
            Reading::Nothing => Err(VaultError::denied("read backups")),
            Reading::Own => Ok(Copies::Of(self.writer.id)),
            Reading::Domain => Ok(Copies::All),
        }
    }

    /// What is known of snapshots is in memory: a client must not be able to fill that of all.
    fn may_have_one_more(&self, record: &SnapshotRecord) -> Result<(), VaultError> {
        if self.rights.read == Reading::Domain {
            return Ok(());
        }
        let all = self.domain.known_snapshots()?;
        let bytes = all.iter().map(|snapshot| snapshot.record.meta.len()).sum::<usize>() + record.meta.len();
        if all.len() >= OF_CLIENT_MAX || bytes > OF_CLIENT_BYTES_MAX {
            let count = all.len();
            return Err(VaultError::Refused(format!(
                "this client has {count} snapshots here; have some of them forgotten"
            )));
        }
        Ok(())
    }

    /// The newest snapshot of the same client that is kept, preferably of the same plan.
    fn base_of(&self, record: &SnapshotRecord) -> Result<Option<ChunkId>, VaultError> {
        let snapshots = self.domain.known_snapshots()?;
        let own = snapshots.iter().filter(|s| s.record.client == record.client && s.forgotten.is_none());
        Ok(own.max_by_key(|s| (s.record.plan == record.plan, s.sealed)).map(|s| s.record.root))
    }

    fn seal_checked(&self, snapshot: &Snapshot) -> Result<(), VaultError> {
        let domain = &self.domain;
        // The intent first, then the rounds: whichever of this and a round of another keeper comes second sees the first.
        let record = &snapshot.record;
        let intent = record.id.intent_path(domain.id);
        match domain.store().put(&intent, &[snapshot.encode().into()]) {
            // Left by an earlier try of the same run, which died.
            Err(VaultError::Exists(_)) => {
                domain.store().delete(&intent)?;
                domain.store().put(&intent, &[snapshot.encode().into()])?;
            }
            result => result?,
        }
        let result = (|| {
            let seen = domain.rounds_seen();
            if rounds::load(domain.store(), domain.id, &seen)?.0 != seen {
                domain.refresh()?;
            }
            let base = self.base_of(record)?;
            domain.retry(|| domain.check_complete(record.root, base, self.writer.id))?;
            domain.store().put(&record.id.path(domain.id), &[snapshot.encode().into()])
        })();
        // The snapshot stands or falls without the intent; one that stays is removed by garbage collection.
        let _ = domain.store().delete(&intent);
        result
    }
}

impl Keeper for Handle {
    fn domain(&self) -> DomainId {
        self.domain.id
    }

    fn client(&self) -> String {
        self.client.clone()
    }

    fn is_near(&self) -> bool {
        true
    }

    fn is_shared(&self) -> bool {
        self.shared
    }

    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<bool>, VaultError> {
        self.may_add()?;
        if ids.len() > MISSING_MAX {
            return Err(VaultError::TooLarge { what: "a question", size: ids.len(), max: MISSING_MAX });
        }
        // Before looking: a round of garbage collection that condemns what is found will see the pins.
        self.pins.add(ids);
        let writer = self.writer.id;
        let look = || ids.iter().map(|id| Ok(self.domain.index.own_kind(id, writer)?.is_none())).collect();
        let missing: Vec<bool> = self.domain.retry(look)?;
        // Whoever asks sends: who only asks would fill the memory of all with what it asks for.
        let asked = missing.iter().filter(|missing| **missing).count() as u64;
        if self.asked.fetch_add(asked, Ordering::Relaxed) + asked > ASKED_MAX {
            return Err(VaultError::Refused("asked for more objects than were sent".into()));
        }
        Ok(missing)
    }

    fn prove(&self, claims: &[(ChunkId, [u8; 32])]) -> Result<Vec<bool>, VaultError> {
        self.may_add()?;
        if claims.len() > MISSING_MAX {
            return Err(VaultError::TooLarge { what: "a question", size: claims.len(), max: MISSING_MAX });
        }
        let mut proven = Vec::with_capacity(claims.len());
        for (id, hash) in claims {
            self.pins.add(&[*id]);
            let mut good = false;
            for found in self.domain.index.copies(id, self.writer.id)? {
                // Only what is durable: another writer's object that is on its way may never arrive.
                if found.kind == SealedKind::Alias
                    || !matches!(found.place, crate::index::set::Place::Stored(_))
                {
                    continue;
                }
                good =
                    matches!(self.domain.read_copy(id, &found.place), Ok(sealed) if sealed.hash() == *hash);
                if good {
                    break;
                }
            }
            if good {
                self.writer.put(&self.domain, Sealed::alias(id, hash));
            }
            proven.push(good);
        }
        Ok(proven)
    }

    fn put(&self, objects: Vec<Sealed>) -> Result<(), VaultError> {
        self.may_add()?;
        for sealed in objects {
            // The keeper makes aliases itself, after proof.
            if sealed.kind() == SealedKind::Alias {
                return Err(VaultError::denied("put an alias"));
            }
            let id = sealed.id();
            self.pins.add(&[id]);
            let _ =
                self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asked| asked.checked_sub(1));
            // What it has put before counts. Nobody here can compare contents with ids: whoever stole its credential must not be able to
            // put something else beside what its snapshots refer to.
            let before = self.domain.index.own_stored_kind(&id, self.writer.id);
            if matches!(before, Ok(Some(SealedKind::Object(_)))) {
                continue;
            }
            self.writer.put(&self.domain, sealed);
        }
        self.writer.check(self.failures_seen)
    }

    fn flush(&self) -> Result<(), VaultError> {
        self.may_add()?;
        self.writer.flush(&self.domain);
        self.writer.check(self.failures_seen)?;
        self.domain.write_index()
    }

    fn seal_snapshot(&self, record: SnapshotRecord) -> Result<Snapshot, VaultError> {
        self.may_add()?;
        record.check()?;
        if record.client != self.client {
            return Err(VaultError::denied("seal a snapshot of another client"));
        }
        // One that comes again over another connection waits for the one that is under way, and finds what it made.
        let _one = self.sealing.lock().unwrap_or_else(PoisonError::into_inner);
        self.flush()?;
        let snapshot = Snapshot { record, sealed: self.domain.now(), forgotten: None };
        let path = snapshot.record.id.path(self.domain.id);
        match self.domain.store().get(&path) {
            Err(VaultError::NotFound(_)) => {}
            // The same snapshot sealed twice, because the answer of the first time was lost.
            Ok(bytes) => {
                let there = Snapshot::decode(snapshot.record.id, &bytes)?;
                let same = there.record.root == snapshot.record.root && there.record.client == self.client;
                return if same { Ok(there) } else { Err(VaultError::Exists(path)) };
            }
            Err(error) => return Err(error),
        }
        self.may_have_one_more(&snapshot.record)?;
        self.seal_checked(&snapshot)?;
        self.pins.clear();
        Ok(snapshot)
    }

    fn get(&self, ids: &[ChunkId]) -> Result<Vec<Sealed>, VaultError> {
        let copies = self.copies()?;
        if ids.len() > GET_MAX {
            return Err(VaultError::TooLarge { what: "a question", size: ids.len(), max: GET_MAX });
        }
        self.domain.retry(|| self.domain.read_many(ids, copies))
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, VaultError> {
        let mut all = self.domain.known_snapshots()?;
        if self.rights.read != Reading::Domain {
            all.retain(|snapshot| snapshot.record.client == self.client);
        }
        Ok(all)
    }

    fn forget(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.may_administer("forget a snapshot")?;
        self.domain.forget(id)
    }

    fn remember(&self, id: SnapshotId) -> Result<(), VaultError> {
        self.may_administer("take a forgotten snapshot back")?;
        self.domain.remember(id)
    }

    fn key_files(&self) -> Result<Vec<Vec<u8>>, VaultError> {
        self.domain.key_files()
    }

    fn add_key_file(&self, bytes: &[u8]) -> Result<(), VaultError> {
        let file = KeyFile::decode(bytes)?;
        if file.domain != self.domain.id {
            return Err(VaultError::damaged("the key file", "it is of another key domain"));
        }
        // The first one comes from the client that makes the domain; changing it takes more.
        // What is no key file at all, because it rotted or because somebody wanted to be first, does not count.
        let own = |bytes: &Vec<u8>| KeyFile::decode(bytes).is_ok_and(|file| file.domain == self.domain.id);
        match !self.domain.key_files()?.iter().any(own) {
            true => self.may_add()?,
            false if self.rights.rekey || self.rights.administer => {}
            false => return Err(VaultError::denied("change the keys of a domain")),
        }
        self.domain.add_key_file(bytes)
    }
}
