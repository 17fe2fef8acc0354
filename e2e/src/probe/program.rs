//! One connection to a protected program: append a row and be told when it is safe, or list the rows.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A program that a site protects, seen from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The built-in store of lines.
    Demo,
    /// PostgreSQL that trusts its network, with a table `row(text)`.
    Postgres,
}

/// Largest answer that a client takes; protects the prober from a server gone mad.
const ANSWER_SIZE_MAX: usize = 1 << 30;

impl Program {
    /// Port on which it listens.
    pub fn port(self) -> u16 {
        match self {
            Self::Demo => 7000,
            Self::Postgres => 5432,
        }
    }

    /// Connects; nothing waits longer than `patience`.
    pub fn connect(self, host: std::net::IpAddr, patience: Duration) -> io::Result<Session> {
        let stream = TcpStream::connect_timeout(&SocketAddr::new(host, self.port()), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        let mut session = Session { program: self, stream: BufReader::new(stream) };
        if self == Self::Postgres {
            session.start_postgres()?;
        }
        Ok(session)
    }
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    program: Program,
    stream: BufReader<TcpStream>,
}

fn bad(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

impl Session {
    /// Waits this long from now on.
    pub fn patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(patience))
    }

    /// Adds a row; returns only when the program has acknowledged it.
    pub fn append(&mut self, row: &str) -> io::Result<()> {
        match self.program {
            Program::Demo => self.demo(&format!("APPEND {row}")).map(drop),
            Program::Postgres => self.query(&format!("INSERT INTO row VALUES ('{row}')")).map(drop),
        }
    }

    /// Every row that the program has.
    pub fn list(&mut self) -> io::Result<Vec<String>> {
        match self.program {
            Program::Demo => {
                let count = self.demo("LIST")?;
                (0..count).map(|_| self.line()).collect()
            }
            Program::Postgres => self.query("SELECT * FROM row"),
        }
    }

    /// The first column of what a question to a database gives.
    pub fn sql(&mut self, text: &str) -> io::Result<Vec<String>> {
        match self.program {
            Program::Demo => Err(bad("the built-in program knows no SQL")),
            Program::Postgres => self.query(text),
        }
    }

    /// Makes the table that rows go into; nothing to do where none is needed.
    pub fn prepare(&mut self) -> io::Result<()> {
        match self.program {
            Program::Demo => Ok(()),
            Program::Postgres => self.query("CREATE TABLE IF NOT EXISTS row (text text)").map(drop),
        }
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// One command of the built-in program; the number that it answers.
    fn demo(&mut self, command: &str) -> io::Result<usize> {
        self.stream.get_mut().write_all(format!("{command}\n").as_bytes())?;
        let answer = self.line()?;
        let number = answer.strip_prefix("OK ").and_then(|rest| rest.parse().ok());
        number.ok_or_else(|| bad(format!("the program answered {answer:?}")))
    }

    // The few messages of PostgreSQL's protocol, version 3, that a simple query needs.

    fn start_postgres(&mut self) -> io::Result<()> {
        const VERSION_3: i32 = 196_608;
        let mut body = VERSION_3.to_be_bytes().to_vec();
        body.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        self.send(None, &body)?;
        self.until_ready().map(drop)
    }

    fn query(&mut self, sql: &str) -> io::Result<Vec<String>> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> io::Result<()> {
        let length = i32::try_from(body.len() + 4).map_err(|_| bad("the message is too long"))?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.get_mut().write_all(&message)
    }

    /// Takes messages until the server is ready for the next query; the first column of the rows among them.
    fn until_ready(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        let mut failure = None;
        loop {
            let mut head = [0; 5];
            self.stream.read_exact(&mut head)?;
            let [kind, length @ ..] = head;
            let length = usize::try_from(i32::from_be_bytes(length)).unwrap_or(0);
            if !(4..ANSWER_SIZE_MAX).contains(&length) {
                return Err(bad("a message of impossible length"));
            }
            let mut body = vec![0; length - 4];
            self.stream.read_exact(&mut body)?;
            match kind {
                b'Z' => return failure.map_or(Ok(rows), Err),
                b'D' => rows.push(first_column(&body)?),
                b'E' => failure = Some(bad(String::from_utf8_lossy(&body).replace('\0', " "))),
                // Any way of authentication other than "none needed".
                b'R' if body.first_chunk() != Some(&[0; 4]) => {
                    return Err(bad("the server wants a password"));
                }
                _ => {}
            }
            // While starting up the server reports an error and ends without ever being ready.
            if let (b'E', Some(error)) = (kind, &failure)
                && error.to_string().contains("FATAL")
            {
                return Err(bad(error.to_string()));
            }
        }
    }
}

fn first_column(body: &[u8]) -> io::Result<String> {
    let column = body.get(2..6).and_then(|bytes| bytes.first_chunk()).map(|bytes| i32::from_be_bytes(*bytes));
    let text = column.and_then(|length| body.get(6..6 + usize::try_from(length).ok()?));
    text.map(|text| String::from_utf8_lossy(text).into_owned()).ok_or_else(|| bad("a row without its column"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_column_of_a_row_is_found_and_a_short_row_refused() {
        assert_eq!(first_column(b"\0\x01\0\0\0\x03abc").unwrap(), "abc");
        assert!(first_column(b"\0\x01\0\0\0\x09abc").is_err());
        assert!(first_column(b"\0\x01").is_err());
        assert!(first_column(b"\0\x01\xff\xff\xff\xffabc").is_err(), "null is no row of ours");
    }
}
