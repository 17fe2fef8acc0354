//! The executor's end of a conversation with a plugin.

use super::{
    Places,
    protocol::{Answer, Ask, DATA_MAX, LINE_MAX, Operation, Say, VERSION},
};
use crate::backup::{
    child::{Group, signal_group},
    stop::Stop,
};
use anshin_base::Problem;
use rustix::process::Signal;
use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    process::{ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    time::Duration,
};

/// From the wish to stop to the end of a plugin that does not heed it.
const GRACE: Duration = Duration::from_secs(10);
/// How soon the wish to stop reaches a plugin.
const LOOK: Duration = Duration::from_millis(100);
/// A plugin that has said its last word ends within this.
const ENDING: Duration = Duration::from_secs(30);

/// For which service a plugin is asked.
#[derive(Clone, Debug, Default)]
pub struct Whom {
    /// The service.
    pub service: String,
    /// What is known of its program.
    pub facts: BTreeMap<String, String>,
}

/// A plugin at work.
pub struct Plugin {
    name: String,
    group: Group,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    stop: Arc<Stop>,
    /// Ends the watching when dropped.
    _watch: Sender<()>,
}

impl Plugin {
    /// Starts the plugin `name` and asks it.
    ///
    /// # Errors
    /// If there is none, or it cannot be started.
    pub fn start(
        places: &Places,
        name: &str,
        whom: &Whom,
        operation: Operation,
        stop: &Arc<Stop>,
    ) -> Result<Self, Problem> {
        let mut command = places.command(name)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut group = Group::start(command, &format!("plugin {name}"))?;
        let (input, output) = (group.child().stdin.take(), group.child().stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Problem::new("plugin-start", format!("plugin {name} has no pipes")));
        };
        let watch = watch(group.pid(), stop.clone())?;
        let mut plugin = Self {
            name: name.into(),
            group,
            input,
            output: BufReader::new(output),
            stop: stop.clone(),
            _watch: watch,
        };
        let Whom { service, facts } = whom.clone();
        let ask = Ask { anshin_plugin: VERSION, service, facts, operation };
        plugin.send(&serde_json::to_vec(&ask).expect("invariant: plain data"))?;
        Ok(plugin)
    }

    /// Tells it to end, as the wish to stop does; it still says its last words.
    pub fn ask_to_end(&self) {
        signal_group(self.group.pid(), Signal::TERM);
    }

    fn problem(&self, message: impl std::fmt::Display) -> Problem {
        Problem::new("plugin", format!("plugin {}: {message}", self.name))
    }

    /// A broken pipe because everything is to stop is not the plugin's fault.
    fn broken(&self, error: &io::Error) -> Problem {
        self.stop.reason().unwrap_or_else(|| self.problem(error))
    }

    fn send(&mut self, line: &[u8]) -> Result<(), Problem> {
        let sent = self
            .input
            .write_all(line)
            .and_then(|()| self.input.write_all(b"\n"))
            .and_then(|()| self.input.flush());
        sent.map_err(|error| self.broken(&error))
    }

    /// Answers.
    ///
    /// # Errors
    /// If the plugin is gone.
    pub fn answer(&mut self, answer: &Answer) -> Result<(), Problem> {
        self.send(&serde_json::to_vec(answer).expect("invariant: plain data"))
    }

    /// The next thing that it says and the caller must act on: notes go to the log, [`Say::Failed`] is an error. None after
    /// [`Say::Done`].
    ///
    /// # Errors
    /// What the plugin says, or that it broke the protocol, or the reason to stop.
    pub fn next_word(&mut self) -> Result<Option<Say>, Problem> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.output).take(LINE_MAX as u64 + 1).read_until(b'\n', &mut line);
            read.map_err(|error| self.broken(&error))?;
            if line.last() != Some(&b'\n') {
                let why =
                    if line.len() > LINE_MAX { "a line is too long" } else { "it ended without a last word" };
                return Err(self
                    .stop
                    .reason()
                    .unwrap_or_else(|| self.problem(why).hint("see its standard error in the log")));
            }
            let say: Say = serde_json::from_slice(&line).map_err(|error| {
                let text = String::from_utf8_lossy(&line[..line.len().min(200)]).trim_end().to_owned();
                self.problem(format!("it said {text:?}: {error}"))
            })?;
            match say {
                Say::Note { text } => tracing::info!(plugin = self.name, "{text}"),
                Say::Done => {
                    self.finish()?;
                    return Ok(None);
                }
                Say::Failed { reason, hint, again } => {
                    if let Some(reason) = self.stop.reason() {
                        return Err(reason);
                    }
                    let code = if again { "plugin-failed" } else { "plugin-refused" };
                    let problem = Problem::new(code, format!("plugin {}: {reason}", self.name));
                    return Err(hint.into_iter().fold(problem, Problem::hint));
                }
                say => return Ok(Some(say)),
            }
        }
    }

    /// As [`Self::next_word`], for what only needs to be collected.
    ///
    /// # Errors
    /// As [`Self::next_word`].
    pub fn all(&mut self) -> Result<Vec<Say>, Problem> {
        std::iter::from_fn(|| self.next_word().transpose()).collect()
    }

    fn finish(&mut self) -> Result<(), Problem> {
        self.group.wait(Some(ENDING), None).map(drop)
    }

    /// An unexpected word.
    ///
    /// # Errors
    /// Always.
    pub fn unexpected<T>(&self, say: &Say) -> Result<T, Problem> {
        Err(self.problem(format!(
            "it said {} where that has no meaning",
            serde_json::to_string(say).unwrap_or_default()
        )))
    }

    /// The raw bytes that follow [`Say::File`] with a length.
    pub fn raw(&mut self, bytes: u64) -> impl Read + '_ {
        Raw { output: &mut self.output, left: bytes }
    }

    /// The pieces that follow [`Say::File`] without a length, up to its end.
    pub fn pieces(&mut self) -> impl Read + '_ {
        Pieces { plugin: self, left: 0, ended: false }
    }
}

struct Raw<'p> {
    output: &'p mut BufReader<ChildStdout>,
    left: u64,
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.output.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

struct Pieces<'p> {
    plugin: &'p mut Plugin,
    left: u64,
    ended: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 {
            if self.ended || buffer.is_empty() {
                return Ok(0);
            }
            match self.plugin.next_word().map_err(io::Error::other)? {
                Some(Say::Data { bytes }) if bytes <= DATA_MAX => self.left = bytes,
                Some(Say::End) => self.ended = true,
                _ => return Err(io::Error::other("a plugin's file has no end")),
            }
        }
        let mut raw = Raw { output: &mut self.plugin.output, left: self.left };
        let count = raw.read(buffer)?;
        self.left = raw.left;
        Ok(count)
    }
}

/// Ends the plugin when everything is to stop: whoever waits for its next word then finds the pipe closed.
fn watch(pid: u32, stop: Arc<Stop>) -> Result<Sender<()>, Problem> {
    let (sender, receiver) = channel::<()>();
    let look = move || {
        while receiver.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if stop.reason().is_some() {
                signal_group(pid, Signal::TERM);
                if receiver.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
                    signal_group(pid, Signal::KILL);
                }
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("plugin".into()).spawn(look);
    thread.map_err(|error| Problem::new("backup-start", error.to_string()))?;
    Ok(sender)
}
