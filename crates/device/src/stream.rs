//! What every stream socket of the engine needs: an outgoing queue with one send in flight, and a listening socket.

use crate::{
    io::{Io, Tag},
    ring::{CHUNKS_MAX, Fd, Op},
};
use bytes::{Buf, Bytes};
use rustix::net::Shutdown;
use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    rc::Rc,
};

/// Chunks waiting to be sent on one socket, in order.
#[derive(Default)]
pub struct Outbox {
    queue: VecDeque<Bytes>,
    bytes: usize,
    busy: bool,
}

impl Outbox {
    /// Queues a chunk.
    pub fn push(&mut self, chunk: impl Into<Bytes>) {
        let chunk = chunk.into();
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            self.queue.push_back(chunk);
        }
    }

    /// Bytes not yet taken by the kernel.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Starts a send if there is something and none is in flight.
    pub fn pump(&mut self, io: &mut Io, fd: &Fd, tag: Tag) {
        if self.busy || self.queue.is_empty() {
            return;
        }
        let chunks = self.queue.iter().take(CHUNKS_MAX).cloned().collect();
        self.busy = true;
        io.push(Op::Send { fd: fd.clone(), chunks }, tag);
    }

    /// A send came back.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn sent(&mut self, result: io::Result<u32>) -> io::Result<()> {
        self.busy = false;
        let mut count = result? as usize;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.bytes -= count;
        while count > 0 {
            let Some(front) = self.queue.front_mut() else { break };
            let part = front.len().min(count);
            front.advance(part);
            count -= part;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}

/// A listening Unix socket with its name in the file system.
pub struct UnixDoor {
    /// The socket.
    pub fd: Fd,
    path: std::path::PathBuf,
}

impl UnixDoor {
    /// Listens at `path`, in place of whatever socket a dead process left there; only root may connect.
    ///
    /// # Errors
    /// If it cannot.
    pub fn open(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, mode)?;
        Ok(Self { fd: Rc::new(listener.into()), path: path.into() })
    }

    /// Starts waiting for one connection.
    pub fn accept(&self, io: &mut Io, tag: Tag) {
        io.push(Op::Accept { fd: self.fd.clone() }, tag);
    }
}

impl Drop for UnixDoor {
    fn drop(&mut self) {
        // Ends an accept in flight.
        let _ = rustix::net::shutdown(&*self.fd, Shutdown::Both);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The descriptor that an accept returned.
#[must_use]
pub fn accepted(result: u32) -> Fd {
    // SAFETY: the kernel just made this descriptor for the accept of ours that ended; nobody else owns it.
    Rc::new(unsafe { OwnedFd::from_raw_fd(result.cast_signed()) })
}

/// Ends a connection: what is in flight on it comes back soon.
pub fn hang_up(fd: &Fd) {
    let _ = rustix::net::shutdown(&**fd, Shutdown::Both);
}
