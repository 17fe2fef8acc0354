//! A session with a server through `psql`: one connection for as long as the value lives.

use super::cluster::Cluster;
use anshin_base::Problem;
use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread::JoinHandle,
};

/// What ends an answer; no query gives it.
const MARK: &str = "--anshin-end-of-answer--";

/// See the module.
pub struct Sql {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    errors: Option<JoinHandle<String>>,
}

fn failed(message: impl Into<String>) -> Problem {
    Problem::new("postgresql", message)
}

impl Sql {
    /// Connects to `database`.
    ///
    /// # Errors
    /// If there is no `psql`, or the server does not answer.
    pub fn connect(cluster: &Cluster, database: &str) -> Result<Self, Problem> {
        let psql = cluster.program("psql", None)?;
        let mut session = Self::start(cluster.client(&psql), database)?;
        session.ask("SELECT 1").map_err(|problem| {
            failed(format!(
                "cannot connect to PostgreSQL at {}:{}: {}",
                cluster.socket, cluster.port, problem.message
            ))
            .hint(
                "is it running, and may its own user connect through the socket (`local all postgres peer`)?",
            )
        })?;
        Ok(session)
    }

    fn start(mut command: Command, database: &str) -> Result<Self, Problem> {
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| failed(format!("cannot start psql: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(mut errors)) = pipes else {
            return Err(failed("psql has no pipes"));
        };
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            text
        });
        Ok(Self { child, input, output: BufReader::new(output), errors: Some(errors) })
    }

    /// The answer to a query, without the last line break.
    ///
    /// # Errors
    /// What the server says. The session is over then.
    pub fn ask(&mut self, query: &str) -> Result<String, Problem> {
        let sent = writeln!(self.input, "{query};\n\\echo {MARK}").and_then(|()| self.input.flush());
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let count = self.output.read_line(&mut line).map_err(|error| failed(error.to_string()))?;
            if count == 0 || sent.is_err() {
                return Err(self.broken());
            }
            if line.trim_end() == MARK {
                answer.truncate(answer.trim_end_matches('\n').len());
                return Ok(answer);
            }
            answer.push_str(&line);
        }
    }

    /// The answer to a query that gives one JSON value.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn json<T: serde::de::DeserializeOwned>(&mut self, query: &str) -> Result<T, Problem> {
        let answer = self.ask(query)?;
        serde_json::from_str(&answer).map_err(|error| failed(format!("{query}: {answer}: {error}")))
    }

    fn broken(&mut self) -> Problem {
        let _ = self.child.wait();
        let text = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        let text = text.trim();
        failed(if text.is_empty() { "the connection to PostgreSQL broke" } else { text })
    }
}

impl Drop for Sql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
