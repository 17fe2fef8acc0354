use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn entry(size: u64) -> PathEntry {
    PathEntry { kind: PathKind::File, size, modified: -5 }
}

fn blocks(histories: &[History]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut writer = BlockWriter::default();
    let mut out: Vec<_> = histories.iter().filter_map(|history| writer.add(history)).collect();
    out.extend(writer.take());
    out
}

#[test]
fn names_are_matched_with_stars_and_paths_as_a_whole() {
    let matches = |pattern: &str, path: &str| Pattern::new(pattern, false).unwrap().matches(path.as_bytes());
    for (pattern, path, expected) in [
        ("report.odt", "srv/Report.ODT", true),
        ("report.odt", "srv/report.odt/x", false),
        ("*.odt", "a/b/c.odt", true),
        ("*.odt", "c.odt.bak", false),
        ("*a*b", "xxaxxbxxb", true),
        ("?.txt", "a/b.txt", true),
        ("?.txt", "a/bb.txt", false),
        ("srv/*", "srv/a/b", true),
        ("/srv/*.txt", "srv/a/b.txt", true),
        ("b/c", "a/b/c", false),
        ("*", "anything", true),
        ("**", "", true),
    ] {
        assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
    }
    assert!(!Pattern::new("A", true).unwrap().matches(b"a"));
    assert!(Pattern::new("", true).is_err());
}

#[test]
fn a_block_has_the_bytes_of_version_one() {
    let histories = [
        History { path: b"etc/fstab".to_vec(), changes: vec![(1, Some(entry(300))), (4, None)] },
        History {
            path: b"etc/hosts".to_vec(),
            changes: vec![(2, Some(PathEntry { kind: PathKind::Link, size: 0, modified: 64 }))],
        },
    ];
    let block = &blocks(&histories)[0];
    assert_eq!(block.0, b"etc/fstab");
    let mut golden = vec![1, 2, 0, 9];
    golden.extend_from_slice(b"etc/fstab");
    golden.extend([2, 1, 1, 0xac, 2, 9, 3, 0, 4, 5]);
    golden.extend_from_slice(b"hosts");
    golden.extend([1, 2, 3, 0, 0x80, 1]);
    assert_eq!(block.1[..block.1.len() - 4], golden);
    assert_eq!(decode_block(&block.1).unwrap(), histories);
}

fn any_history() -> impl Strategy<Value = BTreeMap<Vec<u8>, Vec<(u64, Option<PathEntry>)>>> {
    let kind = prop_oneof![
        Just(PathKind::File),
        Just(PathKind::Directory),
        Just(PathKind::Link),
        Just(PathKind::Special)
    ];
    let entry = (kind, any::<u64>(), any::<i64>()).prop_map(|(kind, size, modified)| PathEntry {
        kind,
        size,
        modified,
    });
    let changes = proptest::collection::btree_map(any::<u64>(), proptest::option::of(entry), 1..5)
        .prop_map(|map| map.into_iter().collect::<Vec<_>>());
    proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 0..20), changes, 0..30)
}

proptest! {
    #[test]
    fn blocks_read_back_as_written(map in any_history()) {
        let histories: Vec<History> = map.into_iter().map(|(path, changes)| History { path, changes }).collect();
        let read: Vec<History> = blocks(&histories).iter().flat_map(|(_, block)| decode_block(block).unwrap()).collect();
        prop_assert_eq!(read, histories);
    }

    #[test]
    fn no_bytes_break_the_decoder(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), right_sum in any::<bool>()) {
        if right_sum {
            bytes.insert(0, 1);
            let sum = crc32c::crc32c(&bytes).to_le_bytes();
            bytes.extend(sum);
        }
        let _ = decode_block(&bytes);
    }

    #[test]
    fn a_flipped_bit_is_noticed(map in any_history(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let histories: Vec<History> = map.into_iter().map(|(path, changes)| History { path, changes }).collect();
        for (_, mut block) in blocks(&histories) {
            let at = at.index(block.len());
            block[at] ^= 1 << bit;
            prop_assert!(decode_block(&block).is_err());
        }
    }
}
