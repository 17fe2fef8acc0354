//! Frames over a byte stream, bounded in size and time. The stream is TLS between nodes, a Unix socket inside one.

use anshin_base::frame::{Frame, FrameError};
use bytes::BytesMut;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    time::timeout,
};

/// How much is read from the stream at once.
const READ_SIZE: usize = 16 << 10;

/// How much the other end must take within the time limit: a long message on a slow line is no reason to give up as
/// long as it moves.
const WRITE_SIZE: usize = 64 << 10;

/// Why a link ended. It must be closed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The bytes are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Something took longer than allowed.
    #[error("{0} took too long")]
    Timeout(&'static str),
    /// The other end closed in the middle of a frame.
    #[error("closed in the middle of a message")]
    CutOff,
    /// The other end closed where it should have spoken.
    #[error("closed without a word")]
    Closed,
    /// The peer proved to be somebody, but not the one expected here, or said something out of place.
    #[error("{0}")]
    Protocol(String),
}

/// Cuts frames out of what arrives.
#[derive(Debug)]
pub struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    length_max: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads frames whose bodies have at most `length_max` bytes.
    pub fn new(stream: R, length_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), length_max }
    }

    /// The next frame; None if the other end closed between frames. Can be dropped and called again without loss.
    ///
    /// # Errors
    /// [`LinkError`]; nothing more can be read then.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        self.next_while(None).await
    }

    /// The next frame, as long as the other end is not silent for longer than this: a long frame on a slow line takes its time.
    ///
    /// # Errors
    /// As [`Self::next`], and after a silence.
    pub async fn next_alive(
        &mut self,
        what: &'static str,
        silence: Duration,
    ) -> Result<Option<Frame>, LinkError> {
        self.next_while(Some((what, silence))).await
    }

    async fn next_while(
        &mut self,
        limit: Option<(&'static str, Duration)>,
    ) -> Result<Option<Frame>, LinkError> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.length_max)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_SIZE);
            let read = self.stream.read_buf(&mut self.buffer);
            let count = match limit {
                Some((what, silence)) => {
                    timeout(silence, read).await.map_err(|_| LinkError::Timeout(what))??
                }
                None => read.await?,
            };
            if count == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(LinkError::CutOff) };
            }
        }
    }

    /// The next frame, which must come within `limit`.
    ///
    /// # Errors
    /// As [`Self::next`], and if none comes in time or the other end closes.
    pub async fn expect(&mut self, what: &'static str, limit: Duration) -> Result<Frame, LinkError> {
        timeout(limit, self.next()).await.map_err(|_| LinkError::Timeout(what))??.ok_or(LinkError::Closed)
    }
}

/// Writes frames.
#[derive(Debug)]
pub struct FrameWriter<W> {
    stream: W,
    limit: Duration,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes frames; the other end must take each 64 KiB of them within `limit`.
    pub fn new(stream: W, limit: Duration) -> Self {
        Self { stream, limit }
    }

    /// Writes one frame. If this is dropped before it is done, the stream has lost its place and must be closed.
    ///
    /// # Errors
    /// [`LinkError`]; nothing more can be written then.
    pub async fn send(&mut self, frame: &Frame) -> Result<(), LinkError> {
        let bytes = frame.encode();
        for part in bytes.chunks(WRITE_SIZE) {
            let write = async {
                self.stream.write_all(part).await?;
                self.stream.flush().await
            };
            timeout(self.limit, write).await.map_err(|_| LinkError::Timeout("writing a message"))??;
        }
        Ok(())
    }
}

/// Both directions of `stream` as frames.
pub fn frames<S: AsyncRead + AsyncWrite>(
    stream: S,
    length_max: usize,
    write_limit: Duration,
) -> (FrameReader<ReadHalf<S>>, FrameWriter<WriteHalf<S>>) {
    let (read, write) = tokio::io::split(stream);
    (FrameReader::new(read, length_max), FrameWriter::new(write, write_limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(body: &'static [u8]) -> Frame {
        Frame { kind: 1, version: 1, body: Bytes::from_static(body) }
    }

    /// A line that takes ten times the silence for one frame.
    #[tokio::test(start_paused = true)]
    async fn a_long_frame_on_a_slow_line_is_no_silence() {
        let (mut a, b) = tokio::io::duplex(64);
        let (mut reader, _keep) = frames(b, 100, Duration::from_secs(5));
        let slow = tokio::spawn(async move {
            for byte in frame(&[7; 30]).encode().to_vec() {
                tokio::time::sleep(Duration::from_secs(10)).await;
                a.write_all(&[byte]).await.unwrap();
            }
            a
        });
        let silence = Duration::from_secs(30);
        assert_eq!(reader.next_alive("a word", silence).await.unwrap(), Some(frame(&[7; 30])));
        let _open = slow.await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(matches!(reader.next_alive("a word", silence).await, Err(LinkError::Timeout("a word"))));
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test]
    async fn what_is_sent_arrives_in_order_until_the_end() {
        let (a, b) = tokio::io::duplex(7);
        let (_, mut writer) = frames(a, 100, Duration::from_secs(5));
        let (mut reader, _keep) = frames(b, 100, Duration::from_secs(5));
        let sender = tokio::spawn(async move {
            writer.send(&frame(b"one")).await.unwrap();
            writer.send(&frame(b"")).await.unwrap();
        });
        assert_eq!(reader.next().await.unwrap(), Some(frame(b"one")));
        assert_eq!(reader.next().await.unwrap(), Some(frame(b"")));
        sender.await.unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn garbage_and_cut_frames_and_giants_are_errors() {
        let whole = frame(b"hello").encode();
        for (bytes, limit) in [(&b"GET / HTTP/1.1"[..], 100), (&whole[..9], 100), (&whole[..], 4)] {
            let mut reader = FrameReader::new(bytes, limit);
            assert!(reader.next().await.is_err(), "{bytes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_or_takes_nothing_is_given_up() {
        let (mut a, b) = tokio::io::duplex(4);
        let mut reader = FrameReader::new(&mut a, 100);
        let limit = Duration::from_secs(1);
        assert!(matches!(reader.expect("hello", limit).await, Err(LinkError::Timeout("hello"))));
        let mut writer = FrameWriter::new(b, limit);
        assert!(matches!(writer.send(&frame(b"hello")).await, Err(LinkError::Timeout(_))));
    }
}
