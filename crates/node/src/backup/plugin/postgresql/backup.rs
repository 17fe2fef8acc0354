//! A base backup while the server runs.

use super::{About, NAME, Tablespace, cluster::Cluster, setup, sql::Sql};
use crate::backup::plugin::{guest::Guest, protocol::Say};
use anshin_base::Problem;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a restored server makes anew, after the manual's chapter on base backups. Directories stay, empty.
const LEFT_OUT: [&str; 15] = [
    "/pg_wal/*",
    "/postmaster.pid",
    "/postmaster.opts",
    "/backup_label",
    "/tablespace_map",
    "/backup_manifest",
    "/pg_replslot/*",
    "/pg_dynshmem/*",
    "/pg_notify/*",
    "/pg_serial/*",
    "/pg_snapshots/*",
    "/pg_stat_tmp/*",
    "/pg_subtrans/*",
    "pgsql_tmp*",
    "pg_internal.init*",
];

/// What is asked of the server first.
#[derive(Debug, Deserialize)]
pub struct Server {
    /// `server_version_num`.
    pub version: u32,
    pub wal_level: String,
    pub data: PathBuf,
    pub standby: bool,
    pub system: String,
    pub slots: u32,
    pub slots_used: u32,
}

impl Server {
    /// Asks.
    ///
    /// # Errors
    /// What the server says, or that it cannot be backed up as it is set up.
    pub fn ask(sql: &mut Sql) -> Result<Self, Problem> {
        let server: Self = sql.json(
            "SELECT json_build_object('version', current_setting('server_version_num')::int, \
             'wal_level', current_setting('wal_level'), 'data', current_setting('data_directory'), \
             'standby', pg_is_in_recovery(), 'system', (SELECT system_identifier::text FROM pg_control_system()), \
             'slots', current_setting('max_replication_slots')::int, \
             'slots_used', (SELECT count(*) FROM pg_replication_slots))",
        )?;
        if server.version < 120_000 {
            return Err(setup(format!("PostgreSQL {} is older than 12", server.version / 10_000)));
        }
        if server.wal_level == "minimal" {
            return Err(setup(
                "PostgreSQL's `wal_level` is `minimal`: its log is not enough to bring a backup back",
            )
            .hint("ALTER SYSTEM SET wal_level = 'replica'; then restart PostgreSQL once"));
        }
        if server.standby {
            return Err(setup("this PostgreSQL is a standby").hint("back up the primary"));
        }
        Ok(server)
    }
}

#[derive(Debug, Deserialize)]
struct Ended {
    lsn: String,
    label: String,
    file: String,
}

/// See the module.
pub fn backup(guest: &Guest, facts: &BTreeMap<String, String>) -> Result<(), Problem> {
    let cluster = Cluster::of(facts);
    let mut sql = Sql::connect(&cluster, "postgres")?;
    let server = Server::ask(&mut sql)?;
    let tablespaces = tablespaces(&mut sql)?;
    reserve(guest, &mut sql, &server)?;
    let (start, stop) = match server.version {
        150_000.. => ("pg_backup_start('anshin', true)", "pg_backup_stop(false)"),
        _ => ("pg_start_backup('anshin', true, false)", "pg_stop_backup(false, false)"),
    };
    let start = sql.ask(&format!("SELECT {start}"))?;
    let first = sql.ask(&format!("SELECT pg_walfile_name('{start}')"))?;
    guest.note(format!("{NAME} {} is in backup mode since {start}", server.version / 10_000))?;
    let end = |sql: &mut Sql| -> Result<Ended, Problem> {
        sql.json(&format!(
            "SELECT json_build_object('lsn', lsn, 'label', labelfile, 'file', pg_walfile_name(lsn)) FROM {stop}"
        ))
    };
    // At an instant, all files are as they were within the backup: the mode can end before they are read.
    let ended = if guest.hold()? {
        let ended = end(&mut sql)?;
        read(guest, &server.data, &tablespaces)?;
        ended
    } else {
        read(guest, &server.data, &tablespaces)?;
        end(&mut sql)?
    };
    wal(guest, &mut sql, &server.data, &first, &ended.file)?;
    guest.file("backup_label", ended.label.as_bytes())?;
    let about = About {
        version: server.version,
        system: server.system,
        place: server.data,
        wal_first: first,
        wal_last: ended.file,
        start,
        stop: ended.lsn,
        tablespaces,
    };
    let about = serde_json::to_value(about).map_err(|error| Problem::new("postgresql", error.to_string()))?;
    guest.say(&Say::About { about })
}

fn tablespaces(sql: &mut Sql) -> Result<Vec<Tablespace>, Problem> {
    sql.json(
        "SELECT coalesce(json_agg(json_build_object('oid', oid::bigint, 'location', pg_tablespace_location(oid))), '[]') \
         FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')",
    )
}

/// Keeps the log of the backup from being recycled until it is read; ends with the session.
fn reserve(guest: &Guest, sql: &mut Sql, server: &Server) -> Result<(), Problem> {
    if server.slots_used >= server.slots {
        let text = "all replication slots of PostgreSQL are used; the log of a long backup might be recycled before it is read";
        return guest.say(&Say::Warning { text: format!("{text}: raise max_replication_slots") });
    }
    sql.ask("SELECT pg_create_physical_replication_slot('anshin_backup_' || pg_backend_pid(), true, true)")
        .map(drop)
}

fn read(guest: &Guest, data: &Path, tablespaces: &[Tablespace]) -> Result<(), Problem> {
    let exclude: Vec<String> = LEFT_OUT.map(str::to_owned).into();
    let part = |path: &Path, name: String| Say::Read {
        path: path.into(),
        name,
        exclude: exclude.clone(),
        live: false,
        changing: true,
    };
    guest.read(&part(data, "data".into()))?;
    for Tablespace { oid, location } in tablespaces {
        guest.read(&part(location, format!("tablespaces/{oid}")))?;
    }
    Ok(())
}

/// The log from the beginning to the end of the backup, so that the snapshot needs nothing else.
fn wal(guest: &Guest, sql: &mut Sql, data: &Path, first: &str, last: &str) -> Result<(), Problem> {
    let names: Vec<String> = sql.json(&format!(
        "SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_ls_waldir() \
         WHERE name ~ '^[0-9A-F]{{24}}$' AND name >= '{first}' AND name <= '{last}'"
    ))?;
    let ends = (names.first().map(String::as_str), names.last().map(String::as_str));
    if ends != (Some(first), Some(last)) {
        let message =
            format!("PostgreSQL has recycled the log of the backup ({first} to {last}) before it was read");
        return Err(Problem::new("postgresql", message).hint("raise wal_keep_size or max_replication_slots"));
    }
    for name in names {
        guest.read_file(&data.join("pg_wal").join(&name), format!("wal/{name}"))?;
    }
    Ok(())
}
