//! What capture costs without a vault's work: `measure DIRECTORY WORK` backs up and backs up again without change, naming
//! objects and keeping nothing; with a third argument it keeps them in memory and restores them to WORK.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use anshin_capture::{
    Monitor,
    backup::{BackupOptions, BackupRoot, CacheOptions, backup},
    restore::{RestoreOptions, Selection, restore},
    tree::ChunkId,
};
use anshin_vault::{Kind, Sink, VaultError, ids::chunk_id, memory::MemoryVault};
use std::{
    collections::HashSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Instant,
};

/// Names objects and keeps nothing.
#[derive(Default)]
struct Nothing(Mutex<HashSet<ChunkId>>);

impl Sink for Nothing {
    fn put(&self, kind: Kind, refs: &[ChunkId], plain: &[u8]) -> Result<ChunkId, VaultError> {
        let id = chunk_id(&[7; 32], kind, refs, plain);
        self.0.lock().unwrap().insert(id);
        Ok(id)
    }

    fn has(&self, id: &ChunkId) -> Result<bool, VaultError> {
        Ok(self.0.lock().unwrap().contains(id))
    }
}

fn main() {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (source, work) = (arguments.next().unwrap(), arguments.next().unwrap());
    let keep = arguments.next().is_some();
    let mut options = BackupOptions::new(Arc::new(anshin_vault::Chunker::new(&[3; 32])));
    options.cache = Some(CacheOptions { path: work.join("cache"), tag: [1; 32], granularity_s: 0 });
    let (nothing, memory) = (Nothing::default(), MemoryVault::new());
    let sink: &dyn Sink = if keep { &memory } else { &nothing };
    let mut root = None;
    for round in ["full", "unchanged", "unchanged"] {
        let begun = Instant::now();
        let roots = [BackupRoot { source: source.clone(), path: "/".into() }];
        let done = backup(sink, &roots, &options, &Monitor::new()).unwrap();
        println!("{round}: {:.3} s, {:?}", begun.elapsed().as_secs_f64(), done.report);
        root = Some(done.root);
    }
    if keep {
        let begun = Instant::now();
        let (target, options) = (work.join("restored"), RestoreOptions::default());
        let report =
            restore(&memory, &root.unwrap(), &Selection::all(), &target, &options, &Monitor::new()).unwrap();
        println!("restore: {:.3} s, {report:?}", begun.elapsed().as_secs_f64());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}
