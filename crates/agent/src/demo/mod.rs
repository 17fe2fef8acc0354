//! The program that demonstrations protect when nothing else is installed: a tiny store of lines that acknowledges a
//! line only after it is durable.
//!
//! One line in, one answer out, over TCP:
//!
//! | line | answer |
//! |---|---|
//! | `APPEND text` | `OK n`, when the text is the n-th durable line |
//! | `COUNT` | `OK n` |
//! | `LIST` | `OK n`, then the n lines |
//! | anything else | `ERROR reason` |
//!
//! `GET /` and `POST /` of HTTP do the same as `LIST` and, with the body's lines, `APPEND`, so that curl works too.

mod http;
mod store;

pub use store::{Store, StoreError};

use crate::resource::{Class, Resource};
use anshin_base::Problem;
use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Most clients at once; each has a thread.
const CLIENTS_MAX: usize = 64;
/// Longest line, and largest body, taken from a client.
const LINE_SIZE_MAX: u64 = 64 * 1024;
/// A client that is silent this long is let go, so that dead ones do not use up the places.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// Where the program keeps its lines and listens.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of its file, on the protected volume.
    pub dir: PathBuf,
    /// Where it listens. A service's address may arrive later than the program: see [`run`].
    pub listen: SocketAddr,
}

/// Serves until the process is ended. A kill at any moment loses no acknowledged line.
///
/// # Errors
/// `demo-store` if the file cannot be used, `demo-listen` if the address cannot.
pub fn run(options: &Options) -> Result<(), Problem> {
    let store = Store::open(&options.dir)
        .map_err(|error| Problem::new("demo-store", format!("{}: {error}", options.dir.display())))?;
    let listener = TcpListener::bind(options.listen).map_err(|error| {
        Problem::new("demo-listen", format!("{} cannot be listened on: {error}", options.listen))
            .hint("listen on 0.0.0.0:PORT, so that the program need not wait for the service's address")
    })?;
    serve(&listener, store);
    Ok(())
}

/// Serves `store` on `listener` for ever.
pub fn serve(listener: &TcpListener, store: Store) {
    let store = Arc::new(Mutex::new(store));
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else {
            // Out of file descriptors, or the client gave up: neither ends the service.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS_MAX {
            let _ = stream.write_all(b"ERROR too many clients\n");
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (store, clients) = (store.clone(), clients.clone());
        std::thread::spawn(move || {
            // A broken connection is the client's affair.
            let _ = converse(&stream, &store);
            clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn converse(stream: &TcpStream, store: &Mutex<Store>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_MAX))?;
    stream.set_write_timeout(Some(SILENCE_MAX))?;
    let mut reader = BufReader::new(stream);
    let mut out = stream;
    loop {
        let mut line = Vec::new();
        reader.by_ref().take(LINE_SIZE_MAX).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            // Cut by the limit or by the client's end: it may not be what the client meant.
            return out.write_all(b"ERROR the line is too long or has no end\n");
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if let Some(method) = http::method(line) {
            return http::answer(method, &mut reader, &mut out, store);
        }
        out.write_all(answer(line, store).as_bytes())?;
    }
}

fn answer(line: &str, store: &Mutex<Store>) -> String {
    let (word, text) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "APPEND" => match append(store, text) {
            Ok(count) => format!("OK {count}\n"),
            Err(error) => format!("ERROR {error}\n"),
        },
        "COUNT" => format!("OK {}\n", lock(store).lines().len()),
        "LIST" => {
            let store = lock(store);
            let mut out = format!("OK {}\n", store.lines().len());
            for line in store.lines() {
                out.push_str(line);
                out.push('\n');
            }
            out
        }
        _ => "ERROR the commands are APPEND text, COUNT, LIST\n".to_owned(),
    }
}

/// Appends, and ends the process if the disk failed: after a failed flush nobody knows what is durable, and
/// only a restart, which reads the file anew, finds out.
fn append(store: &Mutex<Store>, text: &str) -> Result<usize, StoreError> {
    let outcome = lock(store).append(text);
    if let Err(error @ StoreError::Io(_)) = &outcome {
        tracing::error!(%error, "the disk failed; ending");
        std::process::exit(1);
    }
    outcome
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The plain command that runs a resource `builtin:demo` with the parameters `dir` and `listen`.
pub(crate) fn as_command(resource: &Resource, program: &Path) -> Result<Resource, Problem> {
    let missing = |name: &str| {
        let message = format!("{} ({}): `{name}` must be given", resource.name, resource.label());
        Problem::new("missing-parameter", message)
            .hint("dir: a directory on the volume; listen: ADDRESS:PORT, such as 0.0.0.0:7700")
    };
    let dir = resource.parameter("dir").ok_or_else(|| missing("dir"))?;
    let listen = resource.parameter("listen").ok_or_else(|| missing("listen"))?;
    let listen: SocketAddr = listen.parse().map_err(|_| {
        Problem::new("bad-parameter", format!("{}: `listen` is {listen:?}, not ADDRESS:PORT", resource.name))
    })?;
    let program = quote(&program.display().to_string());
    let mut command = Resource::new(resource.name.clone(), Class::Command, "demo")
        .with("start", format!("exec {program} run demo --dir {} --listen {listen}", quote(dir)))
        // It must not start in the volume's directory: it opens what it needs.
        .with("grace", "1");
    command.timeouts = resource.timeouts.clone();
    Ok(command)
}

/// A word for `/bin/sh`.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests;
