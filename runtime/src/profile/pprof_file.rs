//! A profile as a file for `go tool pprof`: a gzipped message of the format `profile.proto` of github.com/google/pprof.
//!
//! The crate pprof_util writes it too, but gives each function the same name twice. `go tool pprof` then takes it for a
//! name of C++ and removes what stands between `<` and `>`, which is all of `<A as B>::f` but `::f`.

use std::{
    collections::HashMap,
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::{
    Profile, Unit,
    symbols::{Function, Symbols},
};

#[derive(Message)]
struct ProfileMessage {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<FunctionMessage>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
}

#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Message)]
struct FunctionMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// The profile for `go tool pprof`, with the names of functions.
pub fn pprof_file(profile: &Profile) -> Vec<u8> {
    let symbols = Symbols::of(profile);
    let message = message(profile, &symbols).encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    // Writing to memory does not fail.
    drop(gzip.write_all(&message));
    gzip.finish().unwrap_or_default()
}

fn message(profile: &Profile, symbols: &Symbols) -> ProfileMessage {
    let mut tables = Tables::default();
    let kind = match profile.unit {
        Unit::InUse => "inuse_space",
        Unit::Allocated => "alloc_space",
        Unit::Cpu => "cpu",
    };
    let unit = tables.string(profile.unit.name());
    let sample_type = ValueType {
        kind: tables.string(kind),
        unit,
    };
    let period = if profile.unit == Unit::Cpu { "cpu" } else { "space" };
    let period_type = ValueType {
        kind: tables.string(period),
        unit,
    };
    let program = std::env::current_exe().unwrap_or_default();
    let mapping = Mapping {
        id: 1,
        memory_limit: u64::MAX,
        filename: tables.string(&program.to_string_lossy()),
        has_functions: true,
        has_filenames: true,
        has_line_numbers: true,
        has_inline_frames: true,
    };
    let sample = profile.stacks.iter().map(|stack| Sample {
        location_id: stack
            .addresses
            .iter()
            .map(|at| tables.location(*at, symbols))
            .collect(),
        value: vec![stack.weight as i64],
    });
    let sample = sample.collect();
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    ProfileMessage {
        sample_type: vec![sample_type],
        sample,
        mapping: vec![mapping],
        location: tables.locations,
        function: tables.functions,
        string_table: tables.strings,
        time_nanos: i64::try_from(since_1970.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(period_type),
    }
}

/// What samples refer to by number. Numbers of locations and functions begin at 1, those of strings at 0, which is empty.
struct Tables {
    strings: Vec<String>,
    known_strings: HashMap<String, i64>,
    functions: Vec<FunctionMessage>,
    known_functions: HashMap<(String, String), u64>,
    locations: Vec<Location>,
    known_locations: HashMap<usize, u64>,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            strings: vec![String::new()],
            known_strings: [(String::new(), 0)].into(),
            functions: Vec::new(),
            known_functions: HashMap::new(),
            locations: Vec::new(),
            known_locations: HashMap::new(),
        }
    }
}

impl Tables {
    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.known_strings.get(text) {
            return *known;
        }
        let index = i64::try_from(self.strings.len()).unwrap_or(0);
        self.strings.push(text.to_owned());
        self.known_strings.insert(text.to_owned(), index);
        index
    }

    fn function(&mut self, function: &Function) -> u64 {
        let key = (function.name.clone(), function.file.clone());
        if let Some(known) = self.known_functions.get(&key) {
            return *known;
        }
        let id = self.functions.len() as u64 + 1;
        let (name, filename) = (self.string(&function.name), self.string(&function.file));
        // No `system_name`, so that nothing is removed from the name.
        self.functions.push(FunctionMessage { id, name, filename });
        self.known_functions.insert(key, id);
        id
    }

    fn location(&mut self, address: usize, symbols: &Symbols) -> u64 {
        if let Some(known) = self.known_locations.get(&address) {
            return *known;
        }
        let lines = symbols.at(address);
        let line = lines.iter().map(|function| Line {
            function_id: self.function(function),
            line: function.line.into(),
        });
        let line = line.collect();
        let id = self.locations.len() as u64 + 1;
        self.locations.push(Location {
            id,
            mapping_id: 1,
            address: address as u64,
            line,
        });
        self.known_locations.insert(address, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stack;
    use super::*;

    #[test]
    fn each_location_and_function_stands_once() {
        let here = the_function_under_test as fn() as usize;
        let stack = |weight| Stack {
            addresses: vec![here, here],
            weight,
        };
        let profile = Profile {
            unit: Unit::InUse,
            stacks: vec![stack(1.0), stack(2.9)],
        };
        let message = message(&profile, &Symbols::of(&profile));
        assert_eq!(message.location.len(), 1);
        assert_eq!(message.sample[0].location_id, [1, 1]);
        assert_eq!(message.sample[1].value, [2]);
        let name = |index: i64| &message.string_table[usize::try_from(index).unwrap()];
        let names: Vec<_> = message
            .function
            .iter()
            .map(|function| name(function.name))
            .collect();
        assert!(
            names.iter().any(|name| name.ends_with("the_function_under_test")),
            "{names:?}"
        );
        assert_eq!(name(message.sample_type[0].kind), "inuse_space");
        assert_eq!(message.string_table[0], "");
        assert!(pprof_file(&profile).starts_with(&[0x1f, 0x8b]), "gzip");
    }

    fn the_function_under_test() {
        std::hint::black_box(1);
    }
}
