//! The index of paths in tables: `indexed` numbers the snapshots of a target, `blocks` holds its segments.

use super::{CatalogError, Result};
use crate::{
    catalog::{
        FindQuery, Found, Hit, PathChange, Version,
        paths::{BlockWriter, History, Merged, PATH_BYTES_MAX, PathEntry, decode_block, prune, versions},
    },
    words::{SnapshotId, TargetKey},
};
use rusqlite::{Connection, OptionalExtension as _, params};
use std::{collections::VecDeque, iter::Peekable};

/// Two neighbouring segments are merged once the older is not this many times larger than the newer.
const MERGE_FACTOR: u64 = 2;

pub(super) fn unindexed(
    connection: &Connection,
    target: Option<&TargetKey>,
    max: usize,
) -> Result<Vec<SnapshotId>> {
    let mut statement = connection.prepare_cached(
        "SELECT snapshot FROM snapshots WHERE forgotten IS NULL AND (?1 IS NULL OR target = ?1)
         AND snapshot NOT IN (SELECT snapshot FROM indexed) ORDER BY sealed, snapshot LIMIT ?2",
    )?;
    let max = i64::try_from(max).unwrap_or(i64::MAX);
    let rows = statement
        .query_map(params![target.map(|target| &target.0), max], |row| row.get(0).map(SnapshotId))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn base(connection: &Connection, target: &TargetKey) -> Result<Option<SnapshotId>> {
    let sql = "SELECT snapshot FROM indexed WHERE target = ?1 ORDER BY ordinal DESC LIMIT 1";
    Ok(connection.query_row(sql, [&target.0], |row| row.get(0).map(SnapshotId)).optional()?)
}

pub(super) fn index(
    connection: &Connection,
    snapshot: &SnapshotId,
    expect: Option<&SnapshotId>,
    changes: &mut dyn Iterator<Item = PathChange>,
) -> Result<u64> {
    let target: Option<String> = connection
        .query_row("SELECT target FROM snapshots WHERE snapshot = ?1", [&snapshot.0], |row| row.get(0))
        .optional()?;
    let target = TargetKey(target.ok_or_else(|| CatalogError::NoSnapshot(snapshot.clone()))?);
    if let Some(expect) = expect
        && base(connection, &target)?.as_ref() != Some(expect)
    {
        return Err(CatalogError::Store(format!(
            "{expect} is not the snapshot of {target} that was indexed last"
        )));
    }
    let newest: Option<u64> =
        connection
            .query_row("SELECT MAX(ordinal) FROM indexed WHERE target = ?1", [&target.0], |row| row.get(0))?;
    let ordinal = newest.map_or(1, |newest| newest + 1);
    // What the present state is compared with must be read before a new segment is written: into memory by blocks.
    let mut segment = SegmentWriter::new(connection, &target, ordinal, ordinal);
    let mut ordered = Ordered { changes, last: None, left_out: 0 };
    if expect.is_some() {
        while let Some(change) = ordered.next()? {
            segment.add(&History { path: change.path, changes: vec![(ordinal, change.entry)] })?;
        }
    } else {
        add_difference(connection, &target, ordinal, &mut ordered, &mut segment)?;
    }
    segment.finish()?;
    let left_out = ordered.left_out;
    connection.execute("INSERT INTO indexed VALUES (?1, ?2, ?3)", params![target.0, ordinal, snapshot.0])?;
    merge(connection, &target)?;
    Ok(left_out)
}

/// A full list against what the index says of the last indexed snapshot: what is not listed is gone.
fn add_difference(
    connection: &Connection,
    target: &TargetKey,
    ordinal: u64,
    listed: &mut Ordered<'_>,
    segment: &mut SegmentWriter<'_>,
) -> Result<()> {
    let mut known = state(connection, target)?.peekable();
    let mut add = |path: Vec<u8>, entry: Option<PathEntry>| {
        segment.add(&History { path, changes: vec![(ordinal, entry)] })
    };
    while let Some(change) = listed.next()? {
        while let Some(gone) = take_if(&mut known, |path| path < &change.path[..])? {
            add(gone.0, None)?;
        }
        let same = take_if(&mut known, |path| path == &change.path[..])?;
        if same.is_none_or(|(_, entry)| Some(entry) != change.entry) {
            add(change.path, change.entry)?;
        }
    }
    while let Some(gone) = take_if(&mut known, |_| true)? {
        add(gone.0, None)?;
    }
    Ok(())
}

type Known = Result<(Vec<u8>, PathEntry)>;

fn take_if(
    known: &mut Peekable<impl Iterator<Item = Known>>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Option<(Vec<u8>, PathEntry)>> {
    known.next_if(|next| next.as_ref().map_or(true, |(path, _)| wanted(path))).transpose()
}

/// Every path that the last indexed snapshot has.
fn state<'a>(
    connection: &'a Connection,
    target: &TargetKey,
) -> Result<impl Iterator<Item = Known> + use<'a>> {
    let merged = Merged::new(readers(connection, target, &segments(connection, target)?));
    Ok(merged.filter_map(|history| match history {
        Ok(history) => {
            history.changes.last().and_then(|(_, entry)| *entry).map(|entry| Ok((history.path, entry)))
        }
        Err(error) => Some(Err(error)),
    }))
}

/// Checks the order of what comes in and leaves out what is too long.
struct Ordered<'a> {
    changes: &'a mut dyn Iterator<Item = PathChange>,
    last: Option<Vec<u8>>,
    left_out: u64,
}

impl Ordered<'_> {
    fn next(&mut self) -> Result<Option<PathChange>> {
        for change in &mut *self.changes {
            if self.last.as_ref().is_some_and(|last| *last >= change.path) {
                return Err(CatalogError::Order(String::from_utf8_lossy(&change.path).into_owned()));
            }
            self.last = Some(change.path.clone());
            if change.path.len() <= PATH_BYTES_MAX {
                return Ok(Some(change));
            }
            self.left_out += 1;
        }
        Ok(None)
    }
}

/// A segment of a target: the ordinals it covers and its bytes.
#[derive(Clone, Copy, Debug)]
struct Segment {
    first: u64,
    last: u64,
    bytes: u64,
}

fn segments(connection: &Connection, target: &TargetKey) -> Result<Vec<Segment>> {
    let mut statement = connection.prepare_cached(
        "SELECT first, last, SUM(LENGTH(payload)) FROM blocks WHERE target = ?1 GROUP BY first, last ORDER BY first",
    )?;
    let rows = statement.query_map([&target.0], |row| {
        Ok(Segment { first: row.get(0)?, last: row.get(1)?, bytes: row.get(2)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Ordinals of a target's snapshots that are not forgotten, with the snapshots.
fn living(connection: &Connection, target: &TargetKey) -> Result<Vec<(u64, SnapshotId)>> {
    let mut statement = connection.prepare_cached(
        "SELECT ordinal, indexed.snapshot FROM indexed JOIN snapshots ON snapshots.snapshot = indexed.snapshot
         WHERE indexed.target = ?1 AND forgotten IS NULL ORDER BY ordinal",
    )?;
    let rows = statement.query_map([&target.0], |row| Ok((row.get(0)?, SnapshotId(row.get(1)?))))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Merges the newest segments while they are of about one size: so there are about log₂ of the snapshots.
fn merge(connection: &Connection, target: &TargetKey) -> Result<()> {
    loop {
        let all = segments(connection, target)?;
        let [.., older, newer] = &all[..] else { return Ok(()) };
        if older.bytes > newer.bytes.saturating_mul(MERGE_FACTOR) {
            return Ok(());
        }
        let alive: Vec<u64> = living(connection, target)?.into_iter().map(|(ordinal, _)| ordinal).collect();
        let oldest = all.len() == 2;
        // The merged segment covers ordinals of its own, so reading and writing do not meet.
        let mut writer = SegmentWriter::new(connection, target, older.first, newer.last);
        for history in Merged::new(readers(connection, target, &[*older, *newer])) {
            let mut history = history?;
            prune(&mut history, &alive, oldest);
            if !history.changes.is_empty() {
                writer.add(&history)?;
            }
        }
        writer.finish()?;
        for segment in [older, newer] {
            connection.execute(
                "DELETE FROM blocks WHERE target = ?1 AND first = ?2 AND last = ?3",
                params![target.0, segment.first, segment.last],
            )?;
        }
    }
}

struct SegmentWriter<'a> {
    connection: &'a Connection,
    target: TargetKey,
    first: u64,
    last: u64,
    block: u64,
    writer: BlockWriter,
}

impl<'a> SegmentWriter<'a> {
    fn new(connection: &'a Connection, target: &TargetKey, first: u64, last: u64) -> Self {
        Self { connection, target: target.clone(), first, last, block: 0, writer: BlockWriter::default() }
    }

    fn add(&mut self, history: &History) -> Result<()> {
        match self.writer.add(history) {
            Some((_, block)) => self.write(&block),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<()> {
        match self.writer.take() {
            Some((_, block)) => self.write(&block),
            None => Ok(()),
        }
    }

    fn write(&mut self, block: &[u8]) -> Result<()> {
        let mut statement =
            self.connection.prepare_cached("INSERT INTO blocks VALUES (?1, ?2, ?3, ?4, ?5)")?;
        statement.execute(params![self.target.0, self.first, self.last, self.block, block])?;
        self.block += 1;
        Ok(())
    }
}

/// Reads a segment block by block.
struct SegmentReader<'a> {
    connection: &'a Connection,
    target: TargetKey,
    segment: Segment,
    block: u64,
    ready: VecDeque<History>,
    ended: bool,
}

fn readers<'a>(
    connection: &'a Connection,
    target: &TargetKey,
    segments: &[Segment],
) -> Vec<SegmentReader<'a>> {
    let reader = |segment: &Segment| SegmentReader {
        connection,
        target: target.clone(),
        segment: *segment,
        block: 0,
        ready: VecDeque::new(),
        ended: false,
    };
    segments.iter().map(reader).collect()
}

impl SegmentReader<'_> {
    fn load(&mut self) -> Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT payload FROM blocks WHERE target = ?1 AND first = ?2 AND last = ?3 AND block = ?4",
        )?;
        let key = params![self.target.0, self.segment.first, self.segment.last, self.block];
        let payload: Option<Vec<u8>> = statement.query_row(key, |row| row.get(0)).optional()?;
        let Some(payload) = payload else {
            self.ended = true;
            return Ok(());
        };
        self.block += 1;
        let block =
            decode_block(&payload).map_err(|error| CatalogError::Damaged(format!("paths: {error}")))?;
        self.ready = block.into();
        Ok(())
    }
}

impl Iterator for SegmentReader<'_> {
    type Item = Result<History>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.ended {
            if let Err(error) = self.load() {
                self.ended = true;
                return Some(Err(error));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

pub(super) fn find(connection: &Connection, query: &FindQuery) -> Result<Found> {
    let mut found =
        Found { unindexed: unindexed(connection, query.target.as_ref(), usize::MAX)?, ..Found::default() };
    let targets: Vec<TargetKey> = match &query.target {
        Some(target) => vec![target.clone()],
        None => {
            let mut statement =
                connection.prepare_cached("SELECT DISTINCT target FROM indexed ORDER BY target")?;
            let rows = statement.query_map([], |row| row.get(0).map(TargetKey))?;
            rows.collect::<rusqlite::Result<_>>()?
        }
    };
    for target in targets {
        let living = living(connection, &target)?;
        let ordinals: Vec<u64> = living.iter().map(|(ordinal, _)| *ordinal).collect();
        let id = |ordinal: u64| living[ordinals.partition_point(|&known| known < ordinal)].1.clone();
        for history in Merged::new(readers(connection, &target, &segments(connection, &target)?)) {
            let history = history?;
            if !query.pattern.matches(&history.path) {
                continue;
            }
            let version = |(first, last, snapshots, entry)| Version {
                first: id(first),
                last: id(last),
                snapshots,
                entry,
            };
            let versions: Vec<Version> = versions(&history, &ordinals).into_iter().map(version).collect();
            if versions.is_empty() {
                continue;
            }
            if found.hits.len() >= query.max {
                found.more = true;
                return Ok(found);
            }
            found.hits.push(Hit { target: target.clone(), path: history.path, versions });
        }
    }
    Ok(found)
}
