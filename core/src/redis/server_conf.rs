//! Reads from a server's configuration file how to reach the server. Never an error: what is not understood is ignored.

/// The directives that are used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerConf {
    /// `port`; 0 means none. Defaults to 6379, and to 26379 for a Sentinel.
    pub port: Option<u16>,
    /// `tls-port`.
    pub tls_port: Option<u16>,
    /// `unixsocket`.
    pub unix_socket: Option<String>,
    /// `bind`.
    pub binds: Vec<String>,
    /// `include`, in order.
    pub includes: Vec<String>,
    /// `cluster-enabled yes`.
    pub cluster: bool,
    /// True if there are `sentinel` directives.
    pub sentinel: bool,
}

/// How a server can be reached from its own host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// `host:port`.
    Plain(String),
    /// `host:port`, with TLS only.
    Tls(String),
    /// A Unix socket.
    Unix(String),
}

impl ServerConf {
    /// Applies the directives of a text; later ones win, as in the server. The caller reads included files, at their
    /// position.
    pub fn read(&mut self, text: &str) {
        for line in text.lines() {
            let words = words(line);
            let Some((name, values)) = words.split_first() else {
                continue;
            };
            let first = values.first().map(String::as_str);
            match (name.to_ascii_lowercase().as_str(), first) {
                ("port", Some(value)) => self.port = value.parse().ok().or(self.port),
                ("tls-port", Some(value)) => self.tls_port = value.parse().ok().or(self.tls_port),
                ("unixsocket", Some(value)) => {
                    self.unix_socket = Some(value.to_owned()).filter(|path| path.starts_with('/'));
                }
                ("bind", _) => self.binds = values.to_vec(),
                ("include", Some(value)) => self.includes.push(value.to_owned()),
                ("cluster-enabled", Some(value)) => self.cluster = value.eq_ignore_ascii_case("yes"),
                ("sentinel", Some(_)) => self.sentinel = true,
                _ => {}
            }
        }
    }

    /// How to reach the server; `None` if it listens nowhere.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let default = if self.sentinel { 26_379 } else { 6_379 };
        // `bind ""` means that the server listens on no address.
        let nowhere = !self.binds.is_empty() && self.binds.iter().all(String::is_empty);
        let (port, tls_port) = match nowhere {
            true => (0, 0),
            false => (self.port.unwrap_or(default), self.tls_port.unwrap_or(0)),
        };
        let host = self.host();
        match (port, tls_port, &self.unix_socket) {
            (0, 0, Some(path)) => Some(Endpoint::Unix(path.clone())),
            (0, 0, None) => None,
            (0, tls, _) => Some(Endpoint::Tls(format!("{host}:{tls}"))),
            (port, _, _) => Some(Endpoint::Plain(format!("{host}:{port}"))),
        }
    }

    /// The loopback address if it is bound, otherwise the first address.
    fn host(&self) -> String {
        let plain = |bind: &String| bind.trim_start_matches('-').to_owned();
        let all = |bind: &String| matches!(bind.as_str(), "*" | "0.0.0.0" | "127.0.0.1");
        let binds = self.binds.iter().map(plain).filter(|bind| !bind.is_empty());
        let binds: Vec<_> = binds.collect();
        match binds.first() {
            None => "127.0.0.1".to_owned(),
            Some(_) if binds.iter().any(all) => "127.0.0.1".to_owned(),
            Some(bind) if bind == "::*" || bind == "::" => "[::1]".to_owned(),
            Some(bind) if bind.contains(':') => format!("[{bind}]"),
            Some(bind) => bind.clone(),
        }
    }
}

/// Words of a line: split at blanks, with single and double quotes; a backslash escapes within double quotes. A comment
/// has no words.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut chars) = (Vec::new(), line.trim().chars().peekable());
    if chars.peek() == Some(&'#') {
        return words;
    }
    while let Some(first) = chars.next() {
        if first.is_whitespace() {
            continue;
        }
        let mut word = String::new();
        if first == '"' || first == '\'' {
            while let Some(c) = chars.next() {
                match c {
                    '\\' if first == '"' => word.extend(chars.next()),
                    c if c == first => break,
                    c => word.push(c),
                }
            }
        } else {
            word.push(first);
            while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                word.push(c);
            }
        }
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn conf(text: &str) -> ServerConf {
        let mut conf = ServerConf::default();
        conf.read(text);
        conf
    }

    #[test]
    fn odd_binds_are_understood() {
        for (text, wanted) in [
            ("bind \"\"\n", None),
            (
                "bind \"\"\nunixsocket /run/r.sock\n",
                Some(Endpoint::Unix("/run/r.sock".into())),
            ),
            (
                "bind -127.0.0.1\n",
                Some(Endpoint::Plain("127.0.0.1:6379".into())),
            ),
            ("bind -::1\n", Some(Endpoint::Plain("[::1]:6379".into()))),
            ("bind -::*\n", Some(Endpoint::Plain("[::1]:6379".into()))),
            ("bind * -::*\n", Some(Endpoint::Plain("127.0.0.1:6379".into()))),
            ("bind -10.0.0.1\n", Some(Endpoint::Plain("10.0.0.1:6379".into()))),
        ] {
            let mut conf = ServerConf::default();
            conf.read(text);
            assert_eq!(conf.endpoint(), wanted, "{text}");
        }
    }

    #[test]
    fn endpoints_follow_the_directives() {
        let plain = |text: &str| Some(Endpoint::Plain(text.to_owned()));
        assert_eq!(conf("").endpoint(), plain("127.0.0.1:6379"));
        assert_eq!(
            conf("# port 1\nPORT 7000\nbind 10.0.0.1 127.0.0.1\n").endpoint(),
            plain("127.0.0.1:7000")
        );
        assert_eq!(conf("bind * -::*\nport 7001").endpoint(), plain("127.0.0.1:7001"));
        assert_eq!(
            conf("bind 10.0.0.1\nport 7000\nport 7002").endpoint(),
            plain("10.0.0.1:7002")
        );
        assert_eq!(conf("bind -::1").endpoint(), plain("[::1]:6379"));
        assert_eq!(
            conf("port 0\ntls-port 6380").endpoint(),
            Some(Endpoint::Tls("127.0.0.1:6380".into()))
        );
        let unix = conf("port 0\nunixsocket \"/run/a b.sock\"\n");
        assert_eq!(unix.endpoint(), Some(Endpoint::Unix("/run/a b.sock".into())));
        assert_eq!(conf("port 0").endpoint(), None);
        assert_eq!(
            conf("sentinel monitor m 127.0.0.1 6379 2").endpoint(),
            plain("127.0.0.1:26379")
        );
        let more = conf("include /etc/redis/common.conf\ncluster-enabled yes\n");
        assert_eq!(
            (more.includes.as_slice(), more.cluster),
            (&["/etc/redis/common.conf".to_owned()][..], true)
        );
    }

    const KNOWN: &[&str] = &[
        "port",
        "tls-port",
        "unixsocket",
        "bind",
        "include",
        "cluster-enabled",
        "sentinel",
        "requirepass",
        "#",
        "",
    ];

    proptest! {
        /// Known directives with any values, followed by any changes of single characters.
        #[test]
        fn any_text_is_harmless(
            lines in proptest::collection::vec((0..KNOWN.len(), "[ \"'\\\\#a-z0-9:*./-]{0,30}"), 0..12),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..4),
        ) {
            let text: String = lines.iter().map(|(n, value)| format!("{} {value}\n", KNOWN[*n])).collect();
            let mut text: Vec<char> = text.chars().collect();
            for (at, c) in changes {
                if !text.is_empty() {
                    let at = at.index(text.len());
                    text[at] = c;
                }
            }
            let found = conf(&text.into_iter().collect::<String>()).endpoint();
            if let Some(Endpoint::Plain(address) | Endpoint::Tls(address)) = found {
                let (host, port) = address.rsplit_once(':').unwrap();
                prop_assert!(!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0), "{}", address);
            }
        }
    }
}
