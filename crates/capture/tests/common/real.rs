//! A real vault below what is captured.

use anshin_capture::{
    Monitor,
    backup::{Backup, BackupOptions, BackupRoot, CacheOptions, backup},
};
use anshin_vault::{DomainKeys, Keeper, Rights, Session, SnapshotDraft, SnapshotId, Vault};
use std::{path::Path, sync::Arc};

/// A session of its own, as a client has it.
pub fn session(vault: &Vault, keys: &DomainKeys) -> Session {
    let handle = vault.handle(keys.domain(), "client", Rights::CLIENT, false).unwrap();
    let keeper: Arc<dyn Keeper> = Arc::new(handle);
    Session::new(keeper, keys.clone()).unwrap()
}

/// Backs up and seals in a session of its own.
pub fn run(vault: &Vault, keys: &DomainKeys, tree: &Path, cache: &Path) -> Backup {
    let session = session(vault, keys);
    let mut options = BackupOptions::new(Arc::new(session.chunker()));
    options.now = options.now.plus_seconds(60); // so that everything is old enough to be cached
    options.cache = Some(CacheOptions { path: cache.into(), tag: [0; 32], granularity_s: 2 });
    let root = BackupRoot { source: tree.into(), path: "/".into() };
    let done = backup(&session, &[root], &options, &Monitor::new()).unwrap();
    assert!(done.report.issues.is_empty(), "{:?}", done.report.issues);
    let draft = SnapshotDraft {
        id: SnapshotId::generate().unwrap(),
        plan: "nightly".into(),
        run: "1".into(),
        time: 0,
        root: done.root,
        entries: done.report.files,
        bytes: done.report.bytes,
        meta: Vec::new(),
    };
    session.seal(draft).unwrap();
    done
}
