//! The misbehaving line as two parties meet it.

#![allow(clippy::unwrap_used)]

use anshin_e2e::{control, proxy};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A line with an echo behind it.
fn line(name: &str) -> (std::net::SocketAddr, PathBuf) {
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    let socket = std::env::temp_dir().join(format!("anshin-proxy-{name}-{}", std::process::id()));
    (proxy::serve("127.0.0.1:0".parse().unwrap(), target, &socket, 1).unwrap(), socket)
}

fn echoed(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).map(|()| back)
}

#[test]
fn a_healthy_line_is_faithful_and_a_slow_one_takes_its_time() {
    let (address, socket) = line("slow");
    let mut stream = TcpStream::connect(address).unwrap();
    let bytes: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let mut writer = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = std::thread::spawn(move || writer.write_all(&sent));
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back).unwrap();
    sending.join().unwrap().unwrap();
    assert_eq!(back, bytes);
    control::ask(&socket, "delay 40").unwrap();
    let start = Instant::now();
    echoed(&mut stream, b"x").unwrap();
    assert!(start.elapsed() >= Duration::from_millis(80), "there and back");
    let _gone = std::fs::remove_file(socket);
}

#[test]
fn a_stalled_direction_keeps_everything_until_it_flows_again() {
    let (address, socket) = line("stall");
    let mut stream = TcpStream::connect(address).unwrap();
    echoed(&mut stream, b"warm").unwrap();
    control::ask(&socket, "stall down").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let refused = echoed(&mut stream, b"held").unwrap_err().kind();
    assert!(matches!(refused, ErrorKind::WouldBlock | ErrorKind::TimedOut));
    control::ask(&socket, "flow down").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut back = [0; 4];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"held");
    let _gone = std::fs::remove_file(socket);
}

#[test]
fn resets_cuts_and_garbage_arrive_as_what_they_are() {
    let (address, socket) = line("break");
    let mut stream = TcpStream::connect(address).unwrap();
    echoed(&mut stream, b"warm").unwrap();
    control::ask(&socket, "garbage down 16").unwrap();
    stream.write_all(b"tail").unwrap();
    let mut back = [0; 20];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back[16..], b"tail");
    control::ask(&socket, "reset").unwrap();
    assert_eq!(stream.read(&mut back).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut stream = TcpStream::connect(address).unwrap();
    echoed(&mut stream, b"warm").unwrap();
    control::ask(&socket, "cut").unwrap();
    assert_eq!(stream.read(&mut back).unwrap(), 0, "an orderly end");
    let _gone = std::fs::remove_file(socket);
}
