//! Commands that end within a limit, whatever they wait for.

use std::io::{self, Read};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a running command.
const LOOK: Duration = Duration::from_millis(5);
/// For the last words of a command that has ended, which a child of its own may keep from ending.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs a command without input and returns what it said, or an error of the kind `TimedOut`. A command that cannot even
/// be killed (it waits for a disk) is left behind: it ends when what it waits for does.
pub fn output(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let out = child.stdout.take().map(listen);
    let err = child.stderr.take().map(listen);
    let end = Instant::now() + limit;
    let status: ExitStatus = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() > end => {
                child.kill()?;
                thread::sleep(LOOK);
                let _reaped = child.try_wait();
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not done within {limit:?}")));
            }
            None => thread::sleep(LOOK),
        }
    };
    let heard = |from: Option<mpsc::Receiver<Vec<u8>>>| {
        from.and_then(|said| said.recv_timeout(LAST_WORDS).ok()).unwrap_or_default()
    };
    Ok(Output { status, stdout: heard(out), stderr: heard(err) })
}

fn listen(mut from: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (tell, said) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What came before an error counts.
        let _broken = from.read_to_end(&mut bytes);
        let _gone = tell.send(bytes);
    });
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_never_ends_is_given_up_and_one_that_ends_is_heard() {
        let said = output(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), LAST_WORDS * 10);
        let said = said.unwrap();
        assert_eq!(
            (said.status.code(), &said.stdout[..], &said.stderr[..]),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
        let never = output(Command::new("sleep").arg("1000"), Duration::from_millis(50));
        assert_eq!(never.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
