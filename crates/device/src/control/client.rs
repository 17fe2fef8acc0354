//! A blocking client; needs no runtime.

use super::{Reply, Request, VolumeEvent, VolumeStatus};
use anshin_base::Problem;
use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Code of the problem that a volume's process does not answer, which says nothing about whether it holds its role.
pub const SILENT: &str = "volume-silent";

/// A connection to one volume's control socket.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to `<run>/volume-NAME.ctl`. Every later wait is bounded by `patience`, None for no bound.
    ///
    /// # Errors
    /// `volume-unreachable` if there is no such process, [`SILENT`] if that cannot be told.
    pub fn connect(path: &Path, patience: Option<Duration>) -> Result<Self, Problem> {
        let stream = UnixStream::connect(path).map_err(|error| unreachable(path, &error))?;
        stream.set_read_timeout(patience).map_err(|error| unreachable(path, &error))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// What the volume process says, or [`SILENT`].
    pub fn ask(&mut self, request: Request) -> Result<Reply, Problem> {
        self.send(request)?;
        match self.line()? {
            Reply::Problem { problem } => Err(problem),
            reply => Ok(reply),
        }
    }

    /// The status.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn status(&mut self) -> Result<VolumeStatus, Problem> {
        match self.ask(Request::Status)? {
            Reply::Status { status } => Ok(*status),
            other => Err(Problem::new("volume-protocol", format!("an unexpected answer: {other:?}"))),
        }
    }

    /// Turns the connection into a stream of events.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn subscribe(mut self) -> Result<impl Iterator<Item = Result<VolumeEvent, Problem>>, Problem> {
        self.send(Request::Subscribe)?;
        Ok(std::iter::from_fn(move || match self.line() {
            Ok(Reply::Event { event }) => Some(Ok(event)),
            Ok(_) => None,
            Err(problem) => Some(Err(problem)),
        }))
    }

    fn send(&mut self, request: Request) -> Result<(), Problem> {
        let mut line = serde_json::to_vec(&request).expect("invariant: requests are plain data");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|error| gone(&error))
    }

    fn line(&mut self) -> Result<Reply, Problem> {
        let mut line = String::new();
        let count = self.stream.read_line(&mut line).map_err(|error| gone(&error))?;
        if count == 0 {
            return Err(gone(&ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| Problem::new("volume-protocol", error.to_string()))
    }
}

fn unreachable(path: &Path, error: &std::io::Error) -> Problem {
    let nobody = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
    let code = if nobody { "volume-unreachable" } else { SILENT };
    Problem::new(code, format!("the volume's process does not answer at {}: {error}", path.display()))
        .hint("the node's daemon starts it; see its log")
}

fn gone(error: &std::io::Error) -> Problem {
    Problem::new(SILENT, format!("the volume's process does not answer: {error}"))
}
