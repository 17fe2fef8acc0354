//! What these commands print.

use super::{
    backup::BackupDone,
    client::{JoinDone, TokenDone},
    forget::ForgetDone,
    pick::Told,
    restore::RestoreDone,
    snapshots::{EntryShown, SnapshotShown},
    vault::{InitDone, KeyShown, StatusShown},
};
use crate::cli::out::Style;
use anshin_base::ByteSize;
use anshin_node::keep::administer::{Collected, Verified};
use anshin_vault::FORGOTTEN_FOR_GOOD;
use std::fmt::Write as _;

/// Issues and the like that are printed; `--json` has the first thousand.
const LINES_MAX: usize = 20;

/// A point in time as people here read it.
pub fn time(seconds: u64) -> String {
    let at = jiff::Timestamp::from_second(i64::try_from(seconds).unwrap_or(i64::MAX));
    at.map_or_else(
        |_| format!("{seconds} s"),
        |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The first lines of many, and how many more there are.
fn some(lines: &[String], all: u64) -> String {
    let mut text = String::new();
    for line in lines.iter().take(LINES_MAX) {
        let _ = write!(text, "\n  {line}");
    }
    let shown = lines.len().min(LINES_MAX) as u64;
    if all > shown {
        let _ = write!(text, "\n  … and {} more", all - shown);
    }
    text
}

fn per_second(bytes: u64, seconds: f64) -> String {
    if seconds < 0.1 { String::new() } else { format!(", {}/s", size((bytes as f64 / seconds) as u64)) }
}

/// A vault was made.
pub fn init_done(style: Style, done: &InitDone) -> String {
    let mut text = format!("vault {} ({}) is made at {}\n", done.name, done.id, done.place);
    if let Some(file) = &done.key_file {
        let _ = writeln!(text, "this machine's key is in {file}");
    }
    if done.credentials_kept {
        text += "the object store's credentials are kept with the vault's settings, for root alone\n";
    }
    if let Some(key) = &done.recovery_key {
        let why = "write this recovery key down and put it away; it opens the vault when this machine and its key are lost, is shown once and stored nowhere:";
        let _ = write!(text, "\n{}\n\n    {key}\n", style.wrap(why, 0));
    }
    if let Some(file) = &done.recovery_key_file {
        let why = format!(
            "the recovery key is in {file}: take it away from this machine; it opens the vault when this machine and its key are lost"
        );
        let _ = writeln!(text, "{}", style.wrap(&why, 0));
    }
    match &done.domain {
        Some(_) => text + "\nnext: anshin backup PATH",
        None => {
            let next = "this node stores no data of the site, so it has no key of its backups; print the recovery key on a data node: anshin vault keys add --recovery";
            text + &style.wrap(next, 0)
        }
    }
}

/// A vault in numbers.
pub fn status(style: Style, shown: &StatusShown) -> String {
    let status = &shown.status;
    let mut text = format!(
        "vault {} ({}) at {}, made {}\n{} in {}\n\n",
        shown.vault,
        &status.id.get(..8).unwrap_or(&status.id),
        status.place,
        time(status.created),
        size(status.bytes),
        count(status.packs, "pack", "packs"),
    );
    let rows = status.domains.iter().map(|domain| {
        let here = if shown.opens.as_ref() == Some(&domain.id) { "yes" } else { "no" };
        let last = domain.last_sealed.map_or_else(|| "never".to_owned(), time);
        let name = if domain.name.is_empty() { "?" } else { &domain.name };
        vec![
            name.to_owned(),
            here.to_owned(),
            domain.snapshots.to_string(),
            domain.forgotten.to_string(),
            last,
        ]
    });
    text += &style.table(&["DOMAIN", "KEY HERE", "SNAPSHOTS", "FORGOTTEN", "LAST SEALED"], rows.collect());
    for domain in status.domains.iter().filter(|domain| !domain.recovery) {
        let line = format!(
            "! no recovery key of {} was ever printed: if every machine that holds its key is lost, so is all of it",
            domain.name
        );
        let hint = "hint: on a machine that holds the key: anshin vault keys add --recovery";
        let _ = write!(text, "\n\n{}\n{}", style.wrap(&line, 2), style.wrap(hint, 2));
    }
    if shown.served && shown.opens.is_none() {
        let line = "This node serves the vault and cannot read it: the site's data nodes hold the key.";
        let _ = write!(text, "\n\n{}", style.wrap(line, 0));
    }
    if let Some(problem) = &shown.locked {
        let _ = write!(text, "\n\n{}", style.wrap(&format!("! {}", problem.message), 2));
        if let Some(hint) = &problem.hint {
            let _ = write!(text, "\n{}", style.wrap(&format!("hint: {hint}"), 2));
        }
    }
    text
}

/// What a verification found.
pub fn verified(style: Style, verified: &Verified, named: bool) -> String {
    let decrypted = match verified.objects_decrypted {
        0 => String::new(),
        count => format!(", {count} of them decrypted and compared with their ids"),
    };
    let read = format!(
        "read {} in {}: {} objects{decrypted}; walked {}",
        size(verified.bytes),
        count(verified.packs, "pack", "packs"),
        verified.objects,
        count(verified.snapshots, "snapshot", "snapshots"),
    );
    let mut text = match (verified.good, verified.findings.is_empty()) {
        (true, true) => format!("✓ everything is as it was written\n{}", style.wrap(&read, 0)),
        (true, false) => {
            format!("✓ everything can be restored; some things were put right\n{}", style.wrap(&read, 0))
        }
        (false, _) => format!("✕ the vault is damaged\n{}", style.wrap(&read, 0)),
    };
    for finding in &verified.findings {
        let repaired = if finding.repaired { " (put right)" } else { "" };
        let lost = match finding.lost {
            0 => String::new(),
            lost => format!("; {} lost", count(lost, "object", "objects")),
        };
        let line = format!("{}: {}{lost}{repaired}", finding.what, finding.why);
        let _ = write!(text, "\n{}", style.wrap(&line, 2));
    }
    for damaged in &verified.damaged {
        let lost = count(damaged.lost.len() as u64, "object", "objects");
        let line = format!(
            "snapshot {} of {}, sealed {}, needs {lost} that are lost{}",
            &damaged.snapshot[..8],
            damaged.client,
            time(damaged.sealed),
            if damaged.files.is_empty() { "" } else { "; these files are concerned:" },
        );
        let _ = write!(text, "\n{}", style.wrap(&line, 2));
        text += &some(&damaged.files, damaged.files.len() as u64);
    }
    if !verified.damaged.is_empty() && !named {
        text += "\nthe files can be named where the key is";
    }
    if !verified.damaged.is_empty() {
        let hint = "hint: back up again: what is still on the machines is put into the vault anew; then verify again";
        let _ = write!(text, "\n{}", style.wrap(hint, 2));
    }
    text
}

/// What a collection of garbage did.
pub fn collected(done: &Collected) -> String {
    let mut text = format!(
        "removed {} and {} ({})",
        count(done.snapshots_removed, "forgotten snapshot", "forgotten snapshots"),
        count(done.packs_deleted, "pack", "packs"),
        size(done.bytes_deleted),
    );
    if done.bytes_rewritten > 0 {
        let _ = write!(text, "\nwrote {} anew that lay among garbage", size(done.bytes_rewritten));
    }
    if let Some(next) = done.next {
        let packs = count(done.packs_condemned, "more pack", "more packs");
        let _ = write!(text, "\n{packs} can be removed from {} on", time(next));
    }
    if done.postponed {
        text += "\na running backup came in between; the next collection does the rest";
    }
    text
}

/// The ways to open key domains.
pub fn keys(style: Style, keys: &[KeyShown]) -> String {
    let rows = keys.iter().map(|key| {
        let here = if key.here { "this machine's" } else { "" };
        vec![
            key.name.clone(),
            key.number.to_string(),
            key.kind.to_owned(),
            key.label.clone(),
            here.to_owned(),
        ]
    });
    style.table(&["DOMAIN", "KEY", "KIND", "LABEL", ""], rows.collect())
}

/// A backup was made.
pub fn backup_done(done: &BackupDone) -> String {
    let mut text = format!(
        "snapshot {} in vault {}: {}, {} ({} unchanged)\nread {}, {} new to the vault, {:.1} s{}",
        &done.snapshot[..8],
        done.vault,
        count(done.files, "file", "files"),
        size(done.bytes),
        done.unchanged,
        size(done.bytes_read),
        size(done.new_bytes),
        done.seconds,
        per_second(done.bytes, done.seconds),
    );
    if done.issue_count > 0 {
        let _ = write!(
            text,
            "\n! {}:",
            count(done.issue_count, "thing was not as it should be", "things were not as they should be")
        );
        text += &some(&done.issues, done.issue_count);
    }
    text
}

/// Snapshots, and how many pieces of logs are not among them.
pub fn snapshots(style: Style, all: &[Told], logs: usize) -> String {
    if all.is_empty() && logs == 0 {
        return "there is no snapshot; make one with: anshin backup PATH".to_owned();
    }
    let rows = all.iter().map(|told| {
        let clear = &told.clear;
        let mut what = told.what();
        match clear.forgotten {
            Some(FORGOTTEN_FOR_GOOD) => what += " (forgotten for good)",
            Some(forgotten) => _ = write!(what, " (forgotten {})", time(forgotten)),
            None => {}
        }
        vec![
            told.short().to_owned(),
            time(clear.sealed),
            told.host().to_owned(),
            size(clear.bytes),
            size(clear.new_bytes),
            what,
        ]
    });
    let mut text = style.table(&["SNAPSHOT", "SEALED", "HOST", "SIZE", "NEW", "WHAT"], rows.collect());
    if logs > 0 {
        let pieces = count(logs as u64, "piece of a service's log", "pieces of services' logs");
        let _ = write!(text, "\n{}", style.wrap(&format!("and {pieces}: --all shows them too"), 0));
    }
    text
}

/// One snapshot.
pub fn snapshot(style: Style, shown: &SnapshotShown) -> String {
    let (told, clear) = (&shown.told, &shown.told.clear);
    let mut lines = vec![
        format!("snapshot {}", clear.id),
        format!("sealed:   {}", time(clear.sealed)),
        format!("state of: {}", time(u64::try_from(clear.time / 1_000_000_000).unwrap_or(0))),
        format!("host:     {}", told.host()),
        style.wrap(&format!("what:     {}", told.what()), 10),
        format!("holds:    {} in {}", size(clear.bytes), count(clear.entries, "entry", "entries")),
        format!("new:      {}", size(clear.new_bytes)),
    ];
    if !clear.plan.is_empty() {
        lines.push(format!("plan:     {} ({})", clear.plan, clear.run));
    }
    if let Some(described) = told.described() {
        if !described.excludes.is_empty() {
            lines.push(style.wrap(&format!("without:  {}", described.excludes.join(" ")), 10));
        }
        if !described.tags.is_empty() {
            lines.push(style.wrap(&format!("tags:     {}", described.tags.join(" ")), 10));
        }
        if described.issues > 0 {
            lines.push(format!("issues:   {}", described.issues));
        }
    }
    match clear.forgotten {
        Some(FORGOTTEN_FOR_GOOD) => {
            lines.push("forgotten for good: another snapshot holds what is in it".into());
        }
        Some(forgotten) => lines.push(format!(
            "forgotten {}; back with: anshin forget --undo {}",
            time(forgotten),
            told.short()
        )),
        None => {}
    }
    lines.push(String::new());
    lines.extend(shown.top.iter().map(entry));
    lines.join("\n")
}

/// One entry of a snapshot, as `ls -l` shows it.
pub fn entry(entry: &EntryShown) -> String {
    let bit = |mask: u16, letter: char| if entry.mode & mask != 0 { letter } else { '-' };
    let run = |run: u16, special: u16, both: char, only: char| match (
        entry.mode & run != 0,
        entry.mode & special != 0,
    ) {
        (true, true) => both,
        (false, true) => only,
        (true, false) => 'x',
        (false, false) => '-',
    };
    let mode: String = [
        entry.letter,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        run(0o100, 0o4000, 's', 'S'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        run(0o010, 0o2000, 's', 'S'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        run(0o001, 0o1000, 't', 'T'),
    ]
    .iter()
    .collect();
    let time = time(u64::try_from(entry.mtime).unwrap_or(0));
    let target = entry.target.as_ref().map_or_else(String::new, |target| format!(" -> {target}"));
    format!(
        "{mode} {:<8} {:<8} {:>10} {time} {}{target}",
        entry.user,
        entry.group,
        size(entry.size),
        entry.path
    )
}

/// A restore was made, or would be.
pub fn restore_done(style: Style, done: &RestoreDone) -> String {
    let what = format!(
        "{}, {}, {}",
        count(done.files, "file", "files"),
        count(done.directories, "directory", "directories"),
        count(done.others, "other", "others"),
    );
    let mut text = match done.dry_run {
        true => format!(
            "would restore {what} from snapshot {} to {}\n{} to be written, {} there already",
            &done.snapshot[..8],
            done.to,
            size(done.bytes_written),
            size(done.bytes_equal)
        ),
        false => format!(
            "restored {what} from snapshot {} to {}\n{} written, {} there already, {:.1} s{}",
            &done.snapshot[..8],
            done.to,
            size(done.bytes_written),
            size(done.bytes_equal),
            done.seconds,
            per_second(done.bytes_written, done.seconds),
        ),
    };
    if done.kept > 0 {
        let _ = write!(text, "\n{} left as they are", count(done.kept, "entry", "entries"));
    }
    if done.in_the_way_count > 0 {
        let line = format!("{} there already:", count(done.in_the_way_count, "is", "are"));
        let _ = write!(text, "\n{}", style.wrap(&line, 2));
        text += &some(&done.in_the_way, done.in_the_way_count);
    }
    if let Some(entries) = done.verified {
        let _ = match done.issue_count {
            0 => write!(text, "\n✓ {} compared with the snapshot: equal", count(entries, "entry", "entries")),
            _ => write!(text, "\n✕ {} compared with the snapshot", count(entries, "entry", "entries")),
        };
    }
    if done.issue_count > 0 {
        let _ = write!(
            text,
            "\n! {}:",
            count(done.issue_count, "thing was not as it should be", "things were not as they should be")
        );
        text += &some(&done.issues, done.issue_count);
    }
    text
}

/// Snapshots were forgotten, or would be.
pub fn forget_done(style: Style, done: &ForgetDone) -> String {
    let mut text = String::new();
    for group in &done.groups {
        let _ =
            writeln!(text, "{}", style.wrap(&format!("{} {}: {}", group.host, group.what, group.summary), 2));
        for verdict in &group.verdicts {
            let word = if verdict.keep { "keep  " } else { "forget" };
            let at = time(u64::try_from(verdict.sealed).unwrap_or(0));
            let line = format!("  {word} {} {at}  {}", &verdict.snapshot[..8], verdict.reasons.join("; "));
            let _ = writeln!(text, "{}", style.wrap(&line, 36));
        }
    }
    let marked = done.forgotten.len() as u64;
    let snapshots = count(marked, "snapshot", "snapshots");
    text += &match (done.dry_run, done.undo) {
        (true, true) => format!("would take {snapshots} back"),
        (true, false) => format!("would forget {snapshots}; nothing was done"),
        (false, true) => format!("{snapshots} taken back"),
        (false, false) if marked == 0 => "nothing to forget".to_owned(),
        (false, false) => format!(
            "{snapshots} forgotten; `anshin vault gc` removes what is forgotten for 7 days, until then `anshin forget --undo` takes it back"
        ),
    };
    text
}

/// A token was made.
pub fn client_token(done: &TokenDone) -> String {
    // Never wrapped: it is copied as one line.
    format!(
        "on the machine that is to be backed up, before {}, run:\n  anshin client join {}",
        time(done.expires),
        done.token
    )
}

/// A machine became a client.
pub fn client_joined(style: Style, done: &JoinDone) -> String {
    let client = &done.client;
    let mut text = format!("this machine is client {} of site {}\n", client.name, client.site);
    if let Some(key) = &done.recovery_key {
        let why = "write this recovery key down and put it away; it alone opens what this machine backs up when the machine is lost, is shown once and stored nowhere:";
        let _ = write!(text, "\n{}\n\n    {key}\n\n", style.wrap(why, 0));
    }
    match client.vaults.is_empty() {
        true => text + "the site has no vault yet; join again once it has",
        false => text + "next: anshin backup PATH",
    }
}
