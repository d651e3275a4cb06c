//! The habits of the house, held by a test: who may use whom, where `unsafe` lives, what every file says of itself.
//!
//! It reads the source as text. That is crude on purpose: what it forbids should be visible to a reader as well.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use ringway::base::limits::TABLE;
use ringway::dataplane::ending::{Ending, Refusal};

/// Room → rooms it may use. `src/lib.rs` shows the same table to its reader; a test below holds them together.
const ARROWS: [(&str, &[&str]); 11] = [
    ("base", &[]),
    ("sys", &["base"]),
    ("kernel", &["sys", "base"]),
    ("proxy_protocol", &[]),
    ("config", &["proxy_protocol", "base"]),
    ("health", &["config", "base"]),
    ("balance", &["config", "base"]),
    ("dataplane", &["balance", "kernel", "config", "proxy_protocol", "sys", "base"]),
    ("observe", &["dataplane", "health", "config", "sys", "base"]),
    ("control", &["base", "sys", "kernel", "proxy_protocol", "config", "health", "balance", "dataplane", "observe"]),
    (
        "cli",
        &["base", "sys", "kernel", "proxy_protocol", "config", "health", "balance", "dataplane", "observe", "control"],
    ),
];

/// Where `unsafe` may be written.
const UNSAFE_HOMES: [&str; 2] = ["src/sys/", "src/kernel/uring/"];

/// Longest file, in lines.
const LINES_MAX: usize = 700;

#[test]
fn arrows_between_rooms_point_one_way() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut wrong = String::new();
    for file in rust_files("src") {
        let Some(room) = room_of(&file).filter(|_| !is_test(&file)) else { continue };
        let allowed = arrows.get(room.as_str()).unwrap_or_else(|| {
            panic!("room src/{room} is not in the table of tests/tidy.rs; add it there and in src/lib.rs")
        });
        let code = without_tests(&code_only(&read(&file)));
        for (line, used) in rooms_used(&code, module_depth(&file)) {
            if used != room && !allowed.contains(&used.as_str()) && arrows.contains_key(used.as_str()) {
                let _ = writeln!(wrong, "  {}:{line}: {room} may not use {used}", file.display());
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way:\n{wrong}");
}

#[test]
fn the_map_in_lib_shows_the_same_arrows() {
    let map = read(Path::new("src/lib.rs"));
    let mut above: Vec<&str> = Vec::new();
    let mut seen = Vec::new();
    for row in map.lines().filter_map(|line| line.strip_prefix("//! | [`")) {
        let room = row.split('`').next().unwrap_or_default();
        let uses = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let (name, held) = ARROWS
            .into_iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("src/lib.rs shows room {room}, tests/tidy.rs does not know it"));
        let mut shown: Vec<&str> = if uses.contains("everything above") {
            above.clone()
        } else {
            uses.split('`').skip(1).step_by(2).collect()
        };
        let mut held = held.to_vec();
        shown.sort_unstable();
        held.sort_unstable();
        assert_eq!(shown, held, "src/lib.rs and tests/tidy.rs differ on what {name} may use");
        above.push(name);
        seen.push(name);
    }
    assert_eq!(seen, ARROWS.map(|(name, _)| name), "rooms shown in src/lib.rs");
    for declared in map.lines().filter_map(|line| line.strip_prefix("pub mod ")) {
        let declared = declared.trim_end_matches(';');
        assert!(seen.contains(&declared), "src/lib.rs declares {declared} and does not show it in its map");
    }
}

#[test]
fn unsafe_stays_at_home() {
    let mut wrong = String::new();
    for file in rust_files("src") {
        let path = file.display().to_string();
        if UNSAFE_HOMES.iter().any(|home| path.starts_with(home)) {
            continue;
        }
        for (line, text) in numbered(&code_only(&read(&file))) {
            if words(text).any(|word| word == "unsafe") {
                let _ = writeln!(wrong, "  {path}:{line}");
            }
        }
    }
    assert!(wrong.is_empty(), "`unsafe` outside {UNSAFE_HOMES:?}:\n{wrong}");
}

#[test]
fn nothing_panics_because_nobody_listens() {
    let mut wrong = String::new();
    for file in rust_files("src").iter().filter(|file| !is_test(file)) {
        for (line, text) in numbered(&without_tests(&code_only(&read(file)))) {
            // `eprintln!` and `eprint!` end like these.
            if ["println!(", "print!("].iter().any(|said| text.contains(said)) {
                let _ = writeln!(wrong, "  {}:{line}", file.display());
            }
        }
    }
    assert!(wrong.is_empty(), "these panic when nobody can read them; use cli::out or sys::stderr:\n{wrong}");
}

#[test]
fn every_file_says_what_it_is() {
    let mut wrong = String::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        if !read(&file).starts_with("//!") {
            let _ = writeln!(wrong, "  {}", file.display());
        }
    }
    assert!(wrong.is_empty(), "files that do not begin with `//!`:\n{wrong}");
}

#[test]
fn no_file_is_too_long_to_read() {
    let mut wrong = String::new();
    for file in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches")) {
        let lines = read(&file).lines().count();
        if lines > LINES_MAX {
            let _ = writeln!(wrong, "  {}: {lines} lines", file.display());
        }
    }
    assert!(wrong.is_empty(), "files over {LINES_MAX} lines:\n{wrong}");
}

#[test]
fn the_readme_explains_every_ending_and_refusal() {
    let readme = readme();
    let mut missing = String::new();
    for ending in Ending::ALL {
        let word = format!("`{}`", ending.reason());
        let code = format!("`{}`", ending.code());
        if !readme.lines().any(|line| line.contains(&word) && line.contains(&code)) {
            let _ = writeln!(missing, "  {word} and {code} in one line");
        }
    }
    for refusal in Refusal::ALL {
        let word = format!("`{}`", refusal.reason());
        if !readme.contains(&word) {
            let _ = writeln!(missing, "  {word}");
        }
    }
    assert!(missing.is_empty(), "README.md does not explain why sessions end:\n{missing}");
}

#[test]
fn the_readme_names_every_metric() {
    let readme = readme();
    let mut missing = String::new();
    let mut found = 0;
    for file in rust_files("src/observe") {
        for metric in metric_names(&read(&file)) {
            found += 1;
            // The encoder adds the ending its kind asks for.
            let shown = ["", "_total", "_info"].map(|ending| format!("`{metric}{ending}`"));
            if !shown.iter().any(|name| readme.contains(name)) {
                let _ = writeln!(missing, "  {metric} ({})", file.display());
            }
        }
    }
    assert!(found > 0, "src/observe names no metric as \"ringway_…\"; teach metric_names() how it does");
    assert!(missing.is_empty(), "metrics README.md does not name:\n{missing}");
}

/// `scripts/sim mutants` makes these mistakes and takes minutes; that each can still be made is seen here.
#[test]
fn every_mutant_still_applies() {
    let listed = read(Path::new("tests/sim/mutants.toml"));
    let listed: toml::Table = listed.parse().expect("tests/sim/mutants.toml is TOML");
    let mutants = listed["mutant"].as_array().expect("[[mutant]]…");
    let mut names = BTreeMap::new();
    let mut wrong = String::new();
    for mutant in mutants {
        let [name, breaks, file, find, replace] = ["name", "breaks", "file", "find", "replace"]
            .map(|key| mutant[key].as_str().unwrap_or_else(|| panic!("a mutant needs a `{key}`: {mutant}")));
        let count = read(Path::new(file)).matches(find.strip_suffix('\n').unwrap_or(find)).count();
        if count != 1 {
            let _ = writeln!(wrong, "  {name}: what it replaces stands {count} times in {file}, not once");
        }
        if find == replace || breaks.is_empty() || names.insert(name, file).is_some() {
            let _ = writeln!(wrong, "  {name}: changes nothing, does not say what it breaks, or is there twice");
        }
    }
    assert!(wrong.is_empty(), "write these mistakes anew, in tests/sim/mutants.toml:\n{wrong}");
    assert!(mutants.len() >= 12, "{} mutants prove little", mutants.len());
}

#[test]
fn the_readme_shows_every_limit() {
    let readme = readme();
    let section = readme.split("\n## Limits\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let shown: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    let held: Vec<String> =
        TABLE.iter().map(|b| format!("| {} | {} | {} | {} |", b.what, b.most, b.cost, b.then)).collect();
    assert!(shown == held, "the table of limits in README.md is not src/base/limits.rs:\n{}", held.join("\n"));
}

/// Times on a worker come from the monotonic clock, through the shard's arguments: a wall clock that is set makes no timeout
/// fire early or late. Only the log and the metrics tell the time of day.
#[test]
fn nothing_that_moves_bytes_reads_the_wall_clock() {
    let mut wrong = String::new();
    for room in ["base", "sys", "kernel", "balance", "dataplane"] {
        for file in rust_files(&format!("src/{room}")).iter().filter(|file| !is_test(file)) {
            for (line, text) in numbered(&without_tests(&code_only(&read(file)))) {
                let clocks = ["SystemTime", "CLOCK_REALTIME", "gettimeofday", "Utc", "UNIX_EPOCH"];
                if words(text).any(|word| clocks.contains(&word)) {
                    let _ = writeln!(wrong, "  {}:{line}", file.display());
                }
            }
        }
    }
    let clock = code_only(&read(Path::new("src/dataplane/commons.rs")));
    assert!(clock.contains("ClockId::CLOCK_MONOTONIC"), "the workers' clock is `monotonic_ns` in commons.rs");
    assert!(wrong.is_empty(), "the wall clock, where a jump of it would matter:\n{wrong}");
}

// Reading files.

fn readme() -> String {
    fs::read_to_string("README.md").expect("README.md explains the endings and the metrics, so it has to be there")
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// All `.rs` files below `root`, in order; none when there is no such directory.
fn rust_files(root: &str) -> Vec<PathBuf> {
    let mut open = vec![PathBuf::from(root)];
    let mut files = Vec::new();
    while let Some(place) = open.pop() {
        let Ok(entries) = fs::read_dir(&place) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// The room a file belongs to; `None` for `lib.rs` and `main.rs`, which are the hall.
fn room_of(file: &Path) -> Option<String> {
    let below = file.strip_prefix("src").ok()?;
    let first = below.components().next()?.as_os_str().to_str()?;
    if below.components().count() == 1 {
        let name = first.strip_suffix(".rs")?;
        return (name != "lib" && name != "main").then(|| name.to_owned());
    }
    Some(first.to_owned())
}

/// How many `super` lead from a file's module to the root of the crate.
fn module_depth(file: &Path) -> usize {
    let parts = file.components().count() - 1;
    if file.ends_with("mod.rs") { parts - 1 } else { parts }
}

// Reading Rust, crudely.

fn numbered(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().map(|(i, line)| (i + 1, line))
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// The same text with comments, strings and character literals blanked; lines stay where they are.
fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, c: char| out.push(if c == '\n' { '\n' } else { ' ' });
    while i < chars.len() {
        let (c, next) = (chars[i], chars.get(i + 1).copied());
        let after_word = i > 0 && is_word(chars[i - 1]);
        let end = if c == '/' && next == Some('/') {
            (i..chars.len()).find(|&j| chars[j] == '\n').unwrap_or(chars.len())
        } else if c == '/' && next == Some('*') {
            end_of_block_comment(&chars, i)
        } else if c == '"' {
            end_of_string(&chars, i)
        } else if c == 'r' && !after_word && matches!(next, Some('"' | '#')) {
            end_of_raw_string(&chars, i).unwrap_or(i)
        } else if c == '\'' && !after_word {
            end_of_char(&chars, i).unwrap_or(i)
        } else {
            i
        };
        if end == i {
            out.push(c);
            i += 1;
        } else {
            chars[i..end].iter().for_each(|&c| blank(&mut out, c));
            i = end;
        }
    }
    out
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn end_of_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    (open + 1..chars.len())
        .find(|&i| chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes)
        .map(|i| i + 1 + hashes)
}

/// `'x'` or `'\n'`; `None` for a lifetime.
fn end_of_char(chars: &[char], start: usize) -> Option<usize> {
    if chars.get(start + 1) == Some(&'\\') {
        return (start + 3..chars.len()).find(|&i| chars[i] == '\'').map(|i| i + 1);
    }
    (chars.get(start + 2) == Some(&'\'')).then_some(start + 3)
}

/// A file that is nothing but tests: its parent declares it under `#[cfg(test)]`.
fn is_test(file: &Path) -> bool {
    file.ends_with("tests.rs")
}

/// The same code with everything behind `#[cfg(test)]` blanked, to the end of its item.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code.to_owned();
    while let Some(at) = code.find(MARK) {
        let rest = &code[at..];
        let open = rest.find('{').unwrap_or(rest.len());
        let end = match rest.find(';') {
            Some(semicolon) if semicolon < open => semicolon + 1,
            _ => end_of_braces(rest, open),
        };
        let blanked: String = rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(at..at + end, &blanked);
    }
    code
}

fn end_of_braces(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (i, c) in code.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return i + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Each room a piece of code reaches through `crate::`, or through `super` from a module `depth` below the root, with
/// its line.
fn rooms_used(code: &str, depth: usize) -> Vec<(usize, String)> {
    let to_root = "super::".repeat(depth);
    let mut used = Vec::new();
    for door in ["crate::", to_root.as_str()] {
        if door.is_empty() {
            continue;
        }
        for (at, _) in code.match_indices(door) {
            if code[..at].ends_with(|c| is_word(c) || c == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let path = &code[at + door.len()..];
            used.extend(heads(path).into_iter().map(|head| (line, head)));
        }
    }
    used
}

/// The first name of a path, or of each path in a `{…}` group.
fn heads(path: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.trim_start().chars().take_while(|&c| is_word(c)).collect() };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let (mut depth, mut heads, mut start) = (0, Vec::new(), 0);
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(name(&group[start..i]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(name(&group[start..i]));
                start = i + 1;
            }
            _ => {}
        }
    }
    heads
}

/// Every `ringway_…` that stands at the beginning of a string literal, but for those in tests.
fn metric_names(text: &str) -> Vec<String> {
    let code = without_tests(&code_only(text));
    let living = text.lines().zip(code.lines()).filter(|(_, code)| !code.trim().is_empty());
    living
        .flat_map(|(line, _)| line.match_indices("\"ringway_").map(move |(at, _)| &line[at + 1..]))
        .map(|rest| rest.chars().take_while(|&c| is_word(c)).collect())
        .collect()
}

// The reader itself, tested on what would fool it.

#[test]
fn the_reader_is_not_fooled() {
    let code = code_only(
        "let a = \"unsafe // not\"; // unsafe\n/* unsafe /* nested */ */ let b = 'x'; let c: &'static str = r#\"crate::cli\"#;\n",
    );
    assert!(!code.contains("unsafe") && !code.contains("cli"), "{code}");
    assert!(code.contains("&'static str"), "{code}");
    assert_eq!(code.lines().count(), 2);

    let code = without_tests(
        "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x.unwrap() } }\nfn c() {}\n#[cfg(test)] use d;\nfn e() {}",
    );
    assert!(!code.contains("unwrap") && !code.contains("use d"), "{code}");
    assert!(code.contains("fn c()") && code.contains("fn e()"), "{code}");

    let used = rooms_used("use crate::{base::x, sys::{y, z}};\nuse super::super::cli::a; self::crate::b", 2);
    let names: Vec<&str> = used.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["base", "sys", "cli"]);
    assert_eq!(used[2].0, 2);

    assert_eq!(module_depth(Path::new("src/kernel/uring/mod.rs")), 2);
    assert_eq!(module_depth(Path::new("src/kernel/epoll.rs")), 2);
    assert_eq!(room_of(Path::new("src/lib.rs")), None);
    let metrics = "m(\"ringway_a_total\", \"x\")\n#[cfg(test)]\nmod tests { fn t() {\n m(\"ringway_b\"); } }";
    assert_eq!(metric_names(metrics), ["ringway_a_total"]);
}
