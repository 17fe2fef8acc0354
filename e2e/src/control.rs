//! A control socket: one line in, one line out, on a Unix socket.

use crate::error::{Context, LabError, Result, refuse};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

/// Serves `answer` on a socket at `path` until the process ends.
pub fn serve(path: &Path, answer: impl Fn(&[&str]) -> Result<String> + Send + 'static) -> Result<()> {
    let _stale = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).at(path.display())?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // One caller at a time: commands are short, and their order is the caller's.
            let _gone = talk(&stream, &answer);
        }
    });
    Ok(())
}

fn talk(stream: &UnixStream, answer: &impl Fn(&[&str]) -> Result<String>) -> std::io::Result<()> {
    let mut writer = stream;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match answer(&words) {
            Ok(text) => writeln!(writer, "ok {text}")?,
            Err(error) => writeln!(writer, "error {}", error.to_string().replace('\n', " "))?,
        }
    }
    Ok(())
}

/// Sends one command to the socket at `path` and returns the answer.
pub fn ask(path: &Path, command: &str) -> Result<String> {
    let mut stream = UnixStream::connect(path).at(path.display())?;
    writeln!(stream, "{command}").at(path.display())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).at(path.display())?;
    match line.trim_end_matches('\n').split_once(' ') {
        Some(("ok", rest)) => Ok(rest.to_owned()),
        Some(("error", rest)) => refuse(rest),
        _ => refuse(format!("{} answered {line:?}", path.display())),
    }
}

/// A number among the words of a command.
pub fn number<T: std::str::FromStr>(word: Option<&&str>, what: &str) -> Result<T> {
    let parsed = word.and_then(|word| word.parse().ok());
    parsed.ok_or_else(|| LabError::Refused(format!("{what} must be a number")))
}
