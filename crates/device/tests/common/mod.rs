//! Volume processes for tests: each is the `volume` example, with its own directory.
#![allow(dead_code, reason = "each test file uses a part of this")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may end where it fails, and prints its figures"
)]

pub mod ledger;

use anshin_base::testing::{Namespace, in_namespaces};
use anshin_device::control::{Client, Reply, Request, VolumeStatus};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// A wait that takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end of the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Not on tmpfs if it can be helped: direct I/O is part of what is tested.
        let base = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = base.join(format!("{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join("volume")
}

/// A replica on disk and, most of the time, its process.
pub struct Volume {
    pub name: String,
    pub root: PathBuf,
    pub replica: u64,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Volume {
    pub fn create(root: &Path, name: &str, size: &str, arguments: &[&str]) -> Self {
        let root = root.join(name);
        let directory = root.join("replica");
        let made = Command::new(example()).arg("create").arg(&directory).arg(size).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let replica = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { name: name.into(), root, replica, arguments, child: None }
    }

    pub fn run_directory(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        let mut command = Command::new(example());
        command.arg("run").arg(&self.name).arg(self.root.join("replica")).arg(self.run_directory());
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        self.until("the control socket answers", |_| true);
    }

    pub fn client(&self) -> Option<Client> {
        let path = self.run_directory().join(format!("volume-{}.ctl", self.name));
        Client::connect(&path, Some(PATIENCE)).ok()
    }

    pub fn status(&self) -> Option<VolumeStatus> {
        self.client()?.status().ok()
    }

    pub fn ask(&self, request: Request) -> Result<Reply, anshin_base::Problem> {
        self.client().expect("the volume's process answers").ask(request)
    }

    /// Waits until the status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&VolumeStatus) -> bool) -> VolumeStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|status| wanted(status)) {
                return status.clone();
            }
            assert!(Instant::now() < end, "{what} did not happen; {status:#?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the block device and returns its path.
    pub fn device(&self) -> String {
        let present = |status: &VolumeStatus| {
            matches!(status.device, anshin_device::control::DeviceState::Present { .. })
        };
        match self.until("the device is there", present).device {
            anshin_device::control::DeviceState::Present { path, .. } => path,
            _ => unreachable!(),
        }
    }

    pub fn nbd_uri(&self) -> String {
        self.until("the NBD socket is there", |status| status.nbd.is_some());
        format!("nbd+unix:///{0}?socket={1}/volume-{0}.nbd", self.name, self.run_directory().display())
    }

    pub fn data(&self) -> PathBuf {
        self.root.join("replica/data")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops the process's clock hands, or lets it run on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        must("kill", &[if frozen { "-STOP" } else { "-CONT" }, &pid]);
    }

    /// Time on a processor so far.
    pub fn processor_time(&self) -> Duration {
        let pid = self.child.as_ref().unwrap().id();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.map(|thread| nanoseconds_run(&thread.unwrap().path())).sum()
    }

    pub fn stop(&mut self) {
        self.ask(Request::Stop).unwrap();
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{}", self.log());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
        let _ = self.client().map(|mut client| client.ask(Request::Stop));
        self.kill();
        let run = self.run_directory();
        anshin_device::front::loopdev::Places::new(&run, &run.join("dev"), &self.name).clean_up();
    }
}

fn nanoseconds_run(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Whether all of these programs are installed; says so if not.
pub fn installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = std::env::var("PATH")
            .unwrap_or_default()
            .split(':')
            .any(|dir| Path::new(dir).join(program).exists());
        if !found {
            eprintln!("skipped: {program} is not installed");
        }
        found
    })
}

/// Whether the test of this name can make a block device here, with mounts of its own; says so if not. Outside of its mount
/// namespace it runs the test again inside and gives false.
pub fn devices(test: &str) -> bool {
    let open = |path| File::options().read(true).write(true).open(path).is_ok();
    if !open("/dev/fuse") || !open("/dev/loop-control") {
        eprintln!("skipped: FUSE or loop devices cannot be used here");
        return false;
    }
    in_namespaces(test, &[Namespace::Mount])
}

/// Runs a program to its end and requires success.
pub fn must(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// fio with verification of everything it wrote, at depth 16.
pub fn fio_verified(engine: &[&str], size: &str, runtime_bytes: &str) {
    let size = format!("--size={size}");
    let bytes = format!("--io_size={runtime_bytes}");
    let common = [
        "--name=verified",
        "--rw=randrw",
        "--bsrange=4k-1M",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
        "--fsync=64",
        &size,
        &bytes,
    ];
    must("fio", &[&common[..], engine].concat());
}

/// A row of figures for one device or file: writes and reads of 4 KiB at depth 1 and 16, and of 1 MiB.
pub fn measure(what: &str, path: &str) {
    for (label, arguments) in [
        ("4k randwrite depth 1", ["--rw=randwrite", "--bs=4k", "--iodepth=1"]),
        ("4k randwrite depth 16", ["--rw=randwrite", "--bs=4k", "--iodepth=16"]),
        ("4k randread depth 16", ["--rw=randread", "--bs=4k", "--iodepth=16"]),
        ("1M write depth 8", ["--rw=write", "--bs=1M", "--iodepth=8"]),
        ("1M read depth 8", ["--rw=read", "--bs=1M", "--iodepth=8"]),
        ("4k write + fsync", ["--rw=randwrite", "--bs=4k", "--fsync=1"]),
    ] {
        let filename = format!("--filename={path}");
        let common =
            ["--name=m", "--ioengine=libaio", "--direct=1", "--size=512M", "--time_based", "--runtime=3"];
        let output = must("fio", &[&common[..], &arguments, &["--output-format=json", &filename]].concat());
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let side = if label.contains("read") { "read" } else { "write" };
        let row = &json["jobs"][0][side];
        let p99 = &row["clat_ns"]["percentile"]["99.000000"];
        println!(
            "{what:12} {label:22} {:>9.0} IOPS {:>8.1} MiB/s  mean {:>8.1} us  p99 {:>8.1} us",
            row["iops"].as_f64().unwrap(),
            row["bw_bytes"].as_f64().unwrap() / f64::from(1 << 20),
            row["clat_ns"]["mean"].as_f64().unwrap() / 1000.0,
            p99.as_f64().unwrap_or(0.0) / 1000.0,
        );
    }
}
