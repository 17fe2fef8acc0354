//! A real PostgreSQL on a real volume: backed up under load, a table dropped, brought back to the instant before.

use crate::common::{PATIENCE, Running, Scratch, Volume, access, back_up, devices, job, must, restore};
use anshin_director::{PlanName, Span, plan::Source, run::AttemptState};
use anshin_node::backup::{
    ArchiveEndJob, ArchiveJob, ArchiveState,
    job::{PluginSubject, Subject, VolumeSubject},
    restore_job::{Conflict, Destination, Part, RestoreJob, ServiceRestore},
};
use rustix::fs::{CWD, RenameFlags};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    versions.map(|entry| entry.path().join("bin")).find(|path| path.join("initdb").exists())
}

/// A server of the test's own.
struct Server {
    programs: PathBuf,
    data: PathBuf,
    socket: PathBuf,
}

impl Server {
    fn make(programs: PathBuf, data: PathBuf, socket: PathBuf, settings: &str) -> Self {
        for path in [&data, &socket] {
            fs::create_dir_all(path).unwrap();
            must("chown", &["postgres:postgres", path.to_str().unwrap()]);
        }
        let server = Self { programs, data, socket };
        server.run("initdb", &["-k", "--auth-local=trust", "-N", "-D", server.data.to_str().unwrap()]);
        let mut file = fs::File::options().append(true).open(server.data.join("postgresql.conf")).unwrap();
        let socket = server.socket.display();
        writeln!(
            file,
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nshared_buffers = '32MB'\n{settings}"
        )
        .unwrap();
        server.start();
        server
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let program = self.programs.join(program);
        let all = [&["-u", "postgres", "--", program.to_str().unwrap()], arguments].concat();
        let output = Command::new("runuser").args(&all).current_dir("/").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let log = || fs::read_to_string(self.data.join("log")).unwrap_or_default();
        assert!(output.status.success(), "{all:?}\n{out}\n{err}\n{}", log());
        out.into_owned()
    }

    fn start(&self) {
        let (data, log) = (self.data.to_str().unwrap(), self.data.join("log"));
        let options = format!("-k {}", self.socket.display());
        self.run("pg_ctl", &["start", "-w", "-D", data, "-l", log.to_str().unwrap(), "-o", &options]);
    }

    fn stop(&self) {
        self.run("pg_ctl", &["stop", "-w", "-m", "fast", "-D", self.data.to_str().unwrap()]);
    }

    fn sql(&self, text: &str) -> String {
        let socket = self.socket.to_str().unwrap();
        self.run("psql", &["-XqAt", "-v", "ON_ERROR_STOP=1", "-h", socket, "-d", "postgres", "-c", text])
            .trim()
            .to_owned()
    }

    fn plugin(&self) -> PluginSubject {
        let facts = BTreeMap::from([
            ("socket_directory".to_owned(), self.socket.display().to_string()),
            ("bin_directory".to_owned(), self.programs.display().to_string()),
        ]);
        PluginSubject { plugin: "postgresql".into(), facts }
    }

    /// Inserts for as long as it is wanted, several connections at once.
    fn load(&self, stop: &AtomicBool, number: u32) {
        let mut command = Command::new("runuser");
        let psql = self.programs.join("psql");
        command.args([
            "-u",
            "postgres",
            "--",
            psql.to_str().unwrap(),
            "-XqAt",
            "-h",
            self.socket.to_str().unwrap(),
            "-d",
            "postgres",
        ]);
        let mut child = command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // What is queued when the load ends is to be done soon.
        writeln!(input, "SET synchronous_commit = off;").unwrap();
        while !stop.load(Ordering::Relaxed) {
            let text = format!(
                "INSERT INTO items (writer, word) SELECT {number}, md5(random()::text) FROM generate_series(1, 20);"
            );
            writeln!(input, "{text}").unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(input);
        child.wait().unwrap();
    }

    fn rows(&self) -> String {
        self.sql("SELECT count(*) || ' ' || md5(string_agg(id || writer::text || word, ',' ORDER BY id)) FROM items")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ctl = self.programs.join("pg_ctl");
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", ctl.to_str().unwrap(), "stop", "-w", "-m", "immediate", "-D"]);
        let _ = command.arg(&self.data).current_dir("/").stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

fn subject(server: &Server, volume: Option<VolumeSubject>) -> Subject {
    Subject::Service { service: "db".into(), volume, plugin: Some(server.plugin()) }
}

fn source() -> Source {
    Source::Service { service: "db".into(), plugin: None }
}

fn restore_job(
    server: &Server,
    snapshot: &str,
    to: Destination,
    time: Option<&str>,
    log: bool,
) -> RestoreJob {
    RestoreJob {
        vault: access(),
        snapshot: snapshot.into(),
        part: Part::default(),
        to,
        conflict: Conflict::Refuse,
        verify: false,
        service: Some(ServiceRestore {
            service: "db".into(),
            plugin: server.plugin(),
            time: time.map(str::to_owned),
            log,
            at_start: None,
            check: true,
        }),
    }
}

fn archive_job(server: &Server, spool: PathBuf) -> ArchiveJob {
    ArchiveJob {
        vault: access(),
        plan: PlanName::from("nightly"),
        target: source().key().unwrap(),
        service: "db".into(),
        plugin: server.plugin(),
        spool,
        every: Span(1),
    }
}

/// An archive whose words are heard as they come.
struct Archive {
    running: Running,
    moved: Arc<AtomicU64>,
    listener: Option<JoinHandle<String>>,
}

impl Archive {
    fn start(scratch: &Scratch, job: &ArchiveJob) -> Self {
        let mut running = Running::start(scratch, "archive", job);
        let moved = Arc::new(AtomicU64::new(0));
        let (mut lines, count) = (running.lines.take().unwrap(), moved.clone());
        let listener = std::thread::spawn(move || {
            let mut last = String::new();
            loop {
                let mut line = String::new();
                if lines.read_line(&mut line).unwrap() == 0 {
                    return last;
                }
                match serde_json::from_str(&line).unwrap() {
                    ArchiveState::Moved { .. } => count.fetch_add(1, Ordering::Relaxed),
                    ArchiveState::Waiting { problem, .. } => panic!("{problem}"),
                };
                last = line;
            }
        });
        Self { running, moved, listener: Some(listener) }
    }

    /// Waits until the spool has been moved twice more: what was written before this call is in the vault.
    fn catch_up(&self) {
        let wanted = self.moved.load(Ordering::Relaxed) + 2;
        let end = Instant::now() + PATIENCE;
        while self.moved.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < end, "the archive goes on");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it; its last word.
    fn end(mut self) -> String {
        self.running.input.take();
        self.listener.take().unwrap().join().unwrap()
    }
}

fn load<T>(server: &Server, act: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..3 {
            let stop = &stop;
            scope.spawn(move || server.load(stop, number));
        }
        let _stop = Stop(&stop);
        act()
    })
}

#[test]
fn a_dropped_table_comes_back_as_it_was_the_instant_before() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    if !devices("postgresql::a_dropped_table_comes_back_as_it_was_the_instant_before") {
        return;
    }
    let scratch = Scratch::new("postgresql");
    let volume = Volume::mounted(&scratch, "data", "768M", &["mkfs.ext4", "-q", "-F"]);
    let server = Server::make(programs, volume.mount.join("pg"), scratch.directory("socket"), "");
    server.sql("CREATE TABLE items (id bigserial PRIMARY KEY, writer int, word text)");
    let archive = Archive::start(&scratch, &archive_job(&server, volume.mount.join("spool")));

    let sealed = load(&server, || {
        std::thread::sleep(Duration::from_millis(500));
        let sealed = back_up(&scratch, &job(source(), subject(&server, Some(volume.subject()))));
        std::thread::sleep(Duration::from_millis(500));
        sealed
    });
    assert_eq!(sealed.warnings, 0, "{}", scratch.log());
    let rows = server.rows();
    std::thread::sleep(Duration::from_millis(300));
    let before = server
        .sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    std::thread::sleep(Duration::from_millis(300));
    server.sql("DROP TABLE items");
    server.sql("CREATE TABLE afterwards (x int)");
    server.sql("INSERT INTO afterwards VALUES (1)");
    archive.catch_up();

    // Into scratch, while the service goes on.
    let snapshot = sealed.snapshot.to_string();
    let to = Destination::Directory { path: scratch.path("scratch") };
    let done = restore(&scratch, &restore_job(&server, &snapshot, to, Some(&before), true)).unwrap();
    assert!(done.checked.as_ref().unwrap().contains("all page checksums are right"), "{done:?}");
    let restored = Server {
        programs: server.programs.clone(),
        data: done.place.unwrap(),
        socket: scratch.directory("socket-scratch"),
    };
    must("chown", &["postgres:postgres", restored.socket.to_str().unwrap()]);
    restored.start();
    assert_eq!(restored.rows(), rows, "every row, and no other");
    restored.stop();

    // To a time that the log does not know.
    let to = Destination::Directory { path: scratch.path("future") };
    let late = restore(&scratch, &restore_job(&server, &snapshot, to, Some("2100-01-01T00:00:00Z"), true));
    let late = late.unwrap_err();
    assert!(late.message.contains("does not reach that time"), "{late}");

    // In place.
    assert!(archive.end().contains("moved"), "the last of the log is moved at the end");
    server.stop();
    let done = restore(&scratch, &restore_job(&server, &snapshot, Destination::InPlace, Some(&before), true))
        .unwrap();
    assert_eq!(done.place.as_deref(), Some(server.data.as_path()));
    server.start();
    assert_eq!(server.rows(), rows, "every row, and no other");
    server.stop();
    assert!(done.before.unwrap().join("PG_VERSION").exists(), "what was there is kept");
}

#[test]
fn a_base_backup_without_volume_and_log_is_good_by_itself_and_cheap_the_next_time() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let scratch = Scratch::new("postgresql-live");
    let server = Server::make(programs, scratch.path("pg"), scratch.directory("socket"), "");
    server.sql("CREATE TABLE items (id bigserial PRIMARY KEY, writer int, word text)");
    let outside = scratch.directory("outside");
    must("chown", &["postgres:postgres", outside.to_str().unwrap()]);
    server.sql(&format!("CREATE TABLESPACE outside LOCATION '{}'", outside.display()));
    server.sql("CREATE TABLE far TABLESPACE outside AS SELECT generate_series(1, 5000) AS x");
    let first = load(&server, || {
        std::thread::sleep(Duration::from_millis(300));
        back_up(&scratch, &job(source(), subject(&server, None)))
    });
    assert_eq!(first.warnings, 0, "files that change are no trouble here: {}", scratch.log());
    std::thread::sleep(Duration::from_secs(3));
    server.sql("CHECKPOINT");
    back_up(&scratch, &job(source(), subject(&server, None)));
    std::thread::sleep(Duration::from_secs(3));
    let before = scratch.log().len();
    let third = back_up(&scratch, &job(source(), subject(&server, None)));
    let read: u64 =
        scratch.log()[before..].split(" read=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(read < third.bytes / 2, "unchanged files are not read: {read} of {}", third.bytes);
    let to = Destination::Directory { path: scratch.path("back") };
    let done =
        restore(&scratch, &restore_job(&server, &third.snapshot.to_string(), to, None, false)).unwrap();
    let rows = server.rows();
    server.stop();
    let restored = Server {
        programs: server.programs.clone(),
        data: done.place.unwrap(),
        socket: scratch.directory("socket-back"),
    };
    must("chown", &["postgres:postgres", restored.socket.to_str().unwrap()]);
    restored.start();
    assert_eq!(restored.rows(), rows);
    assert_eq!(restored.sql("SELECT sum(x) FROM far"), "12502500");
    restored.stop();
    let link = fs::read_dir(restored.data.join("pg_tblspc")).unwrap().flatten().next().unwrap();
    assert!(fs::read_link(link.path()).unwrap().starts_with(scratch.path("back")), "not the original's");
}

#[test]
fn a_server_whose_log_is_not_enough_is_refused_with_what_to_do() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let scratch = Scratch::new("postgresql-minimal");
    let settings = "wal_level = minimal\nmax_wal_senders = 0";
    let server = Server::make(programs, scratch.path("pg"), scratch.directory("socket"), settings);
    match Running::start(&scratch, "backup", &job(source(), subject(&server, None))).last() {
        AttemptState::Failed { reason, again: false } => {
            assert!(reason.contains("ALTER SYSTEM SET wal_level"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    server.stop();
    let gone = Running::start(&scratch, "backup", &job(source(), subject(&server, None))).last();
    assert!(
        matches!(&gone, AttemptState::Failed { reason, again: true } if reason.contains("cannot connect")),
        "{gone:?}"
    );
    assert!(Path::new(&scratch.0).exists());
}

/// An archive whose words are waited for.
struct Spoken {
    running: Running,
    words: Receiver<ArchiveState>,
}

impl Spoken {
    fn start(scratch: &Scratch, job: &ArchiveJob) -> Self {
        let mut running = Running::start(scratch, "archive", job);
        let (mut lines, (sender, words)) = (running.lines.take().unwrap(), channel());
        std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap_or(0) > 0
                && sender.send(serde_json::from_str(&line).unwrap()).is_ok()
            {
                line.clear();
            }
        });
        Self { running, words }
    }

    /// The next word for which this holds.
    fn wait(&self, scratch: &Scratch, what: impl Fn(&ArchiveState) -> bool) -> ArchiveState {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let word = self.words.recv_timeout(left).unwrap_or_else(|_| panic!("{}", scratch.log()));
            if what(&word) {
                return word;
            }
        }
    }

    fn is_over(&mut self) -> bool {
        self.running.child.try_wait().unwrap().is_some()
    }
}

#[test]
fn an_archive_that_lost_its_log_begins_anew_and_a_restore_tells_of_the_gap() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let scratch = Scratch::new("postgresql-gap");
    let settings = "max_wal_size = '64MB'\nmin_wal_size = '32MB'";
    let server = Server::make(programs, scratch.path("pg"), scratch.directory("socket"), settings);
    server.sql("CREATE TABLE items (id bigserial PRIMARY KEY, writer int, word text)");
    let spool = scratch.directory("volume").join("spool");
    let job_of_archive = archive_job(&server, spool.clone());
    let archive = Archive::start(&scratch, &job_of_archive);
    let base = back_up(&scratch, &job(source(), subject(&server, None)));
    server.sql("INSERT INTO items (writer, word) VALUES (1, 'archived')");
    archive.catch_up();
    archive.end();

    let keeps = |size: &str| {
        server.sql(&format!("ALTER SYSTEM SET max_slot_wal_keep_size = '{size}'"));
        server.sql("SELECT pg_reload_conf()");
    };
    keeps("1MB");
    let slot = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'anshin_db'";
    let end = Instant::now() + PATIENCE;
    while server.sql(slot) != "lost" {
        assert!(Instant::now() < end, "the server keeps the log: {}", server.sql(slot));
        server.sql(
            "INSERT INTO items (writer, word) SELECT 2, repeat('x', 500) FROM generate_series(1, 20000)",
        );
        server.sql("SELECT pg_switch_wal()");
        server.sql("CHECKPOINT");
    }
    keeps("-1");
    let archive = Archive::start(&scratch, &job_of_archive);
    archive.catch_up();
    assert_eq!(server.sql(slot), "reserved", "{}", scratch.log());
    server.sql("INSERT INTO items (writer, word) VALUES (3, 'later')");
    server.sql("SELECT pg_switch_wal()");
    archive.catch_up();
    archive.end();

    let to = Destination::Directory { path: scratch.path("back") };
    let done = restore(&scratch, &restore_job(&server, &base.snapshot.to_string(), to, None, true)).unwrap();
    assert!(done.warnings.iter().any(|warning| warning.contains("has a gap")), "{done:?}");

    // No plan backs it up any more.
    let end = ArchiveEndJob { service: "db".into(), plugin: server.plugin(), spool: spool.clone() };
    Running::start(&scratch, "archive-end", &end).last_line();
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "0", "{}", scratch.log());
    let left: Vec<_> = fs::read_dir(&spool).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, [".gap"], "no piece is left");
}

#[test]
fn an_archive_takes_its_log_over_from_what_a_killed_one_left_behind() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    let scratch = Scratch::new("postgresql-orphan");
    let server = Server::make(programs, scratch.path("pg"), scratch.directory("socket"), "");
    let job = archive_job(&server, scratch.directory("volume").join("spool"));
    let first = Archive::start(&scratch, &job);
    first.catch_up();
    first.end();
    // As out of memory leaves it: the executor, the plugin and `runuser` are killed, what they started goes on.
    let (elsewhere, reader) = (scratch.directory("orphan"), server.programs.join("pg_receivewal"));
    must("chown", &["postgres:postgres", elsewhere.to_str().unwrap()]);
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(reader).arg("-D").arg(elsewhere);
    command.args(["-h", server.socket.to_str().unwrap(), "--slot", "anshin_db", "--no-loop"]);
    let mut orphan = command.current_dir("/").stderr(Stdio::null()).spawn().unwrap();
    let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'anshin_db'";
    let end = Instant::now() + PATIENCE;
    while server.sql(active) != "t" {
        assert!(Instant::now() < end, "{:?}", orphan.try_wait());
        std::thread::sleep(Duration::from_millis(50));
    }
    let second = Archive::start(&scratch, &job);
    second.catch_up();
    assert!(orphan.wait().is_ok_and(|status| !status.success()));
    second.end();
}

#[test]
fn a_log_that_waits_for_its_vault_does_not_fill_the_volume() {
    let Some(programs) = programs() else {
        println!("SKIPPED: PostgreSQL is not installed");
        return;
    };
    if !devices("postgresql::a_log_that_waits_for_its_vault_does_not_fill_the_volume") {
        return;
    }
    let scratch = Scratch::new("postgresql-room");
    let volume = Volume::mounted(&scratch, "data", "448M", &["mkfs.ext4", "-q", "-F"]);
    let settings = "max_wal_size = '64MB'\nmin_wal_size = '32MB'";
    let server = Server::make(programs, volume.mount.join("pg"), scratch.directory("socket"), settings);
    server.sql("CREATE TABLE items (id bigserial PRIMARY KEY, writer int, word text)");
    let spool = volume.mount.join("spool");
    let job_of_archive = archive_job(&server, spool.clone());
    let mut archive = Spoken::start(&scratch, &job_of_archive);
    archive.wait(&scratch, |word| matches!(word, ArchiveState::Moved { .. }));

    // At once: opening a vault that is not there makes one.
    let (vault, away) = (scratch.path("vault"), scratch.path("vault-away"));
    let swap = || rustix::fs::renameat_with(CWD, &vault, CWD, &away, RenameFlags::EXCHANGE).unwrap();
    fs::write(&away, "in the place of the vault").unwrap();
    swap();
    let end = Instant::now() + PATIENCE;
    while !archive.is_over() {
        assert!(Instant::now() < end, "{}", scratch.log());
        server.sql("DROP TABLE IF EXISTS filler");
        server.sql("CREATE TABLE filler AS SELECT repeat('x', 500) FROM generate_series(1, 10000)");
    }
    let pieces = || fs::read_dir(&spool).unwrap().count();
    assert!(pieces() > 2, "it ended because the log is large");

    // The node's daemon starts it again: it gives the log up and waits for the vault.
    let ballast = volume.mount.join("ballast");
    let free = rustix::fs::statvfs(&volume.mount).map(|space| space.f_bavail * space.f_frsize).unwrap();
    let ballast_bytes = (free.saturating_sub(64 << 20)).to_string();
    must("fallocate", &["-l", &ballast_bytes, ballast.to_str().unwrap()]);
    let archive = Spoken::start(&scratch, &job_of_archive);
    let gap = archive.wait(&scratch, |word| matches!(word, ArchiveState::Waiting { waiting_bytes: 0, .. }));
    let ArchiveState::Waiting { problem, gap, .. } = gap else { unreachable!() };
    assert!(problem.message.contains("it waits for the vault"), "{problem}");
    assert!(gap.unwrap().reason.contains("takes more of the volume than is left"));
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "0", "{}", scratch.log());

    fs::remove_file(ballast).unwrap();
    swap();
    let moved =
        |word: &ArchiveState| matches!(word, ArchiveState::Moved { snapshot: Some(_), gap: Some(_), .. });
    archive.wait(&scratch, moved);
    assert_eq!(server.sql("SELECT count(*) FROM pg_replication_slots"), "1");
}
