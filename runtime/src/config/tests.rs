use super::*;

#[derive(serde::Deserialize, Debug, PartialEq, Default)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    count: u32,
    nested: Nested,
    items: Vec<Item>,
}

#[derive(serde::Deserialize, Debug, PartialEq, Default)]
#[serde(default, deny_unknown_fields)]
struct Nested {
    interval: String,
}

#[derive(serde::Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct Item {
    address: String,
}

fn sources(text: &str, env: &[(&str, &str)]) -> Result<Sources, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Sources::read(Some(file.path()), Path::new("unused"), env, Dict::new())
}

#[test]
fn layers_and_numbers_from_the_environment() {
    let sources = sources(
        "name = 'file'\ncount = 1\n",
        &[("REDKEEPER_NAME", "12345"), ("REDKEEPER_NESTED__INTERVAL", "5s")],
    );
    let config: Config = sources.unwrap().extract().unwrap();
    assert_eq!(
        (
            config.name.as_str(),
            config.count,
            config.nested.interval.as_str()
        ),
        ("12345", 1, "5s")
    );
}

#[test]
fn variables_that_announce_a_service_are_ignored_and_said_and_no_others() {
    let env = [
        ("REDKEEPER_PORT", "tcp://10.0.0.1:7400"),
        ("REDKEEPER_SERVICE_HOST", "10.0.0.1"),
        ("REDKEEPER_COUNT", "3"),
    ];
    let sources = sources("", &env).unwrap();
    assert_eq!(sources.extract::<Config>().unwrap().count, 3);
    let notes = sources.notes().join("\n");
    assert!(
        notes.contains("REDKEEPER_PORT, REDKEEPER_SERVICE_HOST"),
        "{notes}"
    );

    let env = [
        ("REDKEEPER_ADMIN_PORT", "7402"),
        ("REDKEEPER_ZK_SERVICE_HOST", "zk"),
    ];
    let error = self::sources("", &env).unwrap().extract::<Config>().unwrap_err();
    assert_eq!(error.lines().len(), 2, "{error}");
    assert!(
        error
            .to_string()
            .contains("environment variable REDKEEPER_ADMIN_PORT: admin_port: unknown key")
    );
}

#[test]
fn all_mistakes_at_once_with_their_lines() {
    let text = "nam = 'x'\ncount = 'many'\n[nested]\nintervall = 1\n\n[[items]]\naddress = 'a'\n\n[[items]]\nadress = 'b'\n";
    let error = sources(text, &[("REDKEEPER_BOGUS", "1")])
        .unwrap()
        .extract::<Config>()
        .unwrap_err();
    let lines = error.lines().join("\n");
    assert!(
        lines.contains(":1:1: nam: unknown key; did you mean `name`?"),
        "{lines}"
    );
    assert!(
        lines.contains(":2:1: count: expected u32, found string"),
        "{lines}"
    );
    assert!(
        lines.contains(":4:1: nested.intervall: unknown key; did you mean `interval`?"),
        "{lines}"
    );
    assert!(
        lines.contains(":10:1: items.1.adress: unknown key; did you mean `address`?"),
        "{lines}"
    );
    assert!(
        lines.contains("environment variable REDKEEPER_BOGUS: bogus: unknown key"),
        "{lines}"
    );
    assert!(lines.contains("items.1.address: is missing"), "{lines}");
}

#[test]
fn syntax_errors_have_a_place() {
    let error = sources("a = \nb = 1\n", &[]).unwrap_err();
    assert!(error.lines()[0].contains(":1:"), "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let error = Sources::read(Some(Path::new("no/such/file")), Path::new("x"), [], Dict::new()).unwrap_err();
    assert!(error.to_string().contains("no/such/file: cannot be read"));
    assert!(Sources::read(None, Path::new("no/such/file"), [], Dict::new()).is_ok());
}
