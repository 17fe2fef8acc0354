//! One dialled link: kept standing, written to from a bounded queue.

use super::{
    Arrival, MeshTimes, SendError,
    dial::Dialer,
    wire::{self, Hello, VERSION, VERSION_MIN, kind},
};
use crate::{framed::LinkError, identity::PeerIdentity, limiter::LogLimiter, tls};
use anshin_base::{LedgerEpoch, NodeId, frame::Frame};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

/// Messages that may wait for one link.
const QUEUE_MAX: usize = 1024;
/// Bytes that may wait for one link: two snapshots of the largest size.
const QUEUE_BYTES_MAX: usize = 2 * wire::FRAME_LENGTH_MAX;

/// What either end says first.
#[derive(Clone, Debug)]
pub(super) struct Greeter {
    pub(super) identity: PeerIdentity,
    pub(super) incarnation: u64,
    pub(super) build: String,
    pub(super) epoch: watch::Receiver<LedgerEpoch>,
    pub(super) times: MeshTimes,
}

impl Greeter {
    pub(super) fn hello(&self) -> Frame {
        let hello = Hello {
            site: self.identity.site,
            node: self.identity.node,
            incarnation: self.incarnation,
            version_min: VERSION_MIN,
            version_max: VERSION,
            epoch: *self.epoch.borrow(),
            build: self.build.clone(),
        };
        wire::encode(kind::HELLO, &hello)
    }

    /// Checks the other end's first message against who its certificate says it is.
    pub(super) fn check(frame: &Frame, peer: &PeerIdentity) -> Result<Hello, LinkError> {
        let hello = (frame.kind == kind::HELLO).then(|| wire::decode::<Hello>(&frame.body)).flatten();
        let hello = hello.ok_or_else(|| LinkError::Protocol("its first message is no hello".to_owned()))?;
        if (hello.site, hello.node) != (peer.site, peer.node) {
            return Err(LinkError::Protocol(format!(
                "its hello says {} but its certificate {peer}",
                hello.node
            )));
        }
        if hello.common_version().is_none() {
            return Err(LinkError::Protocol(format!(
                "no common protocol version: it speaks {} to {}, this node {VERSION_MIN} to {VERSION}",
                hello.version_min, hello.version_max
            )));
        }
        Ok(hello)
    }
}

/// The handle of a dialled link. Dropping it closes the link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) addresses: Vec<String>,
    pub(super) dial: u64,
    queue: mpsc::Sender<Frame>,
    queued_bytes: Arc<AtomicUsize>,
    heartbeat: watch::Sender<Option<Frame>>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    pub(super) fn start(
        dialer: Arc<Dialer>,
        node: NodeId,
        dial: u64,
        addresses: Vec<String>,
        arrive: mpsc::Sender<Arrival>,
    ) -> Self {
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        let (heartbeat, heartbeats) = watch::channel(None);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let keeper = Keeper {
            dialer,
            node,
            dial,
            addresses: addresses.clone(),
            queued,
            queued_bytes: Arc::clone(&queued_bytes),
            heartbeats,
            arrive,
        };
        let task = tokio::spawn(keeper.run());
        Self { addresses, dial, queue, queued_bytes, heartbeat, task }
    }

    /// Queues a message.
    pub(super) fn put(&self, frame: Frame) -> Result<(), SendError> {
        let length = frame.body.len();
        if self.queued_bytes.load(Ordering::Relaxed) + length > QUEUE_BYTES_MAX {
            return Err(SendError::Full);
        }
        self.queue.try_send(frame).map_err(|_| SendError::Full)?;
        self.queued_bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Replaces the heartbeat that waits, if one does: only the newest is of use.
    pub(super) fn beat(&self, frame: Frame) {
        self.heartbeat.send_replace(Some(frame));
    }
}

/// The task behind a [`Link`].
struct Keeper {
    dialer: Arc<Dialer>,
    node: NodeId,
    dial: u64,
    addresses: Vec<String>,
    queued: mpsc::Receiver<Frame>,
    queued_bytes: Arc<AtomicUsize>,
    heartbeats: watch::Receiver<Option<Frame>>,
    arrive: mpsc::Sender<Arrival>,
}

impl Keeper {
    async fn run(mut self) {
        let times = self.dialer.times();
        let mut limiter = LogLimiter::default();
        let mut pause = times.backoff.0;
        for attempt in 0_usize.. {
            let Some(address) = self.addresses.get(attempt % self.addresses.len().max(1)).cloned() else {
                return;
            };
            let error = match self.dialer.dial(&address, self.node).await {
                Ok(connection) => {
                    pause = times.backoff.0;
                    let error = self.serve(connection).await;
                    let _ = self.arrive.send(Arrival::Down { node: self.node, dial: self.dial }).await;
                    error
                }
                Err(error) => error,
            };
            // What waited was meant for a moment that has passed; its senders repeat themselves.
            while let Ok(frame) = self.queued.try_recv() {
                self.sent(&frame);
            }
            let refused = is_refusal(&error);
            if refused && let Some(left_out) = limiter.allow(crate::clock::now()) {
                tracing::warn!(node = %self.node, address, left_out, "no link: {error}");
            } else {
                tracing::debug!(node = %self.node, address, "no link: {error}");
            }
            sleep(if refused { times.refused } else { pause }).await;
            pause = (pause * 2).min(times.backoff.1);
        }
    }

    /// Writes what is queued until the link breaks.
    async fn serve(&mut self, connection: super::dial::Connection) -> LinkError {
        let (mut reader, mut writer) = (connection.reader, connection.writer);
        tracing::info!(node = %self.node, build = connection.hello.build, "link stands");
        if self.arrive.send(Arrival::Up { node: self.node, dial: self.dial }).await.is_err() {
            return LinkError::Closed;
        }
        loop {
            let frame = tokio::select! {
                // Heartbeats overtake everything else.
                biased;
                Ok(()) = self.heartbeats.changed() => self.heartbeats.borrow_and_update().clone(),
                Some(frame) = self.queued.recv() => {
                    self.sent(&frame);
                    Some(frame)
                }
                // The other end has nothing to say here; what comes is its closing.
                read = reader.next() => return match read {
                    Ok(Some(_)) => LinkError::Protocol("a message on a link that is only written to".to_owned()),
                    Ok(None) => LinkError::Closed,
                    Err(error) => error,
                },
            };
            if let Some(frame) = frame
                && let Err(error) = writer.send(&frame).await
            {
                return error;
            }
        }
    }

    fn sent(&self, frame: &Frame) {
        self.queued_bytes.fetch_sub(frame.body.len(), Ordering::Relaxed);
    }
}

/// Whether trying again soon is of no use.
fn is_refusal(error: &LinkError) -> bool {
    match error {
        LinkError::Io(error) => tls::refusal(error).is_some() || is_alert(error),
        LinkError::Protocol(_) => true,
        _ => false,
    }
}

/// Whether the other end refused this node's certificate.
fn is_alert(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::AlertReceived(_)))
}

/// Settings of a connection: no delay for small messages, and an end when the peer's kernel confirms nothing.
pub(super) fn tune(stream: &tokio::net::TcpStream, unconfirmed: Duration) -> Result<(), LinkError> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(unconfirmed.as_millis()).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream, millis).map_err(std::io::Error::from)?;
    Ok(())
}
