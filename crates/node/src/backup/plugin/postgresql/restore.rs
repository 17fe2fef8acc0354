//! From a snapshot to a data directory that a server starts on, at the wanted instant.

use super::{
    About,
    cluster::Cluster,
    server::{Private, last_transaction},
    setup,
};
use crate::backup::{
    log::PARTIAL,
    plugin::{guest::Guest, protocol::Say},
};
use anshin_base::Problem;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    path::Path,
};

/// What an earlier life of the data left behind.
const LEFTOVERS: [&str; 8] = [
    "postmaster.pid",
    "postmaster.opts",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "recovery.signal",
    "standby.signal",
];

/// See the module. The recovery runs here, not at the service's next start: what is given back is known to be good.
pub fn restore(
    guest: &Guest,
    facts: &BTreeMap<String, String>,
    about: &About,
    directory: &Path,
    log: Option<&Path>,
    time: Option<&str>,
) -> Result<(), Problem> {
    let cluster = Cluster::of(facts);
    let major = about.version / 10_000;
    cluster.program("postgres", Some(major))?;
    if time.is_some() && log.is_none() {
        return Err(setup(
            "no log of PostgreSQL is archived since this snapshot, so it cannot be brought to a time",
        )
        .hint("leave the time out to get the instant of the snapshot"));
    }
    let time = time.map(read_time).transpose()?;
    let data = directory.join("data");
    prepare(&data, directory, about)
        .map_err(|error| Problem::new("postgresql", format!("cannot prepare {}: {error}", data.display())))?;
    let mut settings = Vec::new();
    if let Some(log) = log {
        if let Some((last, next)) = gap(log, about) {
            let text = format!(
                "the archived log has a gap: it ends at {last} and goes on at {next}; what happened after the gap is not in this restore, a newer backup may have it"
            );
            guest.say(&Say::Warning { text })?;
        }
        let owner = fs::metadata(&data).map_err(|error| Problem::new("postgresql", error.to_string()))?;
        let signal = data.join("recovery.signal");
        let made = fs::write(&signal, "").and_then(|()| chown(&signal, Some(owner.uid()), Some(owner.gid())));
        made.map_err(|error| Problem::new("postgresql", error.to_string()))?;
        settings.push(("restore_command", fetch(log)));
        settings.push(("recovery_target_action", "promote".to_owned()));
        settings.push(("recovery_target_inclusive", "on".to_owned()));
        settings.push(("recovery_target_timeline", timeline(log, about)?.to_string()));
    }
    settings.extend(time.map(|time| ("recovery_target_time", time)));
    let mut server = Private::start(&cluster, major, &data, &settings)?;
    let mut sql = server.ready()?;
    sql.ask("CHECKPOINT")?;
    drop(sql);
    let reached = last_transaction(&server.log());
    server.stop()?;
    for name in ["backup_label.old", "tablespace_map.old", "postmaster.opts"] {
        let _ = fs::remove_file(data.join(name));
    }
    guest.note(format!("recovered to {}", reached.as_deref().unwrap_or("the end of the backup")))?;
    guest.say(&Say::Restored { data: "data".into(), place: about.place.clone(), reached })
}

/// The last piece before a gap in the log and the first one after it, counted from where the snapshot ends. Pieces are numbered
/// through whatever the timeline; how many make 4 GiB follows from the size of one. One that is not complete, on no timeline, ends
/// the log.
fn gap(log: &Path, about: &About) -> Option<(String, String)> {
    let mut sizes = BTreeSet::new();
    let mut pieces: BTreeMap<(u32, u32), (bool, String)> = BTreeMap::new();
    let number = |name: &str| {
        let part = |range| u32::from_str_radix(name.get(range)?, 16).ok();
        Some((part(8..16)?, part(16..24)?))
    };
    for entry in fs::read_dir(log).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let complete = name.len() == 24;
        let wanted = complete || name.strip_suffix(PARTIAL).is_some_and(|name| name.len() == 24);
        if let (true, Some(at), Ok(found)) = (wanted, number(&name), entry.metadata()) {
            sizes.insert(found.len());
            let known = pieces.entry(at).or_insert((complete, name.clone()));
            if complete {
                *known = (complete, name);
            }
        }
    }
    let per = u32::try_from((1_u64 << 32) / sizes.last().copied().filter(|size| *size >= 1 << 20)?).ok()?;
    let mut last = (number(&about.wal_last)?, true, about.wal_last.clone());
    for (&at, (complete, name)) in pieces.range(last.0..) {
        if at == last.0 {
            continue;
        }
        let (high, low) = last.0;
        let next = match low.checked_add(1).filter(|low| *low < per) {
            Some(low) => (high, low),
            None => (high.saturating_add(1), 0),
        };
        if at != next || !last.1 {
            return Some((last.2, name.clone()));
        }
        last = (at, *complete, name.clone());
    }
    None
}

/// The newest timeline to which the snapshot belongs: what was given up by an earlier restore goes on no further, and its
/// snapshots are brought back along what was. As PostgreSQL's manual describes timelines and their history files.
fn timeline(log: &Path, about: &About) -> Result<u32, Problem> {
    let odd = |what: &str| setup(format!("{what} is nothing that PostgreSQL writes"));
    let base = about.wal_last.get(..8).and_then(|name| u32::from_str_radix(name, 16).ok());
    let base = base.ok_or_else(|| odd(&about.wal_last))?;
    let stop = position(&about.stop).ok_or_else(|| odd(&about.stop))?;
    let mut newest = base;
    for entry in fs::read_dir(log).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let number = name.strip_suffix(".history").and_then(|name| u32::from_str_radix(name, 16).ok());
        let Some(number) = number.filter(|number| *number > newest) else { continue };
        let history = fs::read_to_string(entry.path()).map_err(|error| setup(format!("{name}: {error}")))?;
        let ancestors = history.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?.parse::<u32>().ok()?, position(words.next()?)?))
        });
        if ancestors.into_iter().any(|(ancestor, left)| ancestor == base && left >= stop) {
            newest = number;
        }
    }
    Ok(newest)
}

/// A position in the log, as `0/5000100`.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

/// A time with its offset from UTC, as RFC 3339 has it, in the form that PostgreSQL takes in its configuration: there it knows
/// no names of zones yet, not even `Z`.
fn read_time(time: &str) -> Result<String, Problem> {
    let read = time.parse::<jiff::Timestamp>().map_err(|error| {
        setup(format!("`{time}` is not a time: {error}"))
            .hint("write it as 2026-11-29T18:00:00Z or 2026-11-29T19:00:00+01:00")
    })?;
    Ok(read.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
}

/// Finished pieces first; the one that was being written has what there is.
fn fetch(log: &Path) -> String {
    let log = log.display().to_string().replace('%', "%%").replace('\'', r"'\''");
    format!("if test -f '{log}/%f'; then cp '{log}/%f' '%p'; else cp '{log}/%f.partial' '%p'; fi")
}

fn prepare(data: &Path, directory: &Path, about: &About) -> io::Result<()> {
    let owner = fs::metadata(data)?;
    let own = |path: &Path| chown(path, Some(owner.uid()), Some(owner.gid()));
    for name in LEFTOVERS {
        match fs::remove_file(data.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // It may have been a link to another disk.
    let wal = data.join("pg_wal");
    match fs::symlink_metadata(&wal) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&wal)?,
        Ok(_) => fs::remove_file(&wal)?,
        Err(_) => {}
    }
    for path in [wal.clone(), wal.join("archive_status")] {
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
        own(&path)?;
    }
    for entry in fs::read_dir(directory.join("wal"))? {
        let entry = entry?;
        let path = wal.join(entry.file_name());
        fs::rename(entry.path(), &path)?;
        own(&path)?;
    }
    fs::remove_dir(directory.join("wal"))?;
    let label = data.join("backup_label");
    fs::rename(directory.join("backup_label"), &label)?;
    own(&label)?;
    for tablespace in &about.tablespaces {
        let link = data.join("pg_tblspc").join(tablespace.oid.to_string());
        let _ = fs::remove_file(&link);
        symlink(directory.join("tablespaces").join(tablespace.oid.to_string()), &link)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_that_fetches_the_log_survives_strange_paths() {
        let text = fetch(Path::new("/a'b/100%"));
        assert!(text.starts_with(r"if test -f '/a'\''b/100%%/%f'; then"), "{text}");
    }

    #[test]
    fn a_gap_in_the_log_is_seen() {
        let log = std::env::temp_dir().join(format!("anshin-gap-{}", std::process::id()));
        fs::create_dir_all(&log).unwrap();
        let piece = |name: &str| fs::File::create(log.join(name)).unwrap().set_len(16 << 20).unwrap();
        let about = About {
            version: 150_000,
            system: String::new(),
            place: "/pg".into(),
            wal_first: "0000000100000000000000FD".into(),
            wal_last: "0000000100000000000000FE".into(),
            start: "0/FD000000".into(),
            stop: "0/FE000100".into(),
            tablespaces: Vec::new(),
        };
        assert_eq!(gap(&log, &about), None, "there is no log");
        piece("0000000100000000000000F0");
        piece("0000000100000000000000FF");
        fs::write(log.join("00000002.history"), "1\t1/0\tno reason\n").unwrap();
        piece("000000020000000100000000");
        piece("000000020000000100000001.partial");
        assert_eq!(gap(&log, &about), None, "what is older than the snapshot is not needed");
        piece("000000020000000100000002");
        let (last, next) = gap(&log, &about).unwrap();
        assert_eq!(
            (last.as_str(), next.as_str()),
            ("000000020000000100000001.partial", "000000020000000100000002"),
            "it was never finished"
        );
        piece("000000030000000100000001");
        assert_eq!(gap(&log, &about), None, "but on another timeline it was");
        fs::remove_file(log.join("000000020000000100000002")).unwrap();
        fs::remove_file(log.join("000000030000000100000001")).unwrap();
        piece("000000020000000100000003");
        let (last, next) = gap(&log, &about).unwrap();
        assert_eq!(
            (last.as_str(), next.as_str()),
            ("000000020000000100000001.partial", "000000020000000100000003")
        );
        fs::remove_file(log.join("0000000100000000000000FF")).unwrap();
        assert_eq!(gap(&log, &about).unwrap().0, about.wal_last);
        fs::remove_dir_all(log).unwrap();
    }

    #[test]
    fn a_time_has_an_offset() {
        assert_eq!(read_time("2026-11-29T18:00:00.25Z").unwrap(), "2026-11-29 18:00:00.250000+00");
        assert_eq!(read_time("2026-11-29 18:00:00+01:00").unwrap(), "2026-11-29 17:00:00.000000+00");
        for bad in ["2026-11-29 18:00:00", "yesterday", ""] {
            assert!(read_time(bad).is_err(), "{bad}");
        }
    }
}
