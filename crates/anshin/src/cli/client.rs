//! The client of the node's API over its Unix socket.

use anshin_base::Problem;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{env, io, path::PathBuf, time::Duration};
use tokio::{net::UnixStream, time::timeout};

/// Where the API is when the environment does not say otherwise.
const SOCKET: &str = "/run/anshin/api.sock";
/// Far above any answer of the API.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// A drill moves a service, stop and start included; everything else answers at once or within a few elections.
const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// A node's API.
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new() -> Self {
        Self { socket: env::var_os("ANSHIN_API_SOCKET").map_or_else(|| PathBuf::from(SOCKET), PathBuf::from) }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Problem> {
        self.ask(Method::GET, path, None::<&()>).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Problem> {
        self.ask(Method::POST, path, Some(body)).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Problem> {
        self.ask(Method::PUT, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Result<(), Problem> {
        self.ask(Method::DELETE, path, None::<&()>).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, Problem> {
        let answer = timeout(ANSWER_WITHIN, self.exchange(method, path, body)).await;
        let late = |_| self.problem("node-timeout", "the node did not answer in time");
        let (good, bytes) = answer.map_err(late)??;
        if !good {
            let unreadable =
                |_| self.problem("answer", "the node answered with an error that cannot be read");
            return Err(serde_json::from_slice::<Problem>(&bytes).map_err(unreadable)?);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            self.problem("answer", &format!("the node's answer is not as expected: {error}"))
                .hint("the command and the daemon may be of different versions: see `anshin version`")
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(bool, Bytes), Problem> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(&error))?;
        let broken =
            |error: hyper::Error| self.problem("node-unreachable", &format!("the node broke off: {error}"));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends by itself once the sender is dropped; its errors reach the request.
        let connection = tokio::spawn(connection);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| {
                self.problem("request", &format!("the request cannot be written: {error}"))
            })?,
            None => Vec::new(),
        };
        let mut request =
            Request::builder().method(method).uri(format!("/api/v1/{path}")).header(HOST, "localhost");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(Bytes::from(bytes)))
            .map_err(|error| self.problem("request", &format!("the request cannot be made: {error}")))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        let good = answer.status().is_success();
        let bytes = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = bytes
            .map_err(|error| self.problem("answer", &format!("the node's answer broke off: {error}")))?;
        connection.abort();
        Ok((good, bytes.to_bytes()))
    }

    fn problem(&self, code: &str, message: &str) -> Problem {
        Problem::new(code, format!("{}: {message}", self.socket.display()))
    }

    fn unreachable(&self, error: &io::Error) -> Problem {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "run the command as the administrator (root)",
            _ => {
                "start the daemon (`systemctl start anshin`); on a new machine, `anshin init` or `anshin join` first"
            }
        };
        self.problem("node-unreachable", &format!("this node's daemon cannot be reached: {error}")).hint(hint)
    }
}

/// A name as one part of a path.
pub fn part(name: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte);
    name.bytes().fold(String::new(), |mut text, byte| {
        match keep(byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}
