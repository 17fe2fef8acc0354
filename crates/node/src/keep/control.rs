//! The control socket of a vault's process: one line of JSON asks ([`Task`]), one answers ([`Answer`]). For root alone; what
//! forgets and collects is never asked for over the network.

use super::administer::{Answer, Task, carry_out};
use anshin_base::Problem;
use anshin_vault::Vault;
use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

/// Longest question.
const QUESTION_LENGTH_MAX: u64 = 64 << 10;
/// Longest answer: a hundred thousand snapshots.
const ANSWER_LENGTH_MAX: u64 = 256 << 20;
/// Questions at once.
const AT_ONCE: usize = 8;
/// For a question to be asked.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// For what only lists or marks to be answered.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Listens at `path`, for root alone, and answers until dropped.
///
/// # Errors
/// If it cannot be listened at.
pub async fn serve(vault: Arc<Vault>, path: &Path) -> Result<(), Problem> {
    let failed =
        |error: io::Error| Problem::new("listen", format!("cannot listen at {}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = places.clone().try_acquire_owned() else { continue };
        let vault = vault.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(vault, stream).await {
                tracing::debug!(%error, "a question over the control socket was not answered");
            }
            drop(place);
        });
    }
}

async fn answer(vault: Arc<Vault>, stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(read.take(QUESTION_LENGTH_MAX));
    tokio::time::timeout(QUESTION_LIMIT, reader.read_line(&mut line)).await??;
    let answer = match serde_json::from_str::<Task>(&line) {
        Ok(task) => {
            match task {
                // The daemon looks every other second.
                Task::Status | Task::Snapshots => tracing::debug!(?task, "asked over the control socket"),
                _ => tracing::info!(?task, "asked over the control socket"),
            }
            tokio::task::spawn_blocking(move || carry_out(&vault, &task)).await.map_err(io::Error::other)?
        }
        Err(error) => {
            Answer::Failed(Problem::new("task-format", format!("that is no task of a vault: {error}")))
        }
    };
    let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
    text.push(b'\n');
    write.write_all(&text).await
}

/// Asks the process that serves a vault; None if there is none at this socket.
///
/// # Errors
/// If it does not answer.
pub fn ask(path: &Path, task: &Task) -> Result<Option<Answer>, Problem> {
    let failed = |error: io::Error| {
        Problem::new(
            "vault-control",
            format!("{}: the vault's process does not answer: {error}", path.display()),
        )
    };
    let mut stream = match StdStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let limit = match task {
        Task::Status | Task::Snapshots | Task::Forget { .. } | Task::Remember { .. } => Some(ANSWER_LIMIT),
        // They take as long as the vault is large.
        Task::Verify | Task::Gc => None,
    };
    stream.set_write_timeout(Some(QUESTION_LIMIT)).map_err(failed)?;
    stream.set_read_timeout(limit).map_err(failed)?;
    let mut question = serde_json::to_vec(task).map_err(|error| failed(error.into()))?;
    question.push(b'\n');
    stream.write_all(&question).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream.take(ANSWER_LENGTH_MAX)).read_line(&mut line).map_err(failed)?;
    serde_json::from_str(&line).map(Some).map_err(|error| failed(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anshin_vault::{Options, Place};

    #[test]
    fn a_task_is_answered_and_what_is_none_is_refused() {
        let directory = std::env::temp_dir().join(format!("anshin-control-{}", std::process::id()));
        let store = Place::parse(directory.join("vault").to_str().unwrap()).unwrap().store(true).unwrap();
        let vault = Arc::new(Vault::create(store, Options::default()).unwrap());
        let path = directory.join("vault-main.ctl");
        assert_eq!(ask(&path, &Task::Status).unwrap(), None);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let served = path.clone();
        runtime.spawn(async move { serve(vault, &served).await });
        while !path.exists() {
            std::thread::yield_now();
        }
        let answer = loop {
            // Between the socket's birth and its listening nobody is there.
            if let Some(answer) = ask(&path, &Task::Status).unwrap() {
                break answer;
            }
        };
        let Answer::Status(status) = answer else { panic!("{answer:?}") };
        assert_eq!(status.id.len(), 32);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut stream = StdStream::connect(&path).unwrap();
        stream.write_all(b"{\"task\":\"burn\"}\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("task-format"), "{text}");
        fs::remove_dir_all(directory).unwrap();
    }
}
