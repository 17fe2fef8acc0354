//! The few calls that are made to systemd's manager, over one connection that is made again when it breaks.

use anshin_base::Problem;
use futures_util::StreamExt as _;
use serde::{Serialize, de::DeserializeOwned};
use std::{num::NonZeroUsize, time::Duration};
use tokio::sync::Mutex;
use zbus::{
    Connection, DynamicType, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant, Type, connection,
};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
/// How long the bus and systemd may take to answer a call. Jobs are waited for separately.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often and how soon a call is tried again while the bus or systemd is away.
const TRIES: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// What the bus says of a service that is not on it.
const AWAY: [&str; 2] =
    ["org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner"];
/// Signals of other jobs that may arrive between ours being queued and its end: a boot ends hundreds at once.
const SIGNALS_MAX: usize = 4096;

/// Of a listed unit: name, description, load state, active state, sub state, followed, path, job id, type and path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// The connection to the system bus.
#[derive(Debug)]
pub(super) struct Bus {
    address: Option<String>,
    connection: Mutex<Option<Connection>>,
}

impl Bus {
    pub(super) fn new(address: Option<String>) -> Self {
        Self { address, connection: Mutex::new(None) }
    }

    /// Calls a method of the manager. A bus or systemd that is just being restarted is waited for: an operation that
    /// failed would count as a failure of the unit.
    pub(super) async fn call<T: DeserializeOwned + Type>(
        &self,
        method: &'static str,
        body: &(impl Serialize + DynamicType + Sync),
    ) -> Result<T, Problem> {
        self.ask(MANAGER_PATH, MANAGER, method, body).await
    }

    async fn ask<T: DeserializeOwned + Type>(
        &self,
        path: &str,
        interface: &str,
        method: &'static str,
        body: &(impl Serialize + DynamicType + Sync),
    ) -> Result<T, Problem> {
        let mut tries = 0;
        loop {
            let connection = self.connection().await?;
            match ask_once(&connection, path, interface, method, body).await {
                Err(error) if is_away(&error) && tries < TRIES => {
                    self.forget_broken(&error).await;
                    tokio::time::sleep(TRY_AGAIN).await;
                }
                Err(error) => {
                    self.forget_broken(&error).await;
                    return Err(problem(method, &error));
                }
                Ok(answer) => return Ok(answer),
            }
            tries += 1;
        }
    }

    /// Names of loaded units that match a pattern.
    pub(super) async fn units(&self, pattern: &str) -> Result<Vec<String>, Problem> {
        let states: &[&str] = &[];
        let listed: Vec<Listed> = self.call("ListUnitsByPatterns", &(states, &[pattern][..])).await?;
        Ok(listed.into_iter().map(|unit| unit.0).collect())
    }

    /// All properties of one interface of a unit.
    pub(super) async fn properties(
        &self,
        path: &OwnedObjectPath,
        interface: &str,
    ) -> Result<std::collections::HashMap<String, OwnedVariant>, Problem> {
        self.ask(path.as_str(), "org.freedesktop.DBus.Properties", "GetAll", &(interface,)).await
    }

    /// Queues a job and waits for its end; gives its result, `done` if all went well.
    pub(super) async fn job(&self, method: &'static str, unit: &str) -> Result<String, Problem> {
        // systemd sends its signals only while someone subscribes. The connection may have subscribed before.
        match self.call::<()>("Subscribe", &()).await {
            Err(problem) if problem.code != "already-subscribed" => return Err(problem),
            _ => {}
        }
        let connection = self.connection().await?;
        // Listened for before the job exists, so that its end cannot be missed.
        let rule = MatchRule::builder()
            .msg_type(zbus::message::Type::Signal)
            .sender(SYSTEMD)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(|error| problem(method, &error))?;
        let queue = NonZeroUsize::new(SIGNALS_MAX);
        let mut ends = MessageStream::for_match_rule(rule, &connection, queue)
            .await
            .map_err(|error| problem(method, &error))?;
        // Asked on the connection that listens, and only once.
        let asked = ask_once(&connection, MANAGER_PATH, MANAGER, method, &(unit, "replace")).await;
        let job: OwnedObjectPath = match asked {
            Ok(job) => job,
            Err(error) => {
                self.forget_broken(&error).await;
                return Err(problem(method, &error));
            }
        };
        while let Some(message) = ends.next().await {
            let message = message.map_err(|error| problem(method, &error))?;
            let body = message.body();
            let Ok((_, path, _, result)) = body.deserialize::<(u32, OwnedObjectPath, String, String)>()
            else {
                continue;
            };
            if path == job {
                return Ok(result);
            }
        }
        self.forget().await;
        Err(Problem::new("no-systemd", format!("{unit}: the system bus closed the connection")))
    }

    async fn connection(&self) -> Result<Connection, Problem> {
        let mut slot = self.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let builder = match &self.address {
            Some(address) => connection::Builder::address(address.as_str()),
            None => connection::Builder::system(),
        };
        let build = tokio::time::timeout(PATIENCE, builder.build()).await;
        let build = build.unwrap_or_else(|_| Err(no_answer()));
        let connection = build.map_err(|error| {
            let message = format!("the system bus cannot be reached: {error}");
            Problem::new("no-systemd", message).hint("units need a node that runs systemd")
        })?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn forget_broken(&self, error: &zbus::Error) {
        if matches!(error, zbus::Error::InputOutput(_)) {
            self.forget().await;
        }
    }

    async fn forget(&self) {
        *self.connection.lock().await = None;
    }
}

async fn ask_once<T: DeserializeOwned + Type>(
    connection: &Connection,
    path: &str,
    interface: &str,
    method: &str,
    body: &(impl Serialize + DynamicType + Sync),
) -> zbus::Result<T> {
    let asked = connection.call_method(Some(SYSTEMD), path, Some(interface), method, body);
    let reply = tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(no_answer()))?;
    reply.body().deserialize()
}

/// True of an error that passes once the bus or systemd has come back. systemd is not on a new bus at once.
fn is_away(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) => true,
        zbus::Error::MethodError(name, ..) => AWAY.contains(&name.as_str()),
        _ => false,
    }
}

fn no_answer() -> zbus::Error {
    zbus::Error::Failure(format!("no answer within {} s", PATIENCE.as_secs()))
}

/// An error of the bus or of systemd as a problem; the code tells those apart that mean something to us.
fn problem(method: &str, error: &zbus::Error) -> Problem {
    let (name, text) = match error {
        zbus::Error::MethodError(name, text, _) => (name.as_str(), text.clone().unwrap_or_default()),
        other => ("", other.to_string()),
    };
    let code = match name {
        "org.freedesktop.systemd1.NoSuchUnit" => "no-such-unit",
        "org.freedesktop.systemd1.UnitMasked" => "unit-masked",
        "org.freedesktop.systemd1.AlreadySubscribed" => "already-subscribed",
        "org.freedesktop.systemd1.NoSuchProcess" => "no-such-process",
        "org.freedesktop.systemd1.BadUnitSetting" | "org.freedesktop.systemd1.LoadFailed" => "unit-invalid",
        away if AWAY.contains(&away) => "no-systemd",
        _ => "systemd-error",
    };
    Problem::new(code, format!("systemd: {method}: {text}"))
}
