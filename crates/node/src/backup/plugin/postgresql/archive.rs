//! The log as an archive.

use super::{backup::Server, cluster::Cluster, sql::Sql};
use crate::backup::{
    log::PARTIAL,
    plugin::{guest::Guest, protocol::Say},
};
use anshin_base::Problem;
use std::{
    collections::BTreeMap,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    process::Stdio,
    sync::mpsc::RecvTimeoutError,
    time::Duration,
};

/// A file in the spool that asks for something in the log, so that it shows that it reaches this instant.
const MARK: &str = ".mark";
/// For the log to come into the spool, in looks.
const LOOKS: u32 = 150;
/// Between two looks at the program.
const LOOK: Duration = Duration::from_millis(200);

/// Runs until it is told to end by a signal, which ends `pg_receivewal` too, or until the executor is gone: what is left behind
/// would keep the slot from the next one.
pub fn archive(
    guest: &Guest,
    service: &str,
    facts: &BTreeMap<String, String>,
    spool: &Path,
) -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::new("postgresql", format!("{}: {error}", spool.display()));
    let cluster = Cluster::of(facts);
    let mut sql = Sql::connect(&cluster, "postgres")?;
    let server = Server::ask(&mut sql)?;
    let slot = slot(service);
    // Before the slot: one that nobody reads keeps the log for ever.
    let program = cluster.program("pg_receivewal", Some(server.version / 10_000))?;
    // Versions before 13 lose no slots, and have no such column.
    let state = sql.ask(&format!(
        "SELECT coalesce(to_jsonb(s) ->> 'wal_status', 'there') FROM pg_replication_slots s WHERE slot_name = '{slot}'"
    ))?;
    let present = sql.ask("SELECT pg_walfile_name(pg_current_wal_flush_lsn())")?;
    let pieces = names(spool).map_err(failed)?;
    if state == "lost" {
        guest.stale("PostgreSQL has thrown away log that was not archived yet (max_slot_wal_keep_size)")?;
        drop_slot(&mut sql, &slot)?;
    } else if state.is_empty() && pieces.iter().any(|name| is_piece(name)) {
        guest.stale("PostgreSQL has not kept its log for the archive: its replication slot was gone")?;
    } else if pieces.iter().any(|name| is_ahead(name, &present)) {
        guest.stale("the data was set back by hand: its log goes on before what was archived")?;
    }
    sql.ask(&format!(
        "SELECT pg_create_physical_replication_slot('{slot}', true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_replication_slots WHERE slot_name = '{slot}')"
    ))?;
    free_slot(&mut sql, &slot)?;
    drop(sql);
    let owner = std::fs::metadata(&server.data).map_err(failed)?;
    chown(spool, Some(owner.uid()), Some(owner.gid())).map_err(failed)?;
    std::fs::set_permissions(spool, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let mut command = cluster.client(&program);
    command.arg("-D").arg(spool).args(["--slot", &slot, "--synchronous", "--no-loop"]);
    // What it says is for the log; standard output is ours.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    guest.say(&Say::Ready)?;
    let gone = Guest::gone();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break status;
        }
        if spool.join(MARK).exists()
            && let Err(problem) = mark(&cluster, &slot, &spool.join(MARK))
        {
            guest.say(&Say::Warning { text: format!("nothing could be put into the log: {problem}") })?;
        }
        if gone.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Problem::new("postgresql", "the executor is gone"));
        }
    };
    Err(Problem::new("postgresql", format!("pg_receivewal ended with {status}"))
        .hint("may PostgreSQL's own user connect for replication (`local replication all peer`), and is max_wal_senders above 0?"))
}

/// Has the server keep nothing more for the archive.
pub fn end(service: &str, facts: &BTreeMap<String, String>) -> Result<(), Problem> {
    drop_slot(&mut Sql::connect(&Cluster::of(facts), "postgres")?, &slot(service))
}

/// Whoever still reads the slot was left behind by an executor that was killed, and would keep it for ever; it ends when it is cut
/// off (`--no-loop`).
fn free_slot(sql: &mut Sql, slot: &str) -> Result<(), Problem> {
    for _ in 0..LOOKS {
        let cut = format!(
            "SELECT count(pg_terminate_backend(active_pid)) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        );
        if sql.ask(&cut)? == "0" {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(Problem::new("postgresql", format!("the replication slot {slot} is in use")))
}

/// One that was just left is still in use for a moment.
fn drop_slot(sql: &mut Sql, slot: &str) -> Result<(), Problem> {
    for _ in 0..LOOKS {
        sql.ask(&format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
        ))?;
        let left = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
        if sql.ask(&left)? == "0" {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(Problem::new("postgresql", format!("the replication slot {slot} is in use")))
}

fn names(spool: &Path) -> std::io::Result<Vec<String>> {
    std::fs::read_dir(spool)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Timeline, number of 4 GiB, number in it: 24 digits, of which the last 16 grow whatever the timeline.
fn is_piece(name: &str) -> bool {
    let digits = name.strip_suffix(PARTIAL).unwrap_or(name);
    digits.len() == 24 && digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

/// Whether a piece cannot be of the history whose present piece is this one.
fn is_ahead(name: &str, present: &str) -> bool {
    is_piece(name) && is_piece(present) && (name[8..24] > present[8..24] || name[..8] > present[..8])
}

/// A recovery to an instant ends at the first change after it. This is one, for a database in which nothing else happens; the
/// file goes once it is in the spool.
fn mark(cluster: &Cluster, slot: &str, file: &Path) -> Result<(), Problem> {
    let mut sql = Sql::connect(cluster, "postgres")?;
    sql.ask("SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'anshin', 'mark')")?;
    let end = sql.ask("SELECT pg_current_wal_flush_lsn()")?;
    for _ in 0..LOOKS {
        let there =
            format!("SELECT restart_lsn >= '{end}' FROM pg_replication_slots WHERE slot_name = '{slot}'");
        if sql.ask(&there)? == "t" {
            return std::fs::remove_file(file)
                .map_err(|error| Problem::new("postgresql", format!("{}: {error}", file.display())));
        }
        std::thread::sleep(LOOK);
    }
    Err(Problem::new("postgresql", "the log does not come into the spool"))
}

/// A slot's name has small letters, digits and `_`, at most 63.
fn slot(service: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let name: String = service.chars().map(plain).take(50).collect();
    format!("anshin_{name}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_a_server_has_yet_to_write_is_of_another_history() {
        let ahead = |name| super::is_ahead(name, "000000030000000000000009");
        for other in
            ["00000001000000000000000A.partial", "000000010000000100000000", "000000040000000000000008"]
        {
            assert!(ahead(other), "{other}");
        }
        for own in [
            "000000030000000000000009",
            "000000030000000000000009.partial",
            "00000004000000000000000A.x",
            "00000004.history",
            "000000020000000000000008",
        ] {
            assert!(!ahead(own), "{own}");
        }
        assert!(!super::is_ahead("00000001000000000000000A", ""), "what is not known accuses nobody");
    }

    #[test]
    fn a_slot_is_named_after_its_service() {
        assert_eq!(super::slot("DB-1"), "anshin_db_1");
    }
}
