use super::*;
use crate::{catalog::conformance, record::EventKind};
use std::path::PathBuf;

/// A directory that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("anshin-catalog-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn event(position: u64) -> Event {
    let kind = EventKind::Held { snapshot: "s".into(), vault: "v".into(), reason: "r".into() };
    Event { position: Position(position), at: crate::UnixMillis(1), kind }
}

#[test]
fn it_does_what_every_catalog_must() {
    conformance::all(&mut || Box::new(SqliteCatalog::in_memory().unwrap()));
}

#[test]
fn on_disk_it_does_the_same_and_remembers() {
    let scratch = Scratch::new("disk");
    let mut count = 0;
    conformance::all(&mut || {
        count += 1;
        Box::new(SqliteCatalog::open(&scratch.0.join(format!("{count}.sqlite"))).unwrap().catalog)
    });
    let path = scratch.0.join("again.sqlite");
    SqliteCatalog::open(&path).unwrap().catalog.apply(&event(1)).unwrap();
    let again = SqliteCatalog::open(&path).unwrap();
    assert_eq!((again.note, again.catalog.position().unwrap()), (None, Position(1)));
}

#[test]
fn a_damaged_file_is_set_aside_with_a_note_and_an_empty_catalog_takes_its_place() {
    let scratch = Scratch::new("damaged");
    let path = scratch.0.join("catalog.sqlite");
    for damage in 0..5_u64 {
        let mut catalog = SqliteCatalog::open(&path).unwrap().catalog;
        (1..=50).for_each(|n| assert!(catalog.apply(&event(n)).unwrap()));
        drop(catalog);
        let mut bytes = std::fs::read(&path).unwrap();
        match damage {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes[..100].fill(0x55),
            2 => bytes = b"this is no database at all, whatever its name says".repeat(100),
            // Pages of tables and indexes.
            _ => {
                let from = 4_096 * damage as usize;
                bytes[from..from + 4_096].fill(0xa5);
            }
        }
        std::fs::write(&path, bytes).unwrap();
        let opened = SqliteCatalog::open(&path).unwrap();
        assert!(
            opened.note.as_ref().is_some_and(|note| note.contains(".damaged-")),
            "{damage}: {:?}",
            opened.note
        );
        assert_eq!(opened.catalog.position().unwrap(), Position(0));
        drop(opened);
        std::fs::remove_file(&path).unwrap();
    }
    let kept = std::fs::read_dir(&scratch.0)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-"));
    assert_eq!(kept.count(), 3, "old damaged files make room");
}

#[test]
fn a_file_of_a_newer_build_is_set_aside() {
    let scratch = Scratch::new("newer");
    let path = scratch.0.join("catalog.sqlite");
    let catalog = SqliteCatalog::open(&path).unwrap().catalog;
    catalog.connection.pragma_update(None, "user_version", 99).unwrap();
    drop(catalog);
    let opened = SqliteCatalog::open(&path).unwrap();
    assert!(opened.note.unwrap().contains("version 99"));
}

#[test]
fn damage_in_the_index_of_paths_is_told_from_an_answer() {
    let mut catalog = SqliteCatalog::in_memory().unwrap();
    conformance_sample(&mut catalog);
    catalog.connection.execute("UPDATE blocks SET payload = substr(payload, 1, 9)", []).unwrap();
    let pattern = crate::catalog::Pattern::new("*", false).unwrap();
    let error = catalog.find(&FindQuery { pattern, target: None, max: 9 }).unwrap_err();
    assert!(matches!(error, CatalogError::Damaged(_)), "{error}");
}

fn conformance_sample(catalog: &mut SqliteCatalog) {
    use crate::{catalog::*, record::Sealed, words::*};
    let fact = Fact::Snapshot(VaultSnapshot {
        vault: "v".into(),
        plan: "p".into(),
        label: Label { run: RunId(1), attempt: Attempt(1), target: "t".into() },
        at: crate::UnixMillis(1),
        sealed: Sealed { snapshot: "s".into(), bytes: u64::MAX, ..Sealed::default() },
    });
    catalog.rebuild(&Rebuild::default(), &mut [fact].into_iter()).unwrap();
    let entry = PathEntry { kind: PathKind::File, size: 1, modified: 1 };
    let change = PathChange { path: b"a/long/enough/path".to_vec(), entry: Some(entry) };
    catalog.index(&"s".into(), None, &mut [change].into_iter()).unwrap();
}
