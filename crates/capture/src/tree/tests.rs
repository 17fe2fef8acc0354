use super::*;
use anshin_vault::{Kind, Sink, Source, memory::MemoryVault};
use proptest::{collection::vec, option, prelude::*};
use std::{ops::ControlFlow, sync::Arc};

fn timestamp() -> impl Strategy<Value = Timestamp> {
    (any::<i64>(), 0u32..1_000_000_000).prop_map(|(seconds, nanoseconds)| Timestamp { seconds, nanoseconds })
}

fn bytes(most: usize) -> impl Strategy<Value = Box<[u8]>> {
    vec(any::<u8>(), 0..=most).prop_map(Into::into)
}

fn name() -> impl Strategy<Value = Box<[u8]>> {
    vec(any::<u8>().prop_filter("not in names", |b| !matches!(b, 0 | b'/')), 1..12)
        .prop_filter("not names", |n| n != b"." && n != b"..")
        .prop_map(Into::into)
}

fn id() -> impl Strategy<Value = ChunkId> {
    any::<[u8; 32]>().prop_map(ChunkId)
}

fn segments() -> impl Strategy<Value = Vec<Segment>> {
    vec((any::<bool>(), 1u64..1 << 40, id()), 1..SEGMENTS_INLINE_MAX).prop_map(|list| {
        let mut out: Vec<Segment> = Vec::new();
        for (hole, length, id) in list {
            match out.last() {
                Some(Segment::Hole { .. }) => out.push(Segment::Data { id, length }),
                _ if hole => out.push(Segment::Hole { length }),
                _ => out.push(Segment::Data { id, length }),
            }
        }
        out
    })
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        any::<u64>().prop_map(|size| Content::Missing { size }),
        bytes(CONTENT_INLINE_MAX).prop_map(Content::Inline),
        segments().prop_map(Content::Segments),
        (id(), 0u64..1 << 62, 0u64..1 << 62).prop_map(|(id, a, b)| Content::Stored {
            id,
            size: a.max(b),
            data: a.min(b)
        }),
    ]
}

fn kind() -> impl Strategy<Value = EntryKind> {
    let device = (any::<u32>(), any::<u32>()).prop_map(|(major, minor)| Device { major, minor });
    prop_oneof![
        content().prop_map(EntryKind::File),
        content().prop_map(EntryKind::Image),
        prop_oneof![
            Just(Listing::Empty),
            Just(Listing::OtherFileSystem),
            Just(Listing::Unreadable),
            (id(), any::<u64>(), any::<u64>())
                .prop_map(|(id, entries, bytes)| Listing::Stored { id, totals: Totals { entries, bytes } }),
        ]
        .prop_map(EntryKind::Directory),
        bytes(40).prop_map(EntryKind::Symlink),
        Just(EntryKind::Fifo),
        Just(EntryKind::Socket),
        device.clone().prop_map(EntryKind::CharDevice),
        device.prop_map(EntryKind::BlockDevice),
    ]
}

fn xattrs() -> impl Strategy<Value = Xattrs> {
    prop_oneof![
        vec((name(), bytes(60)), 0..4).prop_map(|mut list| {
            list.sort();
            list.dedup_by(|a, b| a.0 == b.0);
            Xattrs::Inline(list.into_iter().map(|(name, value)| Xattr { name, value }).collect())
        }),
        id().prop_map(Xattrs::Stored),
    ]
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let owner = (0u32..3, 0u32..3, option::of(name()), option::of(name()))
        .prop_map(|(uid, gid, user, group)| Arc::new(Owner { uid, gid, user, group }));
    let times = (timestamp(), option::of(timestamp()), option::of(timestamp()), option::of(timestamp()));
    (0u16..0o10000, owner, times, any::<u32>(), any::<u32>(), xattrs()).prop_map(
        |(mode, owner, (mtime, ctime, btime, atime), flags, project, xattrs)| Attributes {
            mode,
            owner,
            mtime,
            ctime,
            btime,
            atime,
            flags: flags & 0x30,
            project: project & 1,
            xattrs,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let link = option::of((any::<u64>(), any::<u64>()).prop_map(|(mount, inode)| LinkGroup { mount, inode }));
    (name(), kind(), attributes(), link).prop_map(|(name, kind, attributes, link)| Entry {
        name,
        kind,
        attributes,
        link,
    })
}

fn entries(most: usize) -> impl Strategy<Value = Vec<Entry>> {
    vec(entry(), 0..most).prop_map(|mut list| {
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list.dedup_by(|a, b| a.name == b.name);
        list
    })
}

fn encode(entries: &[Entry]) -> (Vec<u8>, Vec<ChunkId>) {
    let mut leaf = LeafEncoder::default();
    entries.iter().for_each(|entry| leaf.push(entry));
    leaf.finish()
}

/// A file whose every field follows from a number.
fn plain(number: u64, name: &str) -> Entry {
    let owner = Arc::new(Owner { uid: 1000, gid: 100, user: Some((*b"hanako").into()), group: None });
    let time = |add: i64| Timestamp { seconds: 1_700_000_000 + add, nanoseconds: 123_456_789 };
    Entry {
        name: name.as_bytes().into(),
        kind: EntryKind::File(Content::Inline(number.to_le_bytes().into())),
        attributes: Attributes {
            mode: 0o644,
            owner,
            mtime: time(number as i64),
            ctime: Some(time(9)),
            ..Default::default()
        },
        link: None,
    }
}

fn write_directory(vault: &MemoryVault, entries: &[Entry]) -> Listing {
    let mut writer = DirectoryWriter::new();
    for entry in entries {
        writer.push(vault, entry).unwrap();
    }
    writer.finish(vault).unwrap().0
}

proptest! {
    #[test]
    fn every_entry_comes_back(list in entries(12)) {
        prop_assume!(!list.is_empty());
        let (body, refs) = encode(&list);
        prop_assert_eq!(Node::decode(&body, &refs), Ok(Node::Leaf(Leaf { entries: list })));
    }

    #[test]
    fn foreign_bytes_never_panic_and_what_is_accepted_has_one_encoding(
        list in entries(4), flips in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4), cut in any::<prop::sample::Index>(),
    ) {
        let (mut body, refs) = encode(&list);
        for (at, value) in flips {
            let at = at.index(body.len());
            body[at] = value;
        }
        if let Ok(Node::Leaf(leaf)) = Node::decode(&body, &refs) {
            prop_assert_eq!(encode(&leaf.entries), (body.clone(), refs.clone()));
        }
        body.truncate(cut.index(body.len() + 1));
        let _ = Node::decode(&body, &refs);
    }

    #[test]
    fn any_bytes_never_panic(kind in 0u8..8, rest in vec(any::<u8>(), 0..200), refs in vec(id(), 0..4)) {
        let mut body = vec![VERSION, kind];
        body.extend(rest);
        let _ = Node::decode(&body, &refs);
    }

    #[test]
    fn a_list_of_contents_comes_back_whatever_its_length(
        pieces in vec((0u8..4, 1u64..5000, any::<[u8; 2]>()), 0..2000)
    ) {
        let vault = MemoryVault::new();
        let mut writer = ContentWriter::new();
        let mut expected: Vec<Segment> = Vec::new();
        for (hole, length, seed) in pieces {
            let piece = match hole {
                0 => Segment::Hole { length },
                _ => Segment::Data { id: vault.put(Kind::Data, &[], &seed).unwrap(), length },
            };
            writer.push(&vault, piece).unwrap();
            match (expected.last_mut(), piece) {
                (Some(Segment::Hole { length: before }), Segment::Hole { length }) => *before += length,
                _ => expected.push(piece),
            }
        }
        let (content, closure) = writer.finish(&vault).unwrap();
        let nodes = Nodes::new(&vault, 16);
        let reader = ContentReader::new(&nodes);
        let (mut list, mut at) = (Vec::new(), 0);
        let _ = reader.segments(&content, |offset, segment| {
            assert_eq!(offset, at);
            at += segment.length();
            list.push(segment);
            ControlFlow::<()>::Continue(())
        }).unwrap();
        prop_assert_eq!(content.size(), at);
        if let Content::Stored { id, .. } = content {
            prop_assert!(closure.contains(&id));
            prop_assert!(list.len() > SEGMENTS_INLINE_MAX);
        }
        for offset in [0, at / 3, at.saturating_sub(1)].into_iter().filter(|offset| *offset < at) {
            let (begin, segment) = reader.segment_at(&content, offset).unwrap().unwrap();
            prop_assert!(begin <= offset && offset < begin + segment.length());
        }
        prop_assert_eq!(reader.segment_at(&content, at).unwrap(), None);
        prop_assert_eq!(list, expected);
    }
}

#[test]
fn a_large_directory_is_read_in_order_and_by_name() {
    let vault = MemoryVault::new();
    let names: Vec<String> = (0..20_000).map(|n| format!("file-{n:05}")).collect();
    let list: Vec<Entry> = names.iter().enumerate().map(|(n, name)| plain(n as u64, name)).collect();
    let listing = write_directory(&vault, &list);
    let nodes = Nodes::new(&vault, 100);
    let read: Vec<Entry> = DirectoryReader::new(&nodes, &listing).map(Result::unwrap).collect();
    assert_eq!(read, list);
    for at in [0, 1, 511, 7777, 19_999] {
        let found = DirectoryReader::find(&nodes, &listing, names[at].as_bytes()).unwrap();
        assert_eq!(found.as_ref(), Some(&list[at]));
    }
    for absent in ["a", "file-00000x", "zzz"] {
        assert_eq!(DirectoryReader::find(&nodes, &listing, absent.as_bytes()).unwrap(), None);
    }
    let Listing::Stored { totals, .. } = listing else { panic!("{listing:?}") };
    assert_eq!(totals, Totals { entries: 20_000, bytes: 160_000 });
}

#[test]
fn a_change_in_a_large_directory_writes_few_objects() {
    let vault = MemoryVault::new();
    let mut list: Vec<Entry> = (0..50_000).map(|n| plain(n, &format!("file-{n:06}"))).collect();
    let before = write_directory(&vault, &list);
    assert_eq!(write_directory(&vault, &list), before, "the same directory has the same id");
    let (_, objects) = vault.counts();
    list.remove(20_000);
    list.insert(30_000, plain(1, "file-030000-new"));
    assert_ne!(write_directory(&vault, &list), before);
    let (_, after) = vault.counts();
    assert!(after - objects <= 8, "{} objects for two changes, of {objects}", after - objects);
}

#[test]
fn large_attributes_become_objects_and_come_back() {
    let vault = MemoryVault::new();
    let list: Vec<Xattr> = (0..200u8)
        .map(|n| Xattr {
            name: format!("user.{n:03}").into_bytes().into(),
            value: vec![n; usize::from(n) * 300].into(),
        })
        .collect();
    let sealed = seal_xattrs(&vault, list.clone()).unwrap();
    assert!(matches!(sealed, Xattrs::Stored(_)));
    assert_eq!(read_xattrs(&Nodes::new(&vault, 4), &sealed).unwrap(), list);
    let few = seal_xattrs(&vault, list[..3].to_vec()).unwrap();
    assert_eq!(few, Xattrs::Inline(list[..3].to_vec()));
}

#[test]
fn no_object_exceeds_the_bound() {
    let vault = MemoryVault::new();
    let list: Vec<Entry> = (0..3000u64)
        .map(|n| {
            let mut entry = plain(n, &format!("{n:0250}"));
            let value = vec![n as u8; XATTRS_INLINE_MAX - 6].into();
            entry.attributes.xattrs = Xattrs::Inline(vec![Xattr { name: (*b"user.x").into(), value }]);
            entry
        })
        .collect();
    write_directory(&vault, &list);
    for id in vault.ids() {
        let object = vault.get(&id).unwrap();
        assert!(object.plain.len() + object.refs.len() * 32 < 2 * PART_TARGET, "{}", object.plain.len());
    }
}

#[test]
fn a_root_covers_everything_beneath() {
    let vault = MemoryVault::new();
    let root_of = |number| {
        let listing = write_directory(&vault, &[plain(number, "a")]);
        let below = Entry { kind: EntryKind::Directory(listing), ..plain(0, "below") };
        let listing = write_directory(&vault, &[below]);
        let top = Entry { kind: EntryKind::Directory(listing), ..plain(0, "top") };
        write_root(&vault, &top).unwrap()
    };
    assert_eq!(root_of(1), root_of(1));
    assert_ne!(root_of(1), root_of(2), "a byte two levels down");
    let root = read_root(&Nodes::new(&vault, 4), &root_of(1)).unwrap();
    assert_eq!(root.name.len(), 0);
    assert!(root.is_directory());
}

#[test]
fn version_1_has_these_bytes() {
    let mut file = plain(7, "data");
    file.attributes.btime = Some(Timestamp { seconds: -1, nanoseconds: 5 });
    file.attributes.flags = 0x10;
    file.attributes.project = 3;
    file.attributes.xattrs = Xattrs::Inline(vec![Xattr { name: (*b"user.a").into(), value: (*b"1").into() }]);
    file.link = Some(LinkGroup { mount: 0, inode: 4711 });
    let chunk = ChunkId([0xAA; 32]);
    file.kind = EntryKind::File(Content::Segments(vec![
        Segment::Data { id: chunk, length: 1000 },
        Segment::Hole { length: 4096 },
    ]));
    let link = Entry { kind: EntryKind::Symlink((*b"data").into()), ..plain(0, "date") };
    let device = Entry { kind: EntryKind::CharDevice(Device { major: 1, minor: 3 }), ..plain(0, "null") };
    let (body, refs) = encode(&[file, link, device]);
    assert_eq!(refs, [chunk]);
    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, include_str!("../../golden/leaf-1.hex").trim());
}
