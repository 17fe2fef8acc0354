//! Talking to the guard from the daemon.

use super::protocol::{ADDRESS_STAYS, Event, Hold, HoldStatus, LINE_SIZE_MAX, Reply, Request};
use crate::{
    address::ServiceAddress,
    resource::{Action, OperationResult, Rc, Resource, Status},
};
use anshin_base::{Mono, Problem};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

/// How often it is looked whether an address has come, or gone.
const STEP: Duration = Duration::from_millis(10);

/// One connection to the guard.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the guard's socket.
    ///
    /// # Errors
    /// `no-guard` if nobody answers there.
    pub async fn connect(socket: &Path) -> Result<Self, Problem> {
        let stream = UnixStream::connect(socket).await.map_err(|error| {
            let message = format!("the guard of addresses does not answer at {}: {error}", socket.display());
            Problem::new("no-guard", message)
        })?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Has the address held from now on. It comes when its lease allows; see [`Self::events`] and [`Self::list`].
    ///
    /// # Errors
    /// What the guard refuses: no interface for it, configured outside anshin.
    pub async fn hold(&mut self, hold: Hold) -> Result<(), Problem> {
        self.ask(&Request::Hold(hold)).await.map(drop)
    }

    /// Has the address removed and held no more; it is gone when this returns.
    ///
    /// # Errors
    /// If the guard cannot be asked.
    pub async fn release(&mut self, address: ServiceAddress) -> Result<(), Problem> {
        self.ask(&Request::Release { address }).await.map(drop)
    }

    /// All holds and how they stand.
    ///
    /// # Errors
    /// If the guard cannot be asked.
    pub async fn list(&mut self) -> Result<Vec<HoldStatus>, Problem> {
        match self.ask(&Request::List).await? {
            Reply::Holds(holds) => Ok(holds),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes this a connection of events; take them by [`Self::next_event`].
    ///
    /// # Errors
    /// If the guard cannot be asked.
    pub async fn events(&mut self) -> Result<(), Problem> {
        self.ask(&Request::Events).await.map(drop)
    }

    /// The next event, after [`Self::events`].
    ///
    /// # Errors
    /// `no-guard` if the connection ended.
    pub async fn next_event(&mut self) -> Result<Event, Problem> {
        match self.read().await? {
            Reply::Event(event) => Ok(event),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, request: &Request) -> Result<Reply, Problem> {
        let mut line = serde_json::to_vec(request).map_err(|error| lost(&error))?;
        line.push(b'\n');
        self.stream.write_all(&line).await.map_err(|error| lost(&error))?;
        match self.read().await? {
            Reply::Refused(problem) => Err(problem),
            reply => Ok(reply),
        }
    }

    async fn read(&mut self) -> Result<Reply, Problem> {
        let mut line = Vec::new();
        // A list of all holds is the longest reply.
        let mut limited = (&mut self.stream).take(16 * LINE_SIZE_MAX as u64);
        limited.read_until(b'\n', &mut line).await.map_err(|error| lost(&error))?;
        serde_json::from_slice(&line).map_err(|error| lost(&error))
    }
}

fn lost(error: &dyn std::fmt::Display) -> Problem {
    Problem::new("no-guard", format!("the guard of addresses broke off: {error}"))
}

fn unexpected(reply: &Reply) -> Problem {
    Problem::new("no-guard", format!("the guard of addresses answered out of turn: {reply:?}"))
}

/// Runs an operation of a resource `builtin:address` with the parameters `address`, `lease`, and optionally
/// `interface` and `not_before`.
pub async fn operate(
    socket: &Path,
    resource: &Resource,
    action: Action,
    timeout: Duration,
) -> OperationResult {
    let hold = match hold_of(resource) {
        Ok(hold) => hold,
        Err(problem) => return OperationResult::from_problem(Rc::NOT_CONFIGURED, Status::Error, problem),
    };
    let work = async {
        match action {
            Action::Start => start(socket, hold).await,
            Action::Stop => stop(socket, hold.address).await,
            Action::Monitor => {
                let status = status(socket, Some(hold.address)).await?;
                Ok(if status.is_some_and(|status| status.held) { Rc::OK } else { Rc::NOT_RUNNING })
            }
            Action::ValidateAll => Ok(Rc::OK),
            Action::MetaData => Ok(Rc::UNIMPLEMENTED),
        }
    };
    let begun = Instant::now();
    match tokio::time::timeout(timeout, work).await {
        Ok(Ok(rc)) => OperationResult::done(rc),
        Ok(Err(problem)) => OperationResult::from_problem(Rc::GENERIC, Status::Error, problem),
        Err(_) => {
            let waited = begun.elapsed().as_millis();
            let reason = match status(socket, hold_address(resource)).await {
                Ok(Some(HoldStatus { failure: Some(failure), .. })) => failure,
                _ => format!("not there after {waited} ms: the volume's lease does not allow it"),
            };
            OperationResult::failed(Rc::GENERIC, Status::TimedOut, reason)
        }
    }
}

async fn start(socket: &Path, hold: Hold) -> Result<Rc, Problem> {
    let mut client = Client::connect(socket).await?;
    let address = hold.address;
    client.hold(hold).await?;
    loop {
        let holds = client.list().await?;
        if holds.iter().any(|status| status.hold.address == address && status.held) {
            return Ok(Rc::OK);
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Waits until the address is gone: where it goes next, nobody else may have it any more.
async fn stop(socket: &Path, address: ServiceAddress) -> Result<Rc, Problem> {
    loop {
        match Client::connect(socket).await?.release(address).await {
            Err(problem) if problem.code == ADDRESS_STAYS => tokio::time::sleep(STEP).await,
            released => return released.map(|()| Rc::OK),
        }
    }
}

async fn status(socket: &Path, address: Option<ServiceAddress>) -> Result<Option<HoldStatus>, Problem> {
    let holds = Client::connect(socket).await?.list().await?;
    Ok(holds.into_iter().find(|status| Some(status.hold.address) == address))
}

fn hold_address(resource: &Resource) -> Option<ServiceAddress> {
    hold_of(resource).ok().map(|hold| hold.address)
}

fn hold_of(resource: &Resource) -> Result<Hold, Problem> {
    let place = format!("{} ({})", resource.name, resource.label());
    let given = |name: &str| {
        resource.parameter(name).ok_or_else(|| {
            Problem::new("missing-parameter", format!("{place}: `{name}` must be given"))
                .hint("address: the address with its prefix length; lease: the volume's lease record")
        })
    };
    let bad = |name: &str, why: String| Problem::new("bad-parameter", format!("{place}: `{name}`: {why}"));
    let address = given("address")?.parse().map_err(|error| bad("address", format!("{error}")))?;
    let not_before = match resource.parameter("not_before") {
        Some(text) => Some(Mono(text.parse().map_err(|error| bad("not_before", format!("{error}")))?)),
        None => None,
    };
    let interface = resource.parameter("interface").map(str::to_owned);
    Ok(Hold { address, interface, lease: given("lease")?.into(), not_before })
}
