//! Environment variables that Kubernetes sets in every pod for each Service of the namespace. Those of a Service whose
//! name begins with `redkeeper` have the prefix of configuration variables and are ignored; all others with the prefix
//! are keys or mistakes.

/// The variables that announce Services, and the names of these Services as spelled in variables.
pub(super) struct ServiceLinks {
    prefixes: Vec<String>,
}

impl ServiceLinks {
    /// Finds the Services. Each is announced by `NAME_PORT=tcp://ADDRESS:PORT`, whatever else is set for it.
    pub(super) fn find<'a>(env: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let announced = |(key, value): (&str, &str)| {
            let prefix = key.strip_suffix("_PORT")?;
            let protocol = value.split_once("://")?.0;
            ["tcp", "udp", "sctp"]
                .contains(&protocol)
                .then(|| prefix.to_owned())
        };
        let found = env.into_iter().filter_map(announced);
        // `X_PORT_7400_TCP_PORT` has no such value, and `X_PORT_7400_TCP` has no such ending, so every match is a
        // Service.
        Self {
            prefixes: found.collect(),
        }
    }

    /// Whether Kubernetes sets this variable for one of the Services.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.prefixes.iter().any(|prefix| {
            let Some(rest) = key.strip_prefix(prefix.as_str()) else {
                return false;
            };
            matches!(rest, "_PORT" | "_SERVICE_HOST" | "_SERVICE_PORT")
                || rest.starts_with("_SERVICE_PORT_")
                || rest.strip_prefix("_PORT_").is_some_and(is_port)
        })
    }
}

/// Matches `7400_TCP`, `7400_TCP_ADDR` and similar.
fn is_port(rest: &str) -> bool {
    let mut parts = rest.split('_');
    let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
    let protocol = parts
        .next()
        .is_some_and(|part| ["TCP", "UDP", "SCTP"].contains(&part));
    let detail = parts
        .next()
        .is_none_or(|part| ["PROTO", "PORT", "ADDR"].contains(&part));
    number && protocol && detail && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kubernetes_sets_is_ignored() {
        let links = ServiceLinks::find([
            ("REDKEEPER_COLLECTOR_PORT", "tcp://10.0.0.1:7400"),
            ("REDKEEPER_OTHER_PORT", "7400"),
        ]);
        for ignored in [
            "REDKEEPER_COLLECTOR_PORT",
            "REDKEEPER_COLLECTOR_SERVICE_HOST",
            "REDKEEPER_COLLECTOR_SERVICE_PORT",
            "REDKEEPER_COLLECTOR_SERVICE_PORT_GRPC",
            "REDKEEPER_COLLECTOR_PORT_7400_TCP",
            "REDKEEPER_COLLECTOR_PORT_7400_TCP_ADDR",
            "REDKEEPER_COLLECTOR_PORT_7400_TCP_PROTO",
        ] {
            assert!(links.contains(ignored), "{ignored}");
        }
        for ours in [
            "REDKEEPER_OTHER_PORT",
            "REDKEEPER_ADMIN_PORT",
            "REDKEEPER_GRPC_SERVICE_HOST",
            "REDKEEPER_COLLECTOR_PORT_ME",
            "REDKEEPER_COLLECTOR_PORT_7400_TCP_ADDR_X",
            "REDKEEPER_COLLECTOR_SERVICE",
        ] {
            assert!(!links.contains(ours), "{ours}");
        }
    }
}
