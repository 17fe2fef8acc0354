//! A server on restored data, seen by nobody: its socket is in a directory of its user's alone, and it listens nowhere else.

use super::{cluster::Cluster, sql::Sql};
use anshin_base::Problem;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);
/// A clean end writes everything out; then it is killed, and recovers at its next start.
const STOP_MAX: Duration = Duration::from_secs(600);

/// See the module. Dropping it kills it.
pub struct Private {
    child: Child,
    run: PathBuf,
    cluster: Cluster,
    stopped: bool,
}

fn failed(what: &str, error: impl std::fmt::Display) -> Problem {
    Problem::new("postgresql", format!("{what}: {error}"))
}

/// In a configuration file.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

impl Private {
    /// Starts PostgreSQL `major` on `data`, with these settings.
    pub fn start(
        base: &Cluster,
        major: u32,
        data: &Path,
        settings: &[(&str, String)],
    ) -> Result<Self, Problem> {
        let program = base.program("postgres", Some(major))?;
        let owner = fs::metadata(data).map_err(|error| failed("the restored data", error))?;
        // The path of a socket is short; a restored directory's may not be.
        let run = std::env::temp_dir().join(format!("anshin-postgresql-{}", std::process::id()));
        let made = fs::create_dir(&run)
            .and_then(|()| fs::set_permissions(&run, fs::Permissions::from_mode(0o700)))
            .and_then(|()| fs::write(run.join("postgresql.conf"), configuration(&run)))
            .and_then(|()| fs::write(run.join("pg_hba.conf"), "local all all trust\n"))
            .and_then(|()| fs::write(run.join("pg_ident.conf"), ""))
            .and_then(|()| fs::File::create(run.join("log")));
        let log = made.map_err(|error| failed("cannot prepare a private server", error))?;
        for path in ["", "postgresql.conf", "pg_hba.conf", "pg_ident.conf", "log"].map(|name| run.join(name))
        {
            chown(&path, Some(owner.uid()), Some(owner.gid()))
                .map_err(|error| failed("cannot prepare a private server", error))?;
        }
        let mut command = as_owner(&owner, &program);
        command.arg("-D").arg(data).arg("-c").arg(format!("config_file={}/postgresql.conf", run.display()));
        let overrides = OVERRIDES.map(|(key, value)| (key, value.to_owned()));
        // Of two for one key the later wins.
        for (key, value) in overrides.iter().chain(settings) {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        command.current_dir("/").env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(|error| failed("cannot start PostgreSQL", error))?;
        let user = base.user.clone();
        let cluster =
            Cluster { user, socket: run.display().to_string(), port: 5432, programs: base.programs.clone() };
        Ok(Self { child, run, cluster, stopped: false })
    }

    /// Waits until it takes writes: all recovery has ended.
    ///
    /// # Errors
    /// If it ends first; the message has the end of its log.
    pub fn ready(&mut self) -> Result<Sql, Problem> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(|error| failed("PostgreSQL", error))? {
                self.stopped = true;
                return Err(self.ended(status));
            }
            if let Ok(mut sql) = Sql::connect(&self.cluster, "postgres")
                && sql.ask("SELECT pg_is_in_recovery()")? == "f"
            {
                return Ok(sql);
            }
            std::thread::sleep(LOOK);
        }
    }

    fn ended(&self, status: std::process::ExitStatus) -> Problem {
        let log = self.log();
        if log.contains("recovery ended before configured recovery target was reached") {
            let last = last_transaction(&log).unwrap_or_else(|| "an unknown time".into());
            return Problem::new(
                "postgresql",
                format!("the archived log does not reach that time: it ends at {last}"),
            )
            .hint("the log is archived every minute; give an earlier time, or none for the latest that there is");
        }
        if log.contains("requested recovery stop point is before consistent recovery point") {
            return Problem::new("postgresql", "that time is before the end of the snapshot's backup")
                .hint("take an earlier snapshot (--snapshot), or a later time");
        }
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        failed(
            "PostgreSQL could not be started on the restored data",
            format!("{status}: {}", tail.join("; ")),
        )
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read(self.run.join("log"))
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// How to reach it.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Ends it cleanly.
    ///
    /// # Errors
    /// If it does not end.
    pub fn stop(mut self) -> Result<(), Problem> {
        self.signal(rustix::process::Signal::INT);
        let end = Instant::now() + STOP_MAX;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().map_err(|error| failed("PostgreSQL", error))? {
                self.stopped = true;
                return if status.success() { Ok(()) } else { Err(self.ended(status)) };
            }
            std::thread::sleep(LOOK);
        }
        Err(failed("PostgreSQL", "it does not end"))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if !self.stopped {
            // At once, but so that it takes its own processes with it.
            self.signal(rustix::process::Signal::QUIT);
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(LOOK);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        let _ = fs::remove_dir_all(&self.run);
    }
}

/// On the command line, where they win over what the data directory itself says (`postgresql.auto.conf`).
const OVERRIDES: [(&str, &str); 21] = [
    ("listen_addresses", ""),
    ("port", "5432"),
    ("archive_mode", "off"),
    ("ssl", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("shared_preload_libraries", ""),
    ("primary_conninfo", ""),
    ("synchronous_standby_names", ""),
    ("hot_standby", "off"),
    ("external_pid_file", ""),
    ("max_wal_senders", "0"),
    // A log with prepared transactions cannot be replayed without room for them.
    ("max_prepared_transactions", "1024"),
    // Other programs leave what they restored with in `postgresql.auto.conf`.
    ("restore_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_target", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    ("recovery_target_lsn", ""),
];

fn configuration(run: &Path) -> String {
    let place = |name: &str| quoted(&run.join(name).display().to_string());
    format!(
        "hba_file = {}\nident_file = {}\nunix_socket_directories = {}\nshared_buffers = '64MB'\nautovacuum = off\n\
         log_min_messages = log\n",
        place("pg_hba.conf"),
        place("pg_ident.conf"),
        quoted(&run.display().to_string())
    )
}

/// By number: the restored owner may have another name here, or none.
pub fn as_owner(owner: &fs::Metadata, program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={}", owner.uid())).arg(format!("--regid={}", owner.gid()));
    command.arg("--clear-groups").arg("--").arg(program);
    command
}

/// The newest change that a recovery came to, as its log tells.
pub fn last_transaction(log: &str) -> Option<String> {
    let line = log.lines().rev().find(|line| line.contains("last completed transaction was at log time"))?;
    Some(line.rsplit_once("log time ")?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_kept_in_configuration() {
        assert_eq!(quoted(r"a'b\c"), r"'a''b\\c'");
    }

    #[test]
    fn the_last_transaction_is_found_in_the_log() {
        let log = "LOG:  redo done at 0/3000 system usage\nLOG:  last completed transaction was at log time 2026-11-29 18:00:01.5+00\n";
        assert_eq!(last_transaction(log).as_deref(), Some("2026-11-29 18:00:01.5+00"));
    }
}
