//! Prints human-readable tables, and JSON for programs.

use std::{
    io::{self, Write},
    os::fd::AsFd,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use redkeeper_proto::v1;

use crate::text::{Table, clean};
use table::{LIST_HEADER, answered, row};

pub(crate) use json::json;
pub(crate) use table::{agents, change, cluster, get, present};

mod json;
mod table;
mod values;

/// Prints a text as it is.
pub(crate) fn text(text: &str) -> io::Result<()> {
    print(text)
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a message on standard error. If it cannot be written, the exit code still tells.
pub(crate) fn complain(text: &str) {
    writeln!(io::stderr().lock(), "{}", clean(text)).ok();
}

/// Whether the reader of standard output, a pipe, has gone.
pub(crate) fn reader_is_gone() -> bool {
    let out = io::stdout();
    let mut ends = [PollFd::new(out.as_fd(), PollFlags::empty())];
    poll(&mut ends, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && ends[0]
            .revents()
            .is_some_and(|events| events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
}

/// Prints `list` page by page. Columns are as wide as the widest cell of the first page, and grow with later ones.
pub(crate) struct List {
    json: bool,
    table: Table,
    printed: usize,
}

impl List {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            table: Table::new(LIST_HEADER.len()),
            printed: 0,
        }
    }

    /// How many instances were printed.
    pub(crate) fn printed(&self) -> usize {
        self.printed
    }

    /// Prints a page.
    pub(crate) fn print(&mut self, instances: &[v1::Instance]) -> io::Result<()> {
        let first = self.printed == 0;
        self.printed += instances.len();
        if !self.json {
            let head = first.then(|| LIST_HEADER.map(str::to_owned).to_vec());
            self.table.add(head.into_iter().chain(instances.iter().map(row)));
            return print(&std::mem::take(&mut self.table.text));
        }
        let mut text = Vec::new();
        for (n, instance) in instances.iter().enumerate() {
            let before: &[u8] = if first && n == 0 {
                b"{\"instances\":["
            } else {
                b","
            };
            text.extend_from_slice(before);
            serde_json::to_writer(&mut text, instance)?;
        }
        io::stdout().lock().write_all(&text)
    }

    /// Prints the lines below the instances.
    pub(crate) fn end(self, total: i32, header: Option<&v1::ResponseHeader>) -> io::Result<()> {
        if !self.json {
            let answered = clean(answered(header).trim_end());
            return print(&format!("{} of {total} instance(s), {answered}\n", self.printed));
        }
        let rest = v1::ListInstancesResponse {
            header: header.cloned(),
            total_size: total,
            ..Default::default()
        };
        let rest = serde_json::to_string(&rest)?;
        print(&match (self.printed, rest.as_str()) {
            (0, rest) => format!("{rest}\n"),
            (_, "{}") => "]}\n".to_owned(),
            (_, rest) => format!("],{}\n", &rest[1..]),
        })
    }
}
