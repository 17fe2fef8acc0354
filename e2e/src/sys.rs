//! The system calls that the lab needs and that no safe wrapper offers. The only unsafe code of this crate.

#![allow(unsafe_code)]

use crate::error::{Context, Result, refuse};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{fs::File, io, os::unix::process::CommandExt, path::Path, process::Command};

/// Namespaces that make a machine of its own, as flags of `unshare(2)` and `setns(2)`.
pub const MACHINE: i32 =
    libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC | libc::CLONE_NEWPID;
/// A network of its own, everything else shared.
pub const NETWORK: i32 = libc::CLONE_NEWNET;

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread new namespaces; a PID namespace applies to the children it makes afterwards.
pub fn unshare(flags: i32) -> Result<()> {
    // SAFETY: unshare takes no pointers; it changes kernel state of the calling thread only.
    check(unsafe { libc::unshare(flags) }).at("new namespaces (root is needed)")
}

/// Moves the calling thread into the namespaces of the process behind `pidfd`.
fn enter_raw(pidfd: i32, flags: i32) -> io::Result<()> {
    // SAFETY: setns takes no pointers; `pidfd` is a number that the kernel checks.
    check(unsafe { libc::setns(pidfd, flags) })
}

/// Moves the calling process into namespaces of the process behind `pidfd`; it must have one thread only.
pub fn enter(pidfd: BorrowedFd<'_>, flags: i32) -> Result<()> {
    enter_raw(pidfd.as_raw_fd(), flags).at("entering the node's namespaces")
}

/// A handle on a process that cannot come to mean another one.
pub fn pidfd(pid: i32) -> Result<OwnedFd> {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return refuse("no such process: 0") };
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).at(format!("process {pid:?}"))
}

/// Lets `command` run in the network of the process behind `network`.
pub fn run_in_network(command: &mut Command, network: OwnedFd) -> &mut Command {
    let enter = move || enter_raw(network.as_raw_fd(), NETWORK);
    // SAFETY: between fork and exec only setns is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(enter) }
}

/// Lets `command` die with the thread that starts it, so that nothing outlives a killed lab.
pub fn die_with_parent(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe and allocates nothing.
    unsafe { command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))) }
}

/// The calling process is killed when its parent ends.
pub fn follow_parent() -> Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }).at("following the parent")
}

/// Runs `work` on a thread that lives in the network of process `pid`.
pub fn in_network<T: Send + 'static>(pid: i32, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let network = pidfd(pid)?;
    let thread = std::thread::spawn(move || enter(network.as_fd(), NETWORK).map(|()| work()));
    match thread.join() {
        Ok(result) => result,
        Err(_) => refuse("a thread inside a node's network panicked"),
    }
}

/// Sets an interface of the calling thread's network up or down. An ioctl, because starting a tool costs milliseconds.
pub fn set_link(name: &str, up: bool) -> Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)
        .at("control socket")?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return refuse(format!("interface name {name} is too long"));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    let fd = socket.as_raw_fd();
    // SAFETY: the request is a valid ifreq with a terminated name; the flags are the union's active member afterwards.
    unsafe {
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS, &mut request)).at(format!("interface {name}"))?;
        let flags = request.ifr_ifru.ifru_flags;
        let bit = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &request)).at(format!("interface {name}"))
    }
}

/// Detaches a loop device from its file. A device that is still in use goes when its last user does.
pub fn loop_detach(device: &File) -> io::Result<()> {
    const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
    // SAFETY: LOOP_CLR_FD takes no argument beyond an ignored integer.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CLR_FD, 0) })
}

/// Collects a child that has ended, so that it does not stay in the process table; anything else is left alone.
pub fn collect(pid: i32) {
    // SAFETY: a null status pointer is allowed; WNOHANG never blocks; a pid that is no child of ours is refused.
    unsafe {
        libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG);
    }
}

/// Waits for any child without blocking: its pid and status, or none if no child has ended.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// Unmounts lazily, so that a busy mount disappears from the tree at once.
pub fn unmount(path: &Path) -> Result<()> {
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)
        .at(format!("unmount {}", path.display()))
}
