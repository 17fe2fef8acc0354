//! What is printed, where, and how it ends.

use anshin_base::Problem;
use anshin_node::view::Level;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::{
    env,
    io::{self, IsTerminal, Write},
    ops::ControlFlow,
};

/// Width of what is not printed on a terminal.
const WIDTH: u16 = 80;
/// Longer lines are hard to read.
const WIDTH_MAX: u16 = 120;
/// Narrower than this, tables cannot be read.
const WIDTH_MIN: u16 = 40;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As asked.
    Ok,
    /// As asked, but not all is well.
    Degraded,
    /// It failed.
    Error,
    /// It was refused because data could be lost.
    Refused,
}

/// How texts are set.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Columns.
    pub width: u16,
    /// Whether colours may be used.
    pub color: bool,
}

/// Where a command prints.
pub struct Out {
    json: bool,
    style: Style,
}

impl Out {
    pub fn new(json: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let width = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_col);
        let width = if terminal && width > 0 { width.clamp(WIDTH_MIN, WIDTH_MAX) } else { WIDTH };
        let plain = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { json, style: Style { width, color: terminal && !plain } }
    }

    /// Prints `value` as JSON if that was asked for, else the text.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(Style) -> String) -> Result<(), Problem> {
        let printed = match self.json {
            true => serde_json::to_string_pretty(value)
                .map_err(|error| Problem::new("output", format!("the answer cannot be printed: {error}")))?,
            false => text(self.style),
        };
        print(&printed)
    }

    /// Whether JSON was asked for.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// For lists of any length: each item is printed as it comes, as a line of JSON or of text.
    pub fn stream(&self) -> Stream {
        Stream { json: self.json, output: io::BufWriter::new(io::stdout()), failed: None }
    }

    /// The same for a value that is shown again and again: one line of JSON, or a fresh screen.
    pub fn refresh<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(Style) -> String,
    ) -> Result<(), Problem> {
        let printed = match self.json {
            true => serde_json::to_string(value)
                .map_err(|error| Problem::new("output", format!("the answer cannot be printed: {error}")))?,
            false if io::stdout().is_terminal() => format!("\x1b[H\x1b[2J{}", text(self.style)),
            false => text(self.style) + "\n",
        };
        print(&printed)
    }

    /// Prints what went wrong, and says how the command ended.
    pub fn problem(&self, problem: &Problem) -> Ending {
        let text = match self.json {
            true => serde_json::to_string_pretty(problem).unwrap_or_else(|_| problem.to_string()),
            false => format!("error: {problem}"),
        };
        // Nothing is left to tell it to if even this cannot be written.
        let _ = writeln!(io::stderr(), "{text}");
        if problem.refused_for_safety { Ending::Refused } else { Ending::Error }
    }
}

/// Prints items one by one.
pub struct Stream {
    json: bool,
    output: io::BufWriter<io::Stdout>,
    failed: Option<io::Error>,
}

impl Stream {
    /// Prints one item. Breaks once nothing can be printed any more.
    pub fn item<T: Serialize>(&mut self, item: &T, text: impl FnOnce() -> String) -> ControlFlow<()> {
        let line = match self.json {
            true => serde_json::to_string(item).map_err(io::Error::from),
            false => Ok(text()),
        };
        match line.and_then(|line| writeln!(self.output, "{line}")) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Prints what is left.
    pub fn end(mut self) -> Result<(), Problem> {
        let ended = match self.failed.take() {
            Some(error) => Err(error),
            None => self.output.flush(),
        };
        settled(ended)
    }
}

/// A reader that has seen enough, as in `anshin status | head -1`, is no failure.
fn settled(written: io::Result<()>) -> Result<(), Problem> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => {
            other.map_err(|error| Problem::new("output", format!("the output cannot be written: {error}")))
        }
    }
}

fn print(text: &str) -> Result<(), Problem> {
    settled(writeln!(io::stdout(), "{}", text.trim_end()).and_then(|()| io::stdout().flush()))
}

impl Style {
    /// The sign and word of a level, each of another shape, in colour where that may be.
    pub fn level(self, level: Level) -> String {
        let (sign, color) = match level {
            Level::Green => ("✓", "32"),
            Level::Amber => ("!", "33"),
            Level::Unknown => ("?", "1"),
            Level::Red => ("✕", "31"),
        };
        let text = format!("{sign} {}", level.word());
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text }
    }

    /// A table without lines.
    pub fn table(self, head: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(self.width);
        table.set_header(head).add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.trim_fmt()
    }

    /// `text` broken at spaces; further lines begin with `indent` spaces.
    pub fn wrap(self, text: &str, indent: usize) -> String {
        let mut lines = vec![String::new()];
        for word in text.split(' ') {
            let line = lines.last_mut().expect("invariant: there is always a line");
            let used = line.chars().count();
            if used > indent && used + 1 + word.chars().count() > usize::from(self.width) {
                lines.push(format!("{}{word}", " ".repeat(indent)));
            } else {
                if used > 0 {
                    line.push(' ');
                }
                line.push_str(word);
            }
        }
        lines.join("\n")
    }
}
