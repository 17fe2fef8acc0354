//! The voter's Unix socket: connections of volume processes and of the daemon, and the daemon's end of it.

use super::protocol::{FRAME_LENGTH_MAX, FromVoter, KIND, ToVoter, VERSION};
use anshin_base::{Problem, frame::Frame};
use anshin_link::framed::{FrameReader, FrameWriter, LinkError, frames};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use tokio::{
    io::{ReadHalf, WriteHalf},
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
    time::sleep,
};

/// Answers that may wait for one connection; one that lets more pile up is closed.
const QUEUE_MAX: usize = 1024;
/// Connections at once: every volume of a node, and some daemons.
const CONNECTIONS_MAX: u64 = 1100;
/// Messages that may wait for the voter; then connections are read no further.
const ARRIVALS_MAX: usize = 256;
/// For the other process to take 64 KiB.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// A message of which only the newest counts; lower slots are written first, and before all answers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    /// The ledger's state, or a volume's view of it.
    Ledger,
    /// The voter's status.
    Status,
    /// The table of nodes.
    Nodes,
}

/// What comes over the socket.
#[derive(Debug)]
pub(super) enum Arrival {
    Opened { id: u64, connection: Connection },
    Frame { id: u64, frame: Frame },
    Closed { id: u64 },
}

/// The writing end of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Connection {
    queue: mpsc::Sender<Frame>,
    latest: [watch::Sender<Option<Frame>>; 3],
    reader: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Connection {
    /// Queues an answer; false if the other end does not keep up.
    pub(super) fn answer(&self, frame: Frame) -> bool {
        self.queue.try_send(frame).is_ok()
    }

    /// Replaces what waits in the slot.
    pub(super) fn replace(&self, slot: Slot, frame: Frame) {
        self.latest[slot as usize].send_replace(Some(frame));
    }
}

/// The listening end.
#[derive(Debug)]
pub(super) struct Socket {
    arrivals: mpsc::Receiver<Arrival>,
    task: JoinHandle<()>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Socket {
    /// Listens at `path`, for root alone.
    pub(super) fn listen(path: &Path) -> Result<Self, Problem> {
        let failed = |error: io::Error| {
            Problem::new("listen", format!("cannot listen at {}: {error}", path.display()))
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
        let (arrive, arrivals) = mpsc::channel(ARRIVALS_MAX);
        Ok(Self { arrivals, task: tokio::spawn(accept(listener, arrive)) })
    }

    /// The next thing that came.
    pub(super) async fn next(&mut self) -> Arrival {
        match self.arrivals.recv().await {
            Some(arrival) => arrival,
            // The accepting task never ends by itself.
            None => std::future::pending().await,
        }
    }
}

async fn accept(listener: UnixListener, arrive: mpsc::Sender<Arrival>) {
    let mut open: BTreeMap<u64, JoinHandle<()>> = BTreeMap::new();
    for id in 0_u64.. {
        let stream = loop {
            match listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    sleep(Duration::from_millis(100)).await;
                }
            }
        };
        open.retain(|_, task| !task.is_finished());
        if open.len() as u64 >= CONNECTIONS_MAX {
            tracing::warn!("refused a local connection: too many at once");
            continue;
        }
        let (reader, writer) = frames(stream, FRAME_LENGTH_MAX, WRITE_LIMIT);
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        let read = tokio::spawn(read(id, reader, arrive.clone(), wait));
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let (ledger, ledgers) = watch::channel(None);
        let (status, statuses) = watch::channel(None);
        let (nodes, tables) = watch::channel(None);
        let connection = Connection { queue, latest: [ledger, status, nodes], reader: read.abort_handle() };
        open.insert(
            id,
            tokio::spawn(write(writer, queued, [ledgers, statuses, tables], read.abort_handle())),
        );
        if arrive.send(Arrival::Opened { id, connection }).await.is_err() {
            return;
        }
        let _ = go.send(());
    }
}

async fn read(
    id: u64,
    mut reader: FrameReader<ReadHalf<UnixStream>>,
    arrive: mpsc::Sender<Arrival>,
    go: tokio::sync::oneshot::Receiver<()>,
) {
    let _ = go.await;
    loop {
        match reader.next().await {
            Ok(Some(frame)) => {
                if arrive.send(Arrival::Frame { id, frame }).await.is_err() {
                    return;
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "closed a local connection");
                break;
            }
        }
    }
    let _ = arrive.send(Arrival::Closed { id }).await;
}

/// Writes until the connection is dropped or the other end is gone.
async fn write(
    mut writer: FrameWriter<WriteHalf<UnixStream>>,
    mut queued: mpsc::Receiver<Frame>,
    [mut ledger, mut status, mut nodes]: [watch::Receiver<Option<Frame>>; 3],
    reader: AbortHandle,
) {
    loop {
        let frame = tokio::select! {
            biased;
            Ok(()) = ledger.changed() => ledger.borrow_and_update().clone(),
            Ok(()) = status.changed() => status.borrow_and_update().clone(),
            Ok(()) = nodes.changed() => nodes.borrow_and_update().clone(),
            frame = queued.recv() => match frame {
                Some(frame) => Some(frame),
                None => return,
            },
        };
        if let Some(frame) = frame
            && let Err(error) = writer.send(&frame).await
        {
            tracing::debug!(%error, "a local connection broke");
            // The reader sees the end by itself unless the other end only stopped reading.
            if matches!(error, LinkError::Timeout(_)) {
                reader.abort();
            }
            return;
        }
    }
}

/// A frame with `message` in it.
pub(super) fn encode<T: Serialize>(kind: u16, version: u16, message: &T) -> Frame {
    let body = postcard::to_stdvec(message).expect("invariant: plain data encodes into memory");
    Frame { kind, version, body: body.into() }
}

/// The message in `frame`; None if it is none.
pub(super) fn decode<T: DeserializeOwned>(frame: &Frame, kind: u16, version: u16) -> Option<T> {
    let fits = frame.kind == kind && frame.version == version;
    fits.then(|| postcard::from_bytes(&frame.body).ok()).flatten()
}

/// The daemon's end.
#[derive(Debug)]
pub struct Client {
    reader: ClientReader,
    writer: ClientWriter,
}

impl Client {
    /// Connects and greets. The first message that comes is [`FromVoter::Welcome`].
    ///
    /// # Errors
    /// If the voter cannot be reached.
    pub async fn connect(path: &Path) -> Result<Self, LinkError> {
        let stream = UnixStream::connect(path).await?;
        let (reader, writer) = frames(stream, FRAME_LENGTH_MAX, WRITE_LIMIT);
        let mut client = Self { reader: ClientReader(reader), writer: ClientWriter(writer) };
        client.send(&ToVoter::Hello { version_min: VERSION, version_max: VERSION }).await?;
        Ok(client)
    }

    /// As sending.
    ///
    /// # Errors
    /// As sending.
    pub async fn send(&mut self, message: &ToVoter) -> Result<(), LinkError> {
        self.writer.send(message).await
    }

    /// As reading.
    ///
    /// # Errors
    /// As reading.
    pub async fn next(&mut self) -> Result<FromVoter, LinkError> {
        self.reader.next().await
    }

    /// Both halves, for two tasks.
    #[must_use]
    pub fn split(self) -> (ClientReader, ClientWriter) {
        (self.reader, self.writer)
    }
}

/// The reading half of a [`Client`].
#[derive(Debug)]
pub struct ClientReader(FrameReader<ReadHalf<UnixStream>>);

impl ClientReader {
    /// The next message. Can be dropped and called again without loss.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn next(&mut self) -> Result<FromVoter, LinkError> {
        let frame = self.0.next().await?.ok_or(LinkError::Closed)?;
        decode(&frame, KIND, VERSION)
            .ok_or_else(|| LinkError::Protocol("the voter speaks another protocol".to_owned()))
    }
}

/// The writing half of a [`Client`].
#[derive(Debug)]
pub struct ClientWriter(FrameWriter<WriteHalf<UnixStream>>);

impl ClientWriter {
    /// Says something. If this is dropped before it is done, the connection must be closed.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send(&mut self, message: &ToVoter) -> Result<(), LinkError> {
        self.0.send(&encode(KIND, VERSION, message)).await
    }
}
