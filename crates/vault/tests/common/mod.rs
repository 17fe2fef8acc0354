//! A small world around a vault: file trees of a made-up kind, backed up and restored through the public interface.
#![allow(dead_code, clippy::unwrap_used)]

use anshin_vault::keeper::vault::Clock;
use anshin_vault::store::Store;
use anshin_vault::{
    ChunkId, DomainKeys, Keeper, Kind, Options, Rights, Session, Sink, Snapshot, SnapshotDraft, SnapshotId,
    Source, Vault, VaultError,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is backed up: contents by name, in two levels of trees.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A clock that tests set.
#[derive(Clone, Default)]
pub struct TestClock(pub Arc<AtomicU64>);

impl TestClock {
    pub fn advance(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub fn clock(&self) -> Clock {
        let time = self.0.clone();
        Arc::new(move || 1_000_000 + time.load(Ordering::SeqCst))
    }
}

/// Small packs, no delays: every mechanism is at work with little data.
pub fn options(clock: &TestClock) -> Options {
    Options {
        clock: clock.clock(),
        pack_size: 4096,
        forget_delay: 0,
        grace: 0,
        waste_percent: 30,
        uploads: None,
    }
}

pub fn keys(n: u8) -> DomainKeys {
    DomainKeys::derive([n; 32])
}

/// Numbers that look random and are the same each time.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(length + 8);
        while out.len() < length {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(length);
        out
    }
}

/// Some files; about half of the contents come from a small pool, so that there is something to deduplicate.
pub fn files(numbers: &mut Numbers, count: u64) -> Files {
    let mut files = Files::new();
    for _ in 0..count {
        let name = format!("d{}/f{}", numbers.below(4), numbers.below(1000));
        let length = numbers.below(1500) as usize;
        let content =
            if numbers.below(2) == 0 { Numbers(numbers.below(20)).bytes(700) } else { numbers.bytes(length) };
        files.insert(name, content);
    }
    files
}

fn tree(sink: &dyn Sink, entries: &[(String, ChunkId)]) -> Result<ChunkId, VaultError> {
    let refs: Vec<ChunkId> = entries.iter().map(|(_, id)| *id).collect();
    let names = entries.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join("\n");
    sink.put(Kind::Tree, &refs, names.as_bytes())
}

/// Stores the files; returns the root.
pub fn put_files(sink: &dyn Sink, files: &Files) -> Result<ChunkId, VaultError> {
    let mut directories: BTreeMap<String, Vec<(String, ChunkId)>> = BTreeMap::new();
    for (name, content) in files {
        let (directory, own) = name.split_once('/').unwrap_or(("", name));
        let id = sink.put(Kind::Data, &[], content)?;
        directories.entry(directory.into()).or_default().push((own.into(), id));
    }
    let mut top = Vec::new();
    for (name, entries) in directories {
        top.push((name, tree(sink, &entries)?));
    }
    tree(sink, &top)
}

/// Reads the files below a root back.
pub fn get_files(source: &dyn Source, root: &ChunkId) -> Result<Files, VaultError> {
    let list = |id: &ChunkId| -> Result<Vec<(String, ChunkId)>, VaultError> {
        let object = source.get(id)?;
        assert_eq!(object.kind, Kind::Tree);
        let names = String::from_utf8(object.plain).unwrap();
        Ok(names.split('\n').map(str::to_owned).zip(object.refs).collect())
    };
    let mut files = Files::new();
    for (directory, id) in list(root)? {
        let entries = list(&id)?;
        let ids: Vec<ChunkId> = entries.iter().map(|(_, id)| *id).collect();
        for ((name, _), object) in entries.into_iter().zip(source.get_many(&ids)?) {
            files.insert(format!("{directory}/{name}"), object.plain);
        }
    }
    Ok(files)
}

pub fn session(vault: &Vault, keys: &DomainKeys, client: &str) -> Session {
    session_with(vault, keys, client, Rights::CLIENT)
}

pub fn session_with(vault: &Vault, keys: &DomainKeys, client: &str, rights: Rights) -> Session {
    let handle: Arc<dyn Keeper> = Arc::new(vault.handle(keys.domain(), client, rights, false).unwrap());
    Session::new(handle, keys.clone()).unwrap()
}

pub fn draft(root: ChunkId) -> SnapshotDraft {
    SnapshotDraft {
        id: SnapshotId::generate().unwrap(),
        plan: "nightly".into(),
        run: "r1".into(),
        time: 7,
        root,
        entries: 1,
        bytes: 2,
        meta: b"about".to_vec(),
    }
}

/// One whole backup.
pub fn backup(session: &Session, files: &Files) -> Result<Snapshot, VaultError> {
    let root = put_files(session, files)?;
    session.seal(draft(root))
}

pub fn create(store: Arc<dyn Store>, clock: &TestClock) -> Vault {
    Vault::create(store, options(clock)).unwrap()
}
