//! The plugin's end, for the built-in ones.

use super::protocol::{Answer, Ask, LINE_MAX, Say, VERSION};
use anshin_base::Problem;
use std::{
    io::{BufRead, Read, Write, stdin, stdout},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, channel},
};

/// A conversation over this process's standard input and output.
pub struct Guest;

impl Guest {
    /// What is asked.
    ///
    /// # Errors
    /// If it is nothing that this version understands.
    pub fn asked() -> Result<(Self, Ask), Problem> {
        let ask: Ask = line()?;
        if ask.anshin_plugin != VERSION {
            let message = format!("version {} of the plugin protocol is not known", ask.anshin_plugin);
            return Err(Problem::new("plugin-version", message));
        }
        Ok((Self, ask))
    }

    /// Says something.
    ///
    /// # Errors
    /// If the executor is gone.
    pub fn say(&self, say: &Say) -> Result<(), Problem> {
        self.write(say, &[])
    }

    fn write(&self, say: &Say, raw: &[u8]) -> Result<(), Problem> {
        let mut text = serde_json::to_vec(say).expect("invariant: plain data");
        text.push(b'\n');
        let mut out = stdout().lock();
        let written = out.write_all(&text).and_then(|()| out.write_all(raw)).and_then(|()| out.flush());
        written.map_err(|error| gone(&error))
    }

    /// For the log.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub fn note(&self, text: impl Into<String>) -> Result<(), Problem> {
        self.say(&Say::Note { text: text.into() })
    }

    /// Asks for an instant; whether there is one.
    ///
    /// # Errors
    /// As [`Self::say`], or what the executor says.
    pub fn hold(&self) -> Result<bool, Problem> {
        self.say(&Say::Hold)?;
        match line()? {
            Answer::Held { point } => Ok(point),
            Answer::Refused { reason } => Err(Problem::new("refused", reason)),
            _ => Err(Problem::new("plugin-protocol", "an unexpected answer")),
        }
    }

    /// Has the spool moved into the vault and emptied, because the log does not go on where it ends.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn stale(&self, reason: &str) -> Result<(), Problem> {
        self.say(&Say::Stale { reason: reason.into() })?;
        match line()? {
            Answer::Moved => Ok(()),
            Answer::Refused { reason } => Err(Problem::new("refused", reason)),
            _ => Err(Problem::new("plugin-protocol", "an unexpected answer")),
        }
    }

    /// Has something read.
    ///
    /// # Errors
    /// As [`Self::hold`].
    pub fn read(&self, read: &Say) -> Result<(), Problem> {
        self.say(read)?;
        match line()? {
            Answer::Read { .. } => Ok(()),
            Answer::Refused { reason } => Err(Problem::new("refused", reason)),
            _ => Err(Problem::new("plugin-protocol", "an unexpected answer")),
        }
    }

    /// Has one file read as it is now.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_file(&self, path: &Path, name: String) -> Result<(), Problem> {
        let path: PathBuf = path.into();
        self.read(&Say::Read { path, name, exclude: Vec::new(), live: true, changing: true })
    }

    /// What is dropped when the executor is gone: nothing else is heard from it any more.
    pub fn gone() -> Receiver<()> {
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut rest = [0; 512];
            while matches!(stdin().lock().read(&mut rest), Ok(count) if count > 0) {}
            drop(sender);
        });
        receiver
    }

    /// Gives a small file.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub fn file(&self, name: &str, content: &[u8]) -> Result<(), Problem> {
        let file = Say::File { name: name.into(), mode: 0o600, bytes: Some(content.len() as u64) };
        self.write(&file, content)
    }
}

fn gone(error: &std::io::Error) -> Problem {
    Problem::new("plugin-protocol", format!("the executor is gone: {error}"))
}

fn line<T: serde::de::DeserializeOwned>() -> Result<T, Problem> {
    let mut text = Vec::new();
    stdin().lock().take(LINE_MAX as u64).read_until(b'\n', &mut text).map_err(|error| gone(&error))?;
    if text.is_empty() {
        return Err(gone(&std::io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&text).map_err(|error| Problem::new("plugin-protocol", error.to_string()))
}
