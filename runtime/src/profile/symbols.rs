//! Functions, files and lines at the addresses of a profile.

use std::{collections::HashMap, ffi::c_void, rc::Rc};

use super::{Profile, function_name};

/// A function at an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Function {
    /// Name with crate and module.
    pub(super) name: String,
    /// Source file; empty if unknown.
    pub(super) file: String,
    /// Line in it; 0 if unknown.
    pub(super) line: u32,
}

/// The functions of all addresses of a profile. An address in inlined code has several, the innermost first.
pub(super) struct Symbols(HashMap<usize, Rc<[Function]>>);

impl Symbols {
    /// Reads the debug information of the program, which takes up to a second, and frees it afterwards.
    pub(super) fn of(profile: &Profile) -> Self {
        let mut known = HashMap::new();
        for address in profile.stacks.iter().flat_map(|stack| &stack.addresses) {
            known
                .entry(*address)
                .or_insert_with(|| functions(*address).into());
        }
        // Some ten megabytes.
        backtrace::clear_symbol_cache();
        Self(known)
    }

    /// The functions at an address of the profile.
    pub(super) fn at(&self, address: usize) -> Rc<[Function]> {
        self.0.get(&address).cloned().unwrap_or_default()
    }

    /// Names of the functions of a stack, the innermost first.
    pub(super) fn names(&self, addresses: &[usize]) -> Vec<String> {
        let names = addresses.iter().map(|address| self.at(*address));
        names
            .flat_map(|functions| functions.iter().map(|f| f.name.clone()).collect::<Vec<_>>())
            .collect()
    }
}

/// The functions at an address.
pub(super) fn functions(address: usize) -> Vec<Function> {
    let mut functions = Vec::new();
    // The library takes it for a return address, and looks at the byte before.
    let behind = std::ptr::without_provenance_mut::<c_void>(address.wrapping_add(1));
    backtrace::resolve(behind, |symbol| {
        let Some(name) = symbol.name() else { return };
        let file = symbol
            .filename()
            .and_then(|path| path.to_str())
            .unwrap_or_default();
        functions.push(Function {
            name: function_name::full(&format!("{name:#}"), Some(file)),
            file: file.to_owned(),
            line: symbol.lineno().unwrap_or(0),
        });
    });
    if functions.is_empty() {
        functions.push(Function {
            name: format!("{address:#x}"),
            file: String::new(),
            line: 0,
        });
    }
    functions
}
