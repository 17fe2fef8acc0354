//! Disks that are unlike the usual ones: one that takes requests and does not answer them, as a FUSE file system, and one with large
//! blocks, as a loop device. Needs root, /dev/fuse and loop devices.

use super::*;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use std::{
    ffi::OsStr,
    io::Write as _,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, SystemTime},
};

/// The disk answers after this at the latest, so that a test that fails ends.
const HANGS_AT_MOST: Duration = Duration::from_secs(3);
const NEVER: Duration = Duration::ZERO;
const SIZE: u64 = 1 << 20;

/// Whether the disk answers.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.lock().unwrap();
        drop(self.1.wait_timeout_while(shut, HANGS_AT_MOST, |open| !*open).unwrap());
    }
}

/// `meta` and `data`, full of zeroes. Writing waits at the gate.
struct Hanging(Arc<Gate>);

fn attributes(inode: u64) -> FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    let root = inode == INodeNo::ROOT.0;
    FileAttr {
        ino: INodeNo(inode),
        size: if root { 0 } else { SIZE },
        blocks: SIZE / 512,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: if root { FileType::Directory } else { FileType::RegularFile },
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Hanging {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name.to_str() {
            Some("meta") => reply.entry(&NEVER, &attributes(2), Generation(0)),
            Some("data") => reply.entry(&NEVER, &attributes(3), Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&NEVER, &attributes(inode.0));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&vec![0; size as usize]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.0.pass();
        reply.written(data.len() as u32);
    }
}

struct Mounted {
    directory: PathBuf,
    gate: Arc<Gate>,
    session: Option<fuser::BackgroundSession>,
}

impl Mounted {
    fn new() -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root and /dev/fuse");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("anshin-hanging-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let gate = Arc::new(Gate::default());
        let session = fuser::spawn_mount(Hanging(Arc::clone(&gate)), &directory, &Config::default()).unwrap();
        Some(Self { directory, gate, session: Some(session) })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.gate.open();
        drop(self.session.take());
        let _gone = std::fs::remove_dir(&self.directory);
    }
}

/// Carries out one command to its end.
fn ended(io: &mut Io, disk: &mut Disk, token: Token) -> Result<Bytes, DiskError> {
    let mut done = Vec::new();
    loop {
        io.wait(&mut done).unwrap();
        for one in done.drain(..) {
            if let Some(Input::DiskDone { token: of, result }) = disk.completed(io, Tag(token), one) {
                assert_eq!(of, token);
                return result;
            }
        }
    }
}

/// A loop device with blocks of 4,096 bytes refuses smaller ones, as such disks do.
struct LargeBlocks {
    directory: PathBuf,
    device: String,
}

impl LargeBlocks {
    fn new() -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("anshin-blocks-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        for (name, length) in [("image", 8 << 20), ("meta", 1 << 20)] {
            std::fs::File::create(directory.join(name)).unwrap().set_len(length).unwrap();
        }
        let image = directory.join("image");
        let made = Command::new("losetup").args(["-f", "--show", "-b", "4096"]).arg(&image).output();
        let device = made.ok().filter(|made| made.status.success());
        let Some(device) = device.map(|made| String::from_utf8(made.stdout).unwrap().trim().to_owned())
        else {
            eprintln!("SKIPPED: no loop device can be made here");
            std::fs::remove_dir_all(&directory).unwrap();
            return None;
        };
        std::os::unix::fs::symlink(&device, directory.join("data")).unwrap();
        Some(Self { directory, device })
    }
}

impl Drop for LargeBlocks {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_disk_with_large_blocks_takes_what_a_primary_with_small_ones_sends() {
    let Some(large) = LargeBlocks::new() else { return };
    let (mut io, mut disk) = (Io::new().unwrap(), Disk::open(&large.directory).unwrap());
    assert_eq!(disk.block_bytes(), 4096);
    let before: Vec<u8> = (0..16_384_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    disk.write(&mut io, Token(1), Region::Data, 0, before.clone().into());
    assert_eq!(ended(&mut io, &mut disk, Token(1)), Ok(Bytes::new()));
    let mut expected = before;
    for (token, offset, length) in [(2, 512, 512), (3, 3584, 1024), (4, 8192, 4096), (5, 4608, 7680)] {
        let data = vec![u8::try_from(token).unwrap(); length];
        expected[offset..offset + length].copy_from_slice(&data);
        disk.write(&mut io, Token(token), Region::Data, offset as u64, data.into());
        assert_eq!(ended(&mut io, &mut disk, Token(token)), Ok(Bytes::new()), "{length} bytes at {offset}");
    }
    for (token, offset, length) in [(6, 0, 16_384), (7, 512, 512), (8, 3584, 5120)] {
        disk.read(&mut io, Token(token), Region::Data, offset as u64, u32::try_from(length).unwrap());
        let read = ended(&mut io, &mut disk, Token(token)).unwrap();
        assert!(read == expected[offset..offset + length], "{length} bytes at {offset}");
    }
}

#[test]
fn a_disk_that_does_not_answer_holds_up_nothing_else() {
    let Some(mounted) = Mounted::new() else { return };
    let mut io = Io::new().unwrap();
    let mut disk = Disk::open(&mounted.directory).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"alive").unwrap();
    let data = io.pool.take(4096).freeze();
    disk.write(&mut io, Token(1), Region::Data, 0, data);
    let buffer = io.pool.take(4096);
    io.push(Op::Receive { fd: Rc::new(ours.into()), buffer, from: 0 }, IoTag::Timer);

    let mut done = Vec::new();
    while !done.iter().any(|one: &Done<IoTag>| one.tag == IoTag::Timer) {
        io.wait(&mut done).unwrap();
    }
    let written = |done: &[Done<IoTag>]| done.iter().any(|one| one.tag == IoTag::Disk(Tag(Token(1))));
    assert!(!written(&done), "the ring's thread waited for the disk");

    mounted.gate.open();
    while !written(&done) {
        io.wait(&mut done).unwrap();
    }
    let at = done.iter().position(|one| one.tag == IoTag::Disk(Tag(Token(1)))).unwrap();
    let input = disk.completed(&mut io, Tag(Token(1)), done.swap_remove(at));
    assert_eq!(input, Some(Input::DiskDone { token: Token(1), result: Ok(Bytes::new()) }));
}
