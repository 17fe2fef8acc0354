//! The relay itself: two threads per direction of each connection, ruled by the shared state of the line.

use super::rules::{Direction, Rules};
use crate::control;
use crate::error::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How often a stalled or idle direction looks at the rules again.
const LOOK: Duration = Duration::from_millis(5);
/// Pieces under way per direction; beyond it the sender feels the back pressure, as on a real line.
const UNDER_WAY: usize = 256;

/// Relays from `listen` to `target` under the control of the socket at `control`, until the process ends.
/// Returns the address it really listens on.
pub fn serve(listen: SocketAddr, target: SocketAddr, control: &Path, seed: u64) -> Result<SocketAddr> {
    let rules = Arc::new(Mutex::new(Rules::new(seed)));
    let controlled = Arc::clone(&rules);
    control::serve(control, move |words| lock(&controlled).command(words))?;
    let listener = TcpListener::bind(listen).at(format!("listening on {listen}"))?;
    let address = listener.local_addr().at("own address")?;
    thread::spawn(move || {
        for caller in listener.incoming().flatten() {
            let rules = Arc::clone(&rules);
            // A target that refuses is passed on as a closed connection.
            thread::spawn(move || drop(relay(&caller, target, &rules)));
        }
    });
    Ok(address)
}

fn lock(rules: &Mutex<Rules>) -> MutexGuard<'_, Rules> {
    rules.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn relay(caller: &TcpStream, target: SocketAddr, rules: &Arc<Mutex<Rules>>) -> std::io::Result<()> {
    let born = lock(rules).resets;
    if lock(rules).cut {
        return caller.shutdown(Shutdown::Both);
    }
    let inside = TcpStream::connect(target)?;
    for (from, to, direction) in [(caller, &inside, Direction::Up), (&inside, caller, Direction::Down)] {
        let (sender, receiver) = sync_channel(UNDER_WAY);
        let (source, sink) = (from.try_clone()?, to.try_clone()?);
        source.set_nodelay(true)?;
        let (reading, writing) = (Arc::clone(rules), Arc::clone(rules));
        thread::spawn(move || read(source, &sender, &reading));
        thread::spawn(move || drop(write(sink, &receiver, &writing, direction)));
    }
    watch(caller, &inside, rules, born)
}

/// Ends the connection when the line is cut or reset, or when both ends have gone.
fn watch(caller: &TcpStream, inside: &TcpStream, rules: &Mutex<Rules>, born: u64) -> std::io::Result<()> {
    loop {
        let (cut, resets) = {
            let rules = lock(rules);
            (rules.cut, rules.resets)
        };
        if resets != born {
            // Dissolving the association makes the kernel send a reset at once, although copies are still open.
            rustix::net::connect_unspec(caller)?;
            return Ok(rustix::net::connect_unspec(inside)?);
        }
        if cut {
            // The threads' copies keep the sockets open; ending both directions makes them let go.
            let _gone = caller.shutdown(Shutdown::Both);
            return inside.shutdown(Shutdown::Both);
        }
        // Both ends gone: nothing left to watch.
        if caller.peer_addr().is_err() && inside.peer_addr().is_err() {
            return Ok(());
        }
        thread::sleep(LOOK);
    }
}

/// A piece with the moment when it arrives; an empty one is the end.
type Piece = (Instant, Vec<u8>);

fn read(mut source: TcpStream, sender: &SyncSender<Piece>, rules: &Mutex<Rules>) {
    let mut buffer = vec![0; 64 << 10];
    let (mut line_free, mut last_arrival) = (Instant::now(), Instant::now());
    loop {
        let count = source.read(&mut buffer).unwrap_or(0);
        let (transfer, travel) = lock(rules).crossing(count);
        // One piece after the other: transfers add up, and jitter never reorders a stream.
        line_free = line_free.max(Instant::now()) + transfer;
        last_arrival = last_arrival.max(line_free + travel);
        if sender.send((last_arrival, buffer[..count].to_vec())).is_err() || count == 0 {
            return;
        }
    }
}

fn write(
    mut sink: TcpStream,
    receiver: &Receiver<Piece>,
    rules: &Mutex<Rules>,
    direction: Direction,
) -> std::io::Result<()> {
    while let Ok((arrives, bytes)) = receiver.recv() {
        thread::sleep(arrives.saturating_duration_since(Instant::now()));
        while lock(rules).stalled(direction) {
            thread::sleep(LOOK);
        }
        let garbage = lock(rules).take_garbage(direction);
        sink.write_all(&garbage)?;
        if bytes.is_empty() {
            break;
        }
        sink.write_all(&bytes)?;
    }
    sink.shutdown(Shutdown::Write)
}
