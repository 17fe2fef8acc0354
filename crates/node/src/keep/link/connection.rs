//! What both ends do with a connection.

use super::wire;
use anshin_base::frame::Frame;
use anshin_link::{FrameReader, FrameWriter, LinkError};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// How often either end says that it lives.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// After this time without a word the other end is given up: several signs of life are missing.
pub(super) const SILENCE_MAX: Duration = Duration::from_secs(30);
/// For the other end to take 64 KiB.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// For a greeting, the TLS handshake included.
pub(super) const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// The reading half.
pub(super) type Reading<S> = FrameReader<ReadHalf<S>>;
/// The writing half.
pub(super) type Writing<S> = FrameWriter<WriteHalf<S>>;

/// Both halves.
pub(super) fn halves<S: AsyncRead + AsyncWrite>(stream: S) -> (Reading<S>, Writing<S>) {
    anshin_link::framed::frames(stream, wire::BODY_LENGTH_MAX, WRITE_LIMIT)
}

/// Settings of a connection: small answers at once, and an end when the peer's machine confirms nothing.
pub(super) fn tune(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let millis = u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX);
    Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, millis)?)
}

/// The next frame, for which the other end must not be silent for too long.
pub(super) async fn next<S: AsyncRead + AsyncWrite>(reader: &mut Reading<S>) -> Result<Frame, LinkError> {
    reader.next_alive("the next sign of life", SILENCE_MAX).await?.ok_or(LinkError::Closed)
}

/// Writes what is queued, and signs of life, until the queue is closed or the connection breaks.
pub(super) async fn write_queue<S: AsyncRead + AsyncWrite>(
    mut writer: Writing<S>,
    mut queue: mpsc::Receiver<Frame>,
) -> Result<(), LinkError> {
    let mut alive = interval(ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            frame = queue.recv() => match frame {
                Some(frame) => writer.send(&frame).await?,
                None => return Ok(()),
            },
            _ = alive.tick() => writer.send(&wire::sign_of_life()).await?,
        }
    }
}
