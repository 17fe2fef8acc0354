//! Executors and volumes as processes.
#![allow(clippy::unwrap_used, reason = "a test may end where it fails")]

use anshin_base::{ByteSize, NodeId};
use anshin_device::control::{Client, DeviceState, Request};
use anshin_director::{
    plan::Source,
    record::Sealed,
    run::{AttemptState, Work},
    {Attempt, RunId},
};
use anshin_node::backup::{
    job::{BackupJob, Subject, VaultAccess, VolumeSubject},
    restore_job::{RestoreDone, RestoreJob, RestoreState},
};
use serde::Serialize;
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory that every user can pass, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = Path::new("/var/tmp").join(format!("anshin-{name}-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the processes:\n{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn must(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}\n{out}\n{err}");
    output
}

/// The example program, which `cargo test --test backup` alone does not build, or leaves as an older build made it.
fn executor() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let own = std::env::current_exe().unwrap();
        let profile = own.parent().and_then(Path::parent).unwrap();
        let path = profile.join("examples").join("executor");
        let made = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified()).ok();
        if made(&path) < made(&own) {
            let release = if profile.ends_with("release") { "release" } else { "dev" };
            let target = profile.parent().unwrap().to_str().unwrap();
            let build = ["build", "--quiet", "--workspace", "--example", "executor", "--profile", release];
            must(env!("CARGO"), &[&build[..], &["--target-dir", target]].concat());
        }
        path
    };
    BUILT.get_or_init(build).clone()
}

pub fn access() -> VaultAccess {
    VaultAccess { name: "main".into(), server: NodeId(1), addresses: Vec::new() }
}

pub fn work(source: Source) -> Work {
    static RUN: AtomicU64 = AtomicU64::new(1);
    Work {
        run: RunId(RUN.fetch_add(1, Ordering::Relaxed)),
        attempt: Attempt(1),
        plan: "nightly".into(),
        target: source.key().unwrap(),
        source,
        vault: "main".into(),
        previous: None,
        tags: Vec::new(),
        run_time: None,
        bandwidth: ByteSize(0),
        before: Vec::new(),
        after: Vec::new(),
    }
}

pub fn job(source: Source, subject: Subject) -> BackupJob {
    BackupJob { work: work(source), vault: access(), subject }
}

/// A process with a job.
pub struct Running {
    pub child: Child,
    pub input: Option<ChildStdin>,
    pub lines: Option<BufReader<std::process::ChildStdout>>,
}

impl Running {
    pub fn start(scratch: &Scratch, what: &str, job: &impl Serialize) -> Self {
        let log = File::options().create(true).append(true).open(scratch.path("log")).unwrap();
        let mut command = Command::new(executor());
        command.arg(what).args([
            scratch.path("vault"),
            scratch.directory("var"),
            scratch.directory("plugins"),
        ]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{}", serde_json::to_string(job).unwrap()).unwrap();
        let lines = Some(BufReader::new(child.stdout.take().unwrap()));
        Self { child, input: Some(input), lines }
    }

    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.as_mut()?.read_line(&mut line).unwrap() > 0).then_some(line)
    }

    pub fn last_line(&mut self) -> String {
        let mut last = String::new();
        while let Some(line) = self.line() {
            last = line;
        }
        self.child.wait().unwrap();
        last
    }

    pub fn last(&mut self) -> AttemptState {
        serde_json::from_str(&self.last_line()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.input.take();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn back_up(scratch: &Scratch, job: &BackupJob) -> Sealed {
    match Running::start(scratch, "backup", job).last() {
        AttemptState::Sealed(sealed) => sealed,
        other => panic!("{other:?}\n{}", scratch.log()),
    }
}

pub fn restore(scratch: &Scratch, job: &RestoreJob) -> Result<RestoreDone, anshin_base::Problem> {
    match serde_json::from_str(&Running::start(scratch, "restore", job).last_line()).unwrap() {
        RestoreState::Done(done) => Ok(done),
        RestoreState::Failed { problem } => Err(problem),
        other @ RestoreState::Working { .. } => panic!("{other:?}"),
    }
}

/// A volume with its process.
pub struct Volume {
    name: String,
    run: PathBuf,
    child: Child,
    pub mount: PathBuf,
}

impl Volume {
    /// With a file system, mounted. Inside of a mount namespace of the test only.
    pub fn mounted(scratch: &Scratch, name: &str, size: &str, mkfs: &[&str]) -> Self {
        let run = scratch.directory(&format!("run-{name}"));
        let log = File::options().create(true).append(true).open(scratch.path("log")).unwrap();
        let mut command = Command::new(executor());
        command.arg("volume").arg(name).arg(scratch.path(&format!("replica-{name}"))).arg(&run).arg(size);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mount = scratch.directory(&format!("mnt-{name}"));
        let volume = Self { name: name.into(), run, child, mount };
        let device = volume.device();
        must(mkfs[0], &[&mkfs[1..], &[&device]].concat());
        must("mount", &[&device, volume.mount.to_str().unwrap()]);
        volume
    }

    pub fn control(&self) -> PathBuf {
        self.run.join(format!("volume-{}.ctl", self.name))
    }

    pub fn device(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let status =
                Client::connect(&self.control(), Some(PATIENCE)).and_then(|mut client| client.status());
            if let Ok(DeviceState::Present { path, .. }) = status.map(|status| status.device) {
                return path;
            }
            assert!(Instant::now() < end, "no device");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn subject(&self) -> VolumeSubject {
        VolumeSubject {
            volume: self.name.clone(),
            control: self.control(),
            device: self.device().into(),
            mount: Some(self.mount.clone()),
            filesystem: None,
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount).status();
        if let Ok(mut client) = Client::connect(&self.control(), Some(PATIENCE)) {
            let _ = client.ask(Request::Stop);
        }
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let devices = self.run.join("dev");
        anshin_device::front::loopdev::Places::new(&self.run, &devices, &self.name).clean_up();
        anshin_device::front::loopdev::Places::clean_up_points(&self.run, &devices, &self.name);
    }
}

/// Whether the test of this name can make block devices here; outside of its mount namespace it runs the test again inside
/// and gives false.
pub fn devices(test: &str) -> bool {
    let open = |path| File::options().read(true).write(true).open(path).is_ok();
    if !open("/dev/fuse") || !open("/dev/loop-control") {
        println!("SKIPPED: {test}: FUSE or loop devices cannot be used here");
        return false;
    }
    anshin_base::testing::in_namespaces(test, &[anshin_base::testing::Namespace::Mount])
}
