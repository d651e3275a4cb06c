//! Manual pages and shell completions: there is one for every verb, and the programs that read them do so without a word.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run scripts/setup"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}");
    output
}

fn ringway(words: &[&str]) -> String {
    let output = run(Command::new(env!("CARGO_BIN_EXE_ringway")).args(words));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The verbs that `ringway --help` lists.
fn verbs() -> BTreeSet<String> {
    let help = ringway(&["--help"]);
    let list = help.split("Commands:\n").nth(1).expect("a list").split("\n\n").next().expect("a list");
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|&name| name != "help").map(str::to_owned).collect()
}

#[test]
fn there_is_a_page_for_every_verb_and_mandoc_reads_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let target = directory.path().join("man1");
    ringway(&["man", target.to_str().expect("UTF-8")]);
    let verbs = verbs();
    assert!(verbs.len() >= 10, "{verbs:?}");
    for verb in verbs {
        assert!(target.join(format!("ringway-{verb}.1")).exists(), "no page for {verb}");
    }
    let mut pages = 0;
    for entry in std::fs::read_dir(&target).expect("made") {
        let path = entry.expect("readable").path();
        // Errors only: what mandoc calls a warning here is a matter of taste (dates, blank lines).
        run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).arg(&path));
        pages += 1;
    }
    assert!(pages > 14, "{pages} pages: those of `ringway load` are missing");
    let main = shown(&target.join("ringway.1"));
    for word in ["ringway-reload(1)", "SIGNALS", "EXIT STATUS", "USR1", "/etc/ringway/ringway.toml"] {
        assert!(main.contains(word), "{word} in\n{main}");
    }
    assert!(shown(&target.join("ringway-load-serve.1")).contains("ringway-load-serve"));
    assert_eq!(ringway(&["man"]), std::fs::read_to_string(target.join("ringway.1")).expect("there"));
}

/// A page as its reader sees it, without bold and underline.
fn shown(page: &Path) -> String {
    let output = run(Command::new("mandoc").args(["-T", "ascii"]).arg(page));
    let text = String::from_utf8(output.stdout).expect("ASCII");
    let chars: Vec<char> = text.chars().collect();
    let overstruck = |i: usize| chars.get(i + 1) == Some(&'\u{8}') || chars[i] == '\u{8}';
    (0..chars.len()).filter(|&i| !overstruck(i)).map(|i| chars[i]).collect()
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let target = file.path().join("man1");
    let output = Command::new(env!("CARGO_BIN_EXE_ringway")).arg("man").arg(&target).output().expect("started");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&target.display().to_string()), "{said}");
}

#[test]
fn shells_get_their_completions() {
    let directory = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        let script = ringway(&["completions", shell]);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell} does not know {verb}");
        }
        if shell == "bash" {
            let path = directory.path().join("ringway");
            std::fs::write(&path, &script).expect("own directory");
            run(Command::new("bash").arg("-n").arg(&path));
            // What bash offers for `ringway rel` and the tab key.
            let ask = "source \"$1\"; COMP_WORDS=(ringway rel); COMP_CWORD=1; _ringway ringway rel ringway; echo \"${COMPREPLY[@]}\"";
            let offered = run(Command::new("bash").args(["-c", ask, "bash"]).arg(&path));
            assert_eq!(String::from_utf8_lossy(&offered.stdout).trim(), "reload");
        }
    }
    let output = Command::new(env!("CARGO_BIN_EXE_ringway")).args(["completions", "csh"]).output().expect("started");
    assert_eq!(output.status.code(), Some(2), "a shell nobody knows");
}
