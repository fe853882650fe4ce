//! Decides which connections a listener admits, by counts only; it handles no sockets.

use std::{collections::BTreeMap, net::IpAddr};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors reserved for other purposes than connections: listeners, ZooKeeper's session, epoll, log, files read at
/// a reload, and what libraries open. An idle collector holds 24.
pub const DESCRIPTORS_RESERVED: usize = 32;
/// Connections to the admin port: one operator and one scraper use two.
const ADMIN_MAX: usize = 64;
/// Connections to the public HTTP port: checks of proxies, scrapers, open pages.
const HTTP_MAX: usize = 1_024;
/// Connections to the gRPC port: one of each of 20,000 agents (`core::limits::AGENTS_MAX`), and 4,096 tools.
const GRPC_MAX: usize = 24_096;
/// Minimum number of connections of each port, however few descriptors there are.
const SHARE_MIN: usize = 8;

/// Maximum numbers of connections of one listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In total.
    pub total: usize,
    /// From one IP address.
    pub per_address: usize,
}

impl Limits {
    /// Limits of `total` connections, half of which one address may hold: many agents may share the address of a NAT,
    /// but no single address can lock out all others.
    fn halved(total: usize) -> Self {
        Self {
            total,
            per_address: total.div_ceil(2),
        }
    }
}

/// The limits of all listeners of a process, which together fit below its limit of descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shares {
    /// Admin HTTP, loopback.
    pub admin: Limits,
    /// Public HTTP.
    pub http: Limits,
    /// gRPC.
    pub grpc: Limits,
}

impl Shares {
    /// Computes the shares of a process that may open `descriptors` files. Below 56 they exceed the descriptors; then
    /// only the listeners' reserve and their pauses protect the process.
    pub fn of(descriptors: u64) -> Self {
        let all = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let free = all.saturating_sub(DESCRIPTORS_RESERVED);
        let admin = (free / 8).clamp(SHARE_MIN, ADMIN_MAX);
        let http = (free / 8).clamp(SHARE_MIN, HTTP_MAX);
        let grpc = free.saturating_sub(admin + http).clamp(SHARE_MIN, GRPC_MAX);
        Self {
            // Operators always connect from the same address.
            admin: Limits {
                total: admin,
                per_address: admin,
            },
            http: Limits::halved(http),
            grpc: Limits::halved(grpc),
        }
    }

    /// Computes the shares of this process. If the kernel does not report its limit, the usual 1,024 is assumed.
    pub fn of_this_process() -> Self {
        Self::of(getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft))
    }
}

/// Why a new connection is closed at once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// The listener has reached its total limit.
    Total,
    /// The client's address has reached its limit.
    Address,
}

impl Refusal {
    /// Label of the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
        }
    }
}

/// Open connections of one listener, by address. Its size is bounded by the limits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    limits: Limits,
    open: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Admission {
    /// Creates an admission without connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            open: 0,
            by_address: BTreeMap::new(),
        }
    }

    /// Number of open connections.
    pub fn open(&self) -> usize {
        self.open
    }

    /// Counts a new connection. Each one that is admitted must be [`closed`](Self::closed) once.
    ///
    /// # Errors
    /// When there are too many already; nothing is counted then.
    pub fn admit(&mut self, address: IpAddr) -> Result<(), Refusal> {
        if self.open >= self.limits.total {
            return Err(Refusal::Total);
        }
        let of_address = self.by_address.entry(address.to_canonical()).or_insert(0);
        if *of_address >= self.limits.per_address {
            return Err(Refusal::Address);
        }
        *of_address += 1;
        self.open += 1;
        Ok(())
    }

    /// Records that an admitted connection has ended.
    pub fn closed(&mut self, address: IpAddr) {
        let address = address.to_canonical();
        let Some(of_address) = self.by_address.get_mut(&address) else {
            return;
        };
        self.open = self.open.saturating_sub(1);
        *of_address = of_address.saturating_sub(1);
        if *of_address == 0 {
            self.by_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, n])
    }

    #[test]
    fn one_address_cannot_take_all() {
        let mut admission = Admission::new(Limits {
            total: 3,
            per_address: 2,
        });
        assert_eq!(admission.admit(address(1)), Ok(()));
        assert_eq!(admission.admit(address(1)), Ok(()));
        assert_eq!(admission.admit(address(1)), Err(Refusal::Address));
        // The same address, mapped into IPv6.
        let mapped = "::ffff:127.0.0.1".parse().unwrap();
        assert_eq!(admission.admit(mapped), Err(Refusal::Address));
        assert_eq!(admission.admit(address(2)), Ok(()));
        assert_eq!(admission.admit(address(3)), Err(Refusal::Total));
        admission.closed(mapped);
        assert_eq!(admission.admit(address(3)), Ok(()));
    }

    #[test]
    fn the_shares_fit_into_what_there_is() {
        for descriptors in 56..40_000 {
            let shares = Shares::of(descriptors);
            let sum = shares.admin.total + shares.http.total + shares.grpc.total;
            assert!(
                sum + DESCRIPTORS_RESERVED <= usize::try_from(descriptors).unwrap(),
                "{descriptors}"
            );
            for limits in [shares.admin, shares.http, shares.grpc] {
                assert!(
                    limits.total >= SHARE_MIN && limits.per_address >= SHARE_MIN / 2,
                    "{descriptors}"
                );
            }
        }
        assert_eq!(Shares::of(u64::MAX).grpc.total, GRPC_MAX);
        assert_eq!(Shares::of(0).grpc.total, SHARE_MIN);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_list(steps in proptest::collection::vec((any::<bool>(), 0..5u8), 0..200)) {
            let limits = Limits { total: 7, per_address: 3 };
            let mut admission = Admission::new(limits);
            let mut open: Vec<u8> = Vec::new();
            for (opens, n) in steps {
                let of_address = open.iter().filter(|other| **other == n).count();
                if opens {
                    let fits = open.len() < limits.total && of_address < limits.per_address;
                    prop_assert_eq!(admission.admit(address(n)).is_ok(), fits);
                    if fits { open.push(n); }
                } else if let Some(at) = open.iter().position(|other| *other == n) {
                    open.remove(at);
                    admission.closed(address(n));
                } else {
                    admission.closed(address(n));
                }
                prop_assert_eq!(admission.open(), open.len());
            }
        }
    }
}
