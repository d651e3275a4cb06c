//! Golden complaints: each file in `tests/config/wrong` is refused in exactly the words of its `.expected`; each in
//! `tests/config/right` passes. `RINGWAY_BLESS=1 cargo test --test config` writes the expected words anew; read the
//! difference before it is committed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use ringway::config::ledger::Registry;
use ringway::config::ledger::Standing;
use ringway::config::overlay::{Newcomer, Overlay, Setting, Sheet, lay};
use ringway::config::plan::{Kind, Policy};
use ringway::config::{Complaints, Draft, diff, parse};
use ringway::proxy_protocol::Version;

/// The environment of every test.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "HOST" => "127.0.0.1",
        "PORT" => "8080",
        "BAD_PORT" => "99999",
        _ => return None,
    };
    Some(value.to_owned())
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().expect("a file").to_string_lossy().into_owned()
}

fn right(path: &Path) -> Draft {
    parse(&file_name(path), &read(path), &environment).unwrap_or_else(|complaints| panic!("{complaints}"))
}

#[test]
fn wrong_files_are_refused_in_the_expected_words() {
    let bless = std::env::var_os("RINGWAY_BLESS").is_some();
    let (wrong, mut failures) = (files("tests/config/wrong", "toml"), Vec::new());
    assert!(wrong.len() >= 45, "{} wrong files", wrong.len());
    let mut seen = BTreeSet::new();
    for path in &wrong {
        let name = file_name(path);
        let Err(complaints) = parse(&name, &read(path), &environment) else {
            failures.push(format!("{name}: no complaint"));
            continue;
        };
        let found = complaints.to_string();
        if !seen.insert(found.replace(&name, "")) {
            failures.push(format!("{name}: says the same as another file"));
        }
        assert_eq!(complaints.lines().count(), complaints.len());
        let expected = path.with_extension("expected");
        if bless {
            fs::write(&expected, &found).expect("a writable folder");
        } else if !expected.exists() {
            failures.push(format!("{name}: no expected output; run with RINGWAY_BLESS=1"));
        } else if read(&expected) != found {
            failures.push(format!("{name}: expected\n{}found\n{found}", read(&expected)));
        }
    }
    for expected in files("tests/config/wrong", "expected") {
        if !expected.with_extension("toml").exists() {
            failures.push(format!("{} belongs to no file", file_name(&expected)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What lies over the base of the tests of overlays.
fn overlaid(name: &str, overlay: &str) -> Result<Draft, Complaints> {
    let base = read(Path::new("tests/config/overlay.base.toml"));
    let file = parse("base.toml", &base, &environment).expect("it is right");
    lay(file, Sheet { name: "base.toml", text: &base }, Sheet { name, text: overlay }, &environment)
}

#[test]
fn wrong_overlays_are_refused_in_the_expected_words() {
    let bless = std::env::var_os("RINGWAY_BLESS").is_some();
    let (wrong, mut failures) = (files("tests/config/overlay", "toml"), Vec::new());
    assert!(wrong.len() >= 9, "{} wrong overlays", wrong.len());
    for path in &wrong {
        let name = file_name(path);
        let found = overlaid(&name, &read(path)).expect_err(&name).to_string();
        let expected = path.with_extension("expected");
        if bless {
            fs::write(&expected, &found).expect("a writable folder");
        } else if read(&expected) != found {
            failures.push(format!("{name}: expected\n{}found\n{found}", read(&expected)));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn newcomer<'n>(name: &'n str, address: &'n str) -> Newcomer<'n> {
    Newcomer { pool: "web", name, address, weight: 1, max_connections: 0, backup: false }
}

/// The file, and what lies over it.
struct Layers {
    text: String,
    overlay: Overlay,
}

impl Layers {
    fn new() -> Self {
        Self { text: read(Path::new("tests/config/overlay.base.toml")), overlay: Overlay::default() }
    }

    fn file(&self) -> Draft {
        parse("base.toml", &self.text, &environment).expect("it is right")
    }

    fn add(&mut self, name: &str, address: &str, persist: bool) -> Result<(), String> {
        let file = self.file();
        self.overlay.add(&file, &newcomer(name, address), persist, &environment)
    }

    fn remove(&mut self, name: &str, persist: bool) -> Result<(), String> {
        let file = self.file();
        self.overlay.remove(&file, ("web", name), persist, &environment)
    }

    fn set(&mut self, name: &str, setting: Setting) -> Result<(), String> {
        let file = self.file();
        self.overlay.set(&file, ("web", name), setting, &environment)
    }

    /// State, weight and limit of a server of pool web after a restart.
    fn stands(&self, name: &str) -> (Standing, u16, u32) {
        let (sheet, kept) = (Sheet { name: "f", text: &self.text }, Sheet { name: "o", text: &self.overlay.kept });
        let draft = lay(self.file(), sheet, kept, &environment).unwrap_or_else(|complaints| panic!("{complaints}"));
        let plan = draft.compile(&mut Registry::new(1), None);
        let pool = plan.pools.iter().find(|pool| &*pool.name == "web").expect("it is there");
        let server = pool.servers.iter().find(|server| &*server.name == name).expect("it is there");
        (server.standing, server.weight, server.max_connections)
    }

    /// Servers of pool web: in force, and after a restart.
    fn servers(&mut self) -> [String; 2] {
        let base = |kept: &str| {
            let (sheet, kept) = (Sheet { name: "f", text: &self.text }, Sheet { name: "o", text: kept });
            lay(self.file(), sheet, kept, &environment).unwrap_or_else(|complaints| panic!("{complaints}"))
        };
        let after = base(&self.overlay.kept);
        let now = self.overlay.pass_over(after.clone());
        [now, after].map(|draft| {
            let plan = draft.compile(&mut Registry::new(1), None);
            let pool = plan.pools.iter().find(|pool| &*pool.name == "web").expect("it is there");
            let mut names: Vec<&str> = pool.servers.iter().map(|server| &*server.name).collect();
            names.sort_unstable();
            names.join(" ")
        })
    }
}

#[test]
fn servers_come_and_go_for_now_or_for_good() {
    let mut layers = Layers::new();
    layers.add("c", "10.0.0.5:80", false).expect("right");
    assert_eq!(layers.servers(), ["a b c", "a b"]);
    layers.add("d", "10.0.0.6:80", true).expect("right");
    assert_eq!(layers.servers(), ["a b c d", "a b d"]);
    layers.remove("a", false).expect("right");
    assert_eq!(layers.servers(), ["b c d", "a b d"]);
    layers.remove("b", true).expect("right");
    assert_eq!(layers.servers(), ["c d", "a d"]);
    // What was added goes as it came, and what was removed comes back.
    layers.remove("c", false).expect("right");
    layers.add("a", "10.0.0.1:80", false).expect("right");
    layers.add("b", "10.0.0.2:80", true).expect("right");
    layers.remove("d", true).expect("right");
    assert_eq!(layers.servers(), ["a b", "a b"]);
    assert!(layers.overlay.passing_text().is_empty() && !layers.overlay.kept.contains("[["), "{:?}", layers.overlay);
    // For now, and then for good.
    layers.remove("a", false).expect("right");
    layers.add("a", "10.0.0.7:80", true).expect("another one");
    assert_eq!(layers.servers(), ["a b", "a b"]);
    assert!(layers.overlay.kept.contains("address = \"10.0.0.1:80\""), "{}", layers.overlay.kept);
    assert!(layers.overlay.kept.contains("address = \"10.0.0.7:80\""), "{}", layers.overlay.kept);
    let told = Overlay::default().with_passing(&layers.overlay.kept, &environment);
    assert_eq!(told.passing_text(), layers.overlay.kept, "what is told is understood");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut layers = Layers::new();
    layers.add("c", "10.0.0.5:80", false).expect("right");
    let before = layers.servers();
    for (name, address, part) in [
        ("a", "10.0.0.6:80", "has a server \"a\" already, at 10.0.0.1:80"),
        ("c", "10.0.0.6:80", "has a server \"c\" already"),
        ("d", "10.0.0.2:80", "has a server at 10.0.0.2:80 already: \"b\""),
        ("d", "10.0.0.6", "10.0.0.6"),
        ("d", "0.0.0.0:80", "no address of a server"),
        ("d/e", "10.0.0.6:80", "d/e"),
    ] {
        for persist in [false, true] {
            let error = layers.add(name, address, persist).expect_err(name);
            assert!(error.contains(part), "{error}");
        }
    }
    let error = layers.remove("z", false).expect_err("there is none");
    assert!(error.contains("no server \"z\""), "{error}");
    assert_eq!(layers.servers(), before);
    // After a restart nobody would be there.
    layers.remove("a", true).expect("b is left");
    let error = layers.remove("b", true).expect_err("the last of the file");
    assert!(error.contains("has no servers"), "{error}");
    layers.remove("b", false).expect("c is left for now");
    assert_eq!(layers.servers(), ["c", "b"]);
    let error = layers.remove("c", false).expect_err("the last");
    assert!(error.contains("has no servers"), "{error}");
}

#[test]
fn a_pool_that_is_full_gets_no_server_more() {
    let server = |n: usize| format!("{{ name = \"s{n}\", address = \"10.1.{}.{}:80\" }}", n / 250, n % 250 + 1);
    let servers: Vec<String> = (0..10_000).map(server).collect();
    let mut layers = Layers::new();
    layers.text = layers.text.replace("{ name = \"a\", address = \"10.0.0.1:80\" },", &(servers[2..].join(", ") + ","));
    layers.add("one", "10.0.0.5:80", false).expect("it is the last that fits");
    for persist in [false, true] {
        let error = layers.add("more", "10.0.0.6:80", persist).expect_err("there are ten thousand");
        assert!(error.contains("more than 10000 servers"), "{error}");
    }
}

#[test]
fn what_is_for_now_gives_way_to_a_file_that_has_changed() {
    let mut layers = Layers::new();
    layers.add("c", "10.0.0.5:80", false).expect("right");
    layers.add("d", "10.0.0.6:80", false).expect("right");
    layers.remove("a", false).expect("right");
    layers.text.push_str("\n# the same\n");
    assert_eq!(layers.servers()[0], "b c d");
    let base = layers.text.clone();
    layers.text = base.replace("{ name = \"b\",", "{ name = \"c\", address = \"10.0.0.8:80\" }, { name = \"b\",");
    assert_eq!(layers.servers()[0], "b c d", "the file has a c of its own");
    layers.text = base.replace("10.0.0.1:80", "10.0.0.9:80");
    assert_eq!(layers.servers()[0], "a b d", "the a that was removed is not this one");
    layers.text = base.replace("{ name = \"a\", address = \"10.0.0.1:80\" },\n", "");
    layers.remove("b", false).expect("d is left");
    // The file drops what would have been left of the pool.
    layers.text = layers.text.replace("pools.web", "pools.new").replace("pool = \"web\"", "pool = \"new\"");
    let (sheet, none) = (Sheet { name: "f", text: &layers.text }, Sheet { name: "o", text: "" });
    let base = lay(layers.file(), sheet, none, &environment).expect("right");
    layers.overlay.pass_over(base);
    assert!(layers.overlay.passing_text().is_empty());
}

#[test]
fn what_comes_from_an_overlay_is_marked() {
    let mut layers = Layers::new();
    layers.add("c", "10.0.0.5:80", true).expect("right");
    layers.remove("a", true).expect("right");
    let draft = overlaid("o.toml", &layers.overlay.kept).unwrap_or_else(|complaints| panic!("{complaints}"));
    let printed = draft.print();
    let added = "{ name = \"c\", address = \"10.0.0.5:80\", weight = 1, backup = false }, # added by the overlay\n";
    assert!(printed.contains(added), "{printed}");
    assert!(printed.contains("# { name = \"a\", address = \"10.0.0.1:80\" }: removed by the overlay\n"), "{printed}");
    assert_eq!(draft.overlaid().as_deref(), Some("1 added, 1 removed"));
    assert_eq!(parse("printed", &printed, &environment).expect("right").overlaid(), None);
}

#[test]
fn what_is_set_for_good_takes_the_place_of_what_the_file_says() {
    let drain = Setting { standing: Some(Standing::Drain), ..Setting::default() };
    let weight = |weight| Setting { weight: Some(weight), ..Setting::default() };
    let most = |most| Setting { max_connections: Some(most), ..Setting::default() };
    let mut layers = Layers::new();
    layers.set("a", drain).expect("right");
    layers.set("a", weight(5)).expect("right");
    layers.set("b", most(9)).expect("right");
    assert_eq!(layers.stands("a"), (Standing::Drain, 5, 0), "one thing after the other");
    assert_eq!(layers.stands("b"), (Standing::Ready, 1, 9));
    let draft = overlaid("o.toml", &layers.overlay.kept).unwrap_or_else(|complaints| panic!("{complaints}"));
    assert_eq!(draft.overlaid().as_deref(), Some("0 added, 0 removed, 2 set"));
    let printed = draft.print();
    assert!(printed.contains("# set by the overlay: state drain, weight (without it 1)\n"), "{printed}");
    assert!(printed.contains("# set by the overlay: max_connections (without it none)\n"), "{printed}");
    // The file changes, and what is kept holds until it is set back.
    layers.text = layers.text.replace("address = \"10.0.0.1:80\"", "address = \"10.0.0.1:80\", weight = 3");
    assert_eq!(layers.stands("a"), (Standing::Drain, 5, 0));
    layers.set("a", weight(3)).expect("what the file says");
    layers.set("a", Setting { standing: Some(Standing::Ready), ..Setting::default() }).expect("right");
    layers.set("b", most(0)).expect("what the file says");
    assert_eq!(layers.stands("a"), (Standing::Ready, 3, 0));
    assert!(!layers.overlay.kept.contains("[["), "nothing is left: {}", layers.overlay.kept);

    // A server that was added for good is set as any other, and what was set of it goes with it.
    layers.add("c", "10.0.0.5:80", true).expect("right");
    layers.set("c", Setting { standing: Some(Standing::Maint), ..weight(7) }).expect("right");
    assert_eq!(layers.stands("c"), (Standing::Maint, 7, 0));
    assert!(layers.overlay.kept.contains("state = \"maint\""), "{}", layers.overlay.kept);
    layers.remove("c", true).expect("right");
    layers.add("c", "10.0.0.5:80", true).expect("right");
    assert_eq!(layers.stands("c"), (Standing::Ready, 1, 0));

    let before = layers.overlay.kept.clone();
    layers.add("d", "10.0.0.6:80", false).expect("right");
    for (name, setting, part) in [
        ("a", weight(257), "not from 0 to 256"),
        ("a", most(10_000_001), "above 10000000"),
        ("d", drain, "only for now"),
        ("z", drain, "no server \"z\""),
    ] {
        let error = layers.set(name, setting).expect_err(name);
        assert!(error.contains(part), "{error}");
    }
    for name in ["a", "b"] {
        layers.set(name, weight(0)).expect("others are left");
    }
    let error = layers.set("c", weight(0)).expect_err("d is there only for now");
    assert!(error.contains("weight"), "{error}");
    layers.set("a", weight(3)).and_then(|()| layers.set("b", weight(1))).expect("right");
    assert_eq!(layers.overlay.kept, before);
}

#[test]
fn right_files_pass_and_print_back() {
    let shipped = files("config", "toml");
    assert_eq!(shipped.len(), 3);
    for path in files("tests/config/right", "toml").iter().chain(&shipped) {
        let draft = right(path);
        let printed = draft.print();
        let again = parse("printed", &printed, &environment).unwrap_or_else(|complaints| panic!("{complaints}"));
        assert_eq!(again.print(), printed);
        let mut registry = Registry::new(1);
        let first = draft.compile(&mut registry, None);
        let second = again.compile(&mut registry, Some(&first));
        assert!(diff::diff(&first, &second).is_empty(), "{}", path.display());
    }
}

/// The reference states the default of each key by giving it, except where there is none to give.
#[test]
fn the_reference_tells_the_defaults() {
    let reference = right(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/reference.toml"));
    let bare = "[listeners.web]\nbind = \"127.0.0.1:80\"\npool = \"web\"\n[pools.web]\nservers = [{ name = \"a\", address = \"10.0.0.1:80\" }]\n";
    let bare = parse("bare", bare, &environment).expect("it is right");
    assert_eq!(reference.log(), bare.log());
    assert_eq!(reference.admin().socket, bare.admin().socket);
    assert_eq!(reference.global().workers, bare.global().workers);
    assert_eq!(reference.global().engine, bare.global().engine);
    assert_eq!(reference.global().drain_ms, bare.global().drain_ms);
    let mut registry = Registry::new(1);
    let [reference, bare] = [reference, bare].map(|draft| draft.compile(&mut registry, None));
    assert_eq!(reference.pools[0].terms, bare.pools[0].terms);
    assert_eq!(reference.pools[0].care, bare.pools[0].care);
}

#[test]
fn a_pool_for_databases_has_other_defaults() {
    let draft = right(Path::new("tests/config/right/mysql.toml"));
    let plan = draft.compile(&mut Registry::new(1), None);
    let [db, other] = &plan.pools[..] else { panic!("{} pools", plan.pools.len()) };
    assert_eq!((db.policy, db.terms.idle_ms), (Policy::LeastConnections, 28_860_000));
    assert_eq!((other.policy, other.terms.idle_ms), (Policy::First, 3_600_000));
    assert!(draft.print().contains("kind = \"mysql\"\npolicy = \"least-connections\""));
    let web = right(Path::new("tests/config/right/smallest.toml")).compile(&mut Registry::new(1), None);
    assert_eq!(web.pools[0].kind, Kind::Tcp);
    let web = read(Path::new("tests/config/right/mysql.toml")).replace("policy = \"first\"\n", "policy = \"maglev\"\n");
    let web = parse("t", &web, &environment).expect("right").compile(&mut Registry::new(1), Some(&plan));
    assert_eq!(diff::diff(&plan, &web).to_string(), "~ pool other: policy \"first\" → \"maglev\"\n");
}

#[test]
fn checks_send_the_header_of_their_pool() {
    let text = read(Path::new("tests/config/right/send-proxy.toml"));
    let plan = parse("t", &text, &environment).expect("right").compile(&mut Registry::new(1), None);
    let sent: Vec<_> = plan
        .pools
        .iter()
        .map(|pool| (&*pool.name, pool.terms.send_proxy, pool.care.check.as_ref().and_then(|check| check.send_proxy)))
        .collect();
    let (v1, v2) = (Some(Version::V1), Some(Version::V2));
    assert_eq!(
        sent,
        [("elsewhere", v1, None), ("only-checks", None, v1), ("silent", v1, None), ("told", v1, v2), ("web", v2, v2)]
    );
    let other = text.replace("send_proxy = \"off\"\ncheck", "send_proxy = \"v2\"\ncheck");
    let other = parse("t", &other, &environment).expect("right").compile(&mut Registry::new(1), Some(&plan));
    assert_eq!(diff::diff(&plan, &other).to_string(), "~ pool only-checks: send_proxy \"off\" → \"v2\"\n");
}

#[test]
fn a_rate_has_a_burst_of_a_tenth_of_a_second() {
    let text = read(Path::new("tests/config/right/connect-rate.toml"));
    let plan = parse("t", &text, &environment).expect("right").compile(&mut Registry::new(1), None);
    let bursts = plan.pools[0].servers.iter().map(|server| server.connect_rate.map(|rate| rate.burst));
    assert_eq!(bursts.collect::<Vec<_>>(), [Some(20), Some(7), Some(1), Some(10)]);
    let other = text.replace("\"5/s\", connect_burst = 7", "\"6/s\"").replace(", connect_rate = \"30/m\"", "");
    let other = parse("t", &other, &environment).expect("right").compile(&mut Registry::new(1), Some(&plan));
    assert_eq!(
        diff::diff(&plan, &other).to_string(),
        "~ server a/b at 10.0.0.2:80: connect_rate \"5/s\" → \"6/s\"; connect_burst 7 → 1\n\
         ~ server a/c at 10.0.0.3:80: connect_rate \"30/m\" → none; connect_burst 1 → none\n"
    );
}

#[test]
fn a_file_above_the_limit_is_refused_unread() {
    let complaints = parse("big", &"#".repeat(4 * 1024 * 1024 + 1), &environment).expect_err("too large");
    assert!(complaints.to_string().contains("4 MiB"), "{complaints}");
}

#[test]
fn ten_thousand_servers_fit_and_one_more_does_not() {
    let text = |n: u32| {
        let servers: String = (0..n)
            .map(|i| {
                let ip = std::net::Ipv4Addr::from(0x0a00_0001 + i);
                format!("  {{ name = \"s{i}\", address = \"{ip}:80\", weight = {} }},\n", 1 + i % 256)
            })
            .collect();
        format!("[listeners.l]\nbind = \"127.0.0.1:80\"\npool = \"p\"\n[pools.p]\nservers = [\n{servers}]\n")
    };
    let draft = parse("most", &text(10_000), &environment).unwrap_or_else(|complaints| panic!("{complaints}"));
    let plan = draft.compile(&mut Registry::new(1), None);
    assert!(plan.pools[0].rotation.len() <= 65_536);
    let complaints = parse("more", &text(10_001), &environment).expect_err("too many");
    assert!(complaints.to_string().contains("10001 servers; most is 10000"), "{complaints}");
}

#[test]
fn maglev_tables_have_a_bound_together() {
    let text = |pools: usize| {
        let pools: String = (0..pools)
            .map(|n| {
                format!(
                    "[pools.p{n:03}]\npolicy = \"maglev\"\nservers = [{{ name = \"a\", address = \"10.0.0.1:80\" }}]\n"
                )
            })
            .collect();
        format!("[listeners.l]\nbind = \"127.0.0.1:80\"\npool = \"p000\"\n{pools}")
    };
    parse("most", &text(127), &environment).unwrap_or_else(|complaints| panic!("{complaints}"));
    let complaints = parse("more", &text(140), &environment).expect_err("too many").to_string();
    let first = complaints.lines().next().unwrap_or_default();
    assert_eq!(
        first,
        "more:385:8: the tables of the maglev pools up to \"p127\" have 8388736 entries; most is 8388608"
    );
    assert!(complaints.contains("help: use \"source-hash\" in small pools"), "{complaints}");
    assert_eq!(complaints.matches("maglev pools up to").count(), 1, "once is enough: {complaints}");
}

/// A text that was right, with one piece replaced.
fn mutated() -> impl Strategy<Value = String> {
    let all: Vec<String> = files("tests/config/right", "toml")
        .iter()
        .chain(&files("tests/config/wrong", "toml"))
        .map(|path| read(path))
        .filter(|text| !text.is_empty())
        .collect();
    let piece = prop_oneof![
        "\\PC{0,12}",
        "[\\[\\]{}=,.\"'#\n\r\t0-9a-z$:_\u{0}\u{7f}\u{85}-]{0,12}",
        prop::sample::select(vec![
            "[[",
            "]]",
            "\"\"\"",
            "'''",
            "\\u",
            "\\U00110000",
            "0x",
            "1e9",
            "${",
            "[::1]",
            "unix:",
            "99999999999999999999"
        ])
        .prop_map(str::to_owned),
    ];
    (prop::sample::select(all), any::<prop::sample::Index>(), 0..24_usize, piece).prop_map(|(text, at, cut, piece)| {
        let mut chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len());
        let end = (start + cut).min(chars.len());
        chars.splice(start..end, piece.chars());
        chars.into_iter().collect()
    })
}

/// Whatever comes of it can be shown, and what is right can be compiled.
fn survive(text: &str) -> Result<(), TestCaseError> {
    match parse("f.toml", text, &environment) {
        Ok(draft) => {
            let plan = draft.compile(&mut Registry::new(1), None);
            prop_assert!(!plan.listeners.is_empty());
            let again = parse("f.toml", &draft.print(), &environment);
            prop_assert!(again.is_ok(), "{}", draft.print());
        }
        Err(complaints) => {
            prop_assert!(!complaints.is_empty());
            prop_assert!(complaints.to_string().lines().all(|line| line.chars().count() < 700));
            prop_assert!(complaints.lines().all(|line| !line.contains('\n')));
        }
    }
    Ok(())
}

/// Nothing about a large hopeless file may take quadratic time: half a minute would be seconds of a reload's thread.
#[test]
fn hopeless_files_are_refused_soon() {
    const PIECES: [&str; 11] =
        ["]\n", "=", "a=1\n", "[a]\n", "a b\n", "\"", "[a]\nb=1\n", "a=[", "a.b.", "a=x\n", "[listeners.a]\nb=1\n"];
    let mut texts: Vec<String> = PIECES.iter().map(|piece| piece.repeat(256 * 1024 / piece.len())).collect();
    texts.push((0..30_000).map(|n| format!("key{n} = 1\n")).collect());
    texts.push(
        (0..1000)
            .map(|n| format!("[listeners.l{n}]\nbind = \"127.0.0.1:{}\"\npool = \"p{n}\"\n[pools.q{n}]\n", n + 1))
            .collect(),
    );
    for text in texts {
        let begin = std::time::Instant::now();
        let complaints = parse("f", &text, &environment).expect_err("hopeless");
        assert!(complaints.to_string().len() < 200_000);
        let piece: String = text.chars().take(20).collect();
        assert!(begin.elapsed().as_secs() < 30, "{piece:?}: {:?}", begin.elapsed());
        println!("{piece:?}: {:?}, {} complaints", begin.elapsed(), complaints.len());
    }
}

fn ringway(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("the binary starts");
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    (output.status.code(), out, err)
}

#[test]
fn check_tells_and_exits() {
    let (code, out, err) = ringway(&["check", "-c", "config/ringway.toml"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out, "config/ringway.toml: right: 1 listener, 1 pool, 2 servers\n");
    let (code, again, _) = ringway(&["check", "config/ringway.toml"]);
    assert_eq!((code, &again), (Some(0), &out));
    let (code, out, _) = ringway(&["check", "--quiet", "-c", "config/ringway.toml"]);
    assert_eq!((code, out.as_str()), (Some(0), ""));
    let (code, out, _) = ringway(&["check", "--print", "-c", "config/ringway.toml"]);
    assert!(code == Some(0) && out.contains("idle_timeout = \"5m\""), "{out}");

    let (code, out, err) = ringway(&["check", "-c", "tests/config/wrong/unknown-pool.toml"]);
    assert_eq!((code, out.as_str()), (Some(3), ""));
    assert!(err.contains("unknown-pool.toml:3:8: ") && err.ends_with("2 complaints\n"), "{err}");
    let (code, _, err) = ringway(&["check", "-c", "tests/config/absent.toml"]);
    assert_eq!(code, Some(78), "{err}");
    let (code, _, err) = ringway(&["check", "-c", "tests"]);
    assert_eq!(code, Some(78), "{err}");

    // What the machine lacks may be there where the file is meant for.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("mysql.toml");
    let text = read(Path::new("tests/config/right/mysql-roles.toml"));
    fs::write(&path, text.replace("/etc/ringway", &folder.path().to_string_lossy())).expect("own folder");
    let (code, out, err) = ringway(&["check", "--quiet", &path.to_string_lossy()]);
    assert_eq!((code, out.as_str()), (Some(0), ""));
    assert!(err.starts_with("ringway: warning: servers of pool db could not be checked here: "), "{err}");
    assert!(err.contains("/lbcheck.password: no such file or directory\n"), "{err}");

    let path = folder.path().join("latin1.toml");
    fs::write(&path, b"# ok\n# gr\xfc\xdfe\n").expect("a file");
    let (code, _, err) = ringway(&["check", "-c", &path.to_string_lossy()]);
    assert!(code == Some(3) && err.contains("latin1.toml:2: byte 9 "), "{err}");
}

#[test]
fn plan_tells_what_a_reload_would_do() {
    let (code, out, err) = ringway(&["plan", "config/reference.toml", "-c", "config/ringway.toml"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    for line in [
        "~ global.user none → \"ringway\" (needs a restart)",
        "~ listener web: opens unix:/run/ringway/web.sock",
        "~ server web/web1 at 10.0.0.21:80: weight 1 → 2",
        "+ server web/spare at 10.0.0.23:80: backup true",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    let (code, out, _) = ringway(&["plan", "config/ringway.toml", "-c", "config/ringway.toml"]);
    assert_eq!((code, out.as_str()), (Some(0), "nothing changes\n"));
    let (code, _, _) = ringway(&["plan", "tests/config/wrong/empty.toml", "-c", "config/ringway.toml"]);
    assert_eq!(code, Some(3));

    // A configuration alone is the daemon's, as for every other verb.
    let folder = tempfile::tempdir().expect("a folder");
    let (path, socket) = (folder.path().join("r.toml"), folder.path().join("sock"));
    let text = fs::read_to_string("config/ringway.toml").expect("it is there");
    fs::write(&path, format!("{text}\n[admin]\nsocket = \"{}\"\n", socket.display())).expect("own folder");
    let (code, _, err) = ringway(&["plan", "-c", &path.to_string_lossy()]);
    assert!(code == Some(1) && err.contains(&format!("no daemon answers on {}", socket.display())), "{err}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_mutation_of_a_file_panics(text in mutated()) {
        survive(&text)?;
    }

    #[test]
    fn no_text_of_an_overlay_panics(text in "(\\[\\[(add|remove|set)\\]\\]\n|(pool|name|address|weight|state) = (\"(web|a|b|c|drain|10\\.0\\.0\\.5:80)\"|7)\n|\\PC){0,12}") {
        if let Err(complaints) = overlaid("o.toml", &text) {
            prop_assert!(!complaints.is_empty() && !complaints.to_string().is_empty());
            prop_assert_eq!(complaints.lines().count(), complaints.len());
        }
    }

    #[test]
    fn no_text_panics(text in "(\\PC|[\\[\\]{}=,.\"'#\n\r\t0-9a-z]){0,80}") {
        survive(&text)?;
    }
}
