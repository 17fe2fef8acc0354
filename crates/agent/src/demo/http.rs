//! The two requests of HTTP/1.1 that make the demonstration usable with curl and a browser.

use super::{LINE_SIZE_MAX, Store, append, lock};
use std::{
    io::{self, BufRead, Read as _, Write},
    sync::Mutex,
};

/// Most header lines of a request.
const HEADERS_MAX: usize = 100;

/// The method, if the line begins a request.
pub(super) fn method(line: &str) -> Option<&'static str> {
    let known = ["GET", "POST"].into_iter().find(|method| line.starts_with(&format!("{method} /")))?;
    line.contains(" HTTP/1.").then_some(known)
}

/// Answers one request and ends the connection.
pub(super) fn answer(
    method: &str,
    reader: &mut impl BufRead,
    out: &mut impl Write,
    store: &Mutex<Store>,
) -> io::Result<()> {
    let mut length = 0;
    for _ in 0..HEADERS_MAX {
        let mut line = String::new();
        reader.by_ref().take(LINE_SIZE_MAX).read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(u64::MAX);
        }
        if line.to_ascii_lowercase().starts_with("expect:") {
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }
    if method == "GET" {
        let lines = lock(store).lines().iter().map(|line| format!("{line}\n")).collect::<String>();
        return reply(out, "200 OK", &lines);
    }
    if length > LINE_SIZE_MAX {
        return reply(out, "413 Content Too Large", "ERROR the body is too large\n");
    }
    let mut body = vec![0; usize::try_from(length).unwrap_or_default()];
    reader.read_exact(&mut body)?;
    let mut text = String::new();
    for line in String::from_utf8_lossy(&body).lines() {
        match append(store, line) {
            Ok(count) => text.push_str(&format!("OK {count}\n")),
            Err(error) => return reply(out, "400 Bad Request", &format!("{text}ERROR {error}\n")),
        }
    }
    reply(out, "200 OK", &text)
}

fn reply(out: &mut impl Write, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    out.write_all(head.as_bytes())?;
    out.write_all(body.as_bytes())
}
