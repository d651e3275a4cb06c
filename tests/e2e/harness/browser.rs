//! A real browser: headless Chromium, spoken to by the DevTools protocol over a pair of pipes.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};

use super::facts::{PATIENCE, await_that};
use super::ground::{Ground, need};
use super::process::Process;

/// A browser with one page.
pub struct Browser {
    _process: Process,
    commands: File,
    answers: File,
    buffer: Vec<u8>,
    last: u64,
    session: Option<String>,
    /// What the page did, as the protocol tells it.
    told: Vec<Value>,
}

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// `light` or `dark`.
    pub scheme: &'static str,
    /// Width of the window, in pixels.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

impl Browser {
    /// Starts it with an empty page.
    pub fn start(ground: &Ground) -> Self {
        need("chromium");
        let pair = || nix::unistd::pipe().expect("a pipe");
        let ((its_commands, commands), (answers, its_answers)) = (pair(), pair());
        let mut command = Command::new("chromium");
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", ground.file("browser").display()))
            .env("HOME", ground.file("browser"))
            .arg("about:blank");
        let (from, to) = (its_commands.as_raw_fd(), its_answers.as_raw_fd());
        // SAFETY: between fork and exec only fcntl(2) and dup2(2) are called, which are async-signal-safe. The copies are made
        // above 3 and 4 first, so that neither is overwritten before it is copied.
        unsafe {
            command.pre_exec(move || {
                let above = |fd| match libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10) {
                    -1 => Err(std::io::Error::last_os_error()),
                    fd => Ok(fd),
                };
                let (from, to) = (above(from)?, above(to)?);
                match libc::dup2(from, 3).min(libc::dup2(to, 4)) {
                    -1 => Err(std::io::Error::last_os_error()),
                    _ => Ok(()),
                }
            });
        }
        let process = Process::start("chromium", &mut command, &ground.file("chromium.log"));
        drop((its_commands, its_answers));
        let (commands, answers) = (File::from(commands), File::from(answers));
        let mut browser =
            Self { _process: process, commands, answers, buffer: Vec::new(), last: 0, session: None, told: Vec::new() };
        let page = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", attach)["sessionId"].as_str().map(str::to_owned);
        browser.session = session;
        for part in ["Page", "Runtime", "Network", "Log", "Accessibility"] {
            browser.call(&format!("{part}.enable"), json!({}));
        }
        browser
    }

    /// One command, and its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser lives");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.hear(deadline, method);
            if told["id"] == self.last {
                assert!(told.get("error").is_none(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
            self.told.push(told);
        }
    }

    fn hear(&mut self, deadline: Instant, what: &str) -> Value {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == 0) {
                let message: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).expect("JSON");
            }
            let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
            let left = PollTimeout::try_from(left).expect("less than a minute");
            let mut ready = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            assert!(poll(&mut ready, left).expect("poll") > 0, "the browser does not answer to {what}");
            let mut bytes = [0; 65_536];
            let count = self.answers.read(&mut bytes).expect("the browser lives");
            assert!(count > 0, "the browser has gone while {what}");
            self.buffer.extend_from_slice(&bytes[..count]);
        }
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", asked);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page; while what it looks at is not there yet, it is not.
    pub fn await_true(&mut self, what: &str, expression: &str) {
        let patient = format!("(() => {{ try {{ return {expression}; }} catch {{ return false; }} }})()");
        await_that(what, || self.value(&patient) == true);
    }

    /// Goes to `url`, looking so.
    pub fn open(&mut self, url: &str, look: Look) {
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": look.scheme }] });
        self.call("Emulation.setEmulatedMedia", scheme);
        let window = json!({
            "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": look.width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", window);
        let gone = self.call("Page.navigate", json!({ "url": url }));
        assert!(gone.get("errorText").is_none(), "{url}: {gone}");
    }

    /// Takes a picture of the whole page, for somebody to look at: `NAME.png` in the folder `RINGWAY_PICTURES`, if that is set.
    pub fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("RINGWAY_PICTURES") else { return };
        let whole = "({ x: 0, y: 0, width: innerWidth, height: document.documentElement.scrollHeight, scale: 1 })";
        let whole = self.value(whole);
        let taken = self.call("Page.captureScreenshot", json!({ "captureBeyondViewport": true, "clip": whole }));
        let picture = File::create(Path::new(&folder).join(format!("{name}.png"))).expect("a folder for pictures");
        let mut decoder = Command::new("base64").arg("--decode").stdin(Stdio::piped()).stdout(picture).spawn();
        let decoder = decoder.as_mut().expect("base64 of coreutils");
        let mut text = decoder.stdin.take().expect("a pipe");
        text.write_all(taken["data"].as_str().expect("a picture").as_bytes()).expect("it reads");
        drop(text);
        assert!(decoder.wait().expect("a child of ours").success());
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// The addresses of all requests so far, and everything that went wrong: exceptions, what was written to the console,
    /// what the browser complained of.
    pub fn requests_and_complaints(&mut self) -> (Vec<String>, Vec<String>) {
        self.value("0"); // what was told before the answer has been read
        let of = |method: &'static str| self.told.iter().filter(move |told| told["method"] == method);
        let requests = of("Network.requestWillBeSent").filter_map(|told| told["params"]["request"]["url"].as_str());
        let complaints =
            ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"].into_iter().flat_map(of);
        (requests.map(str::to_owned).collect(), complaints.map(Value::to_string).collect())
    }

    /// What a screen reader finds: role and name of everything that is not ignored.
    pub fn accessible(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().expect("nodes").iter().filter(|node| node["ignored"] != true);
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        nodes.map(|node| (text(&node["role"]), text(&node["name"]))).collect()
    }
}
