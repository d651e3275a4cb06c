//! The status page, in a real browser; and its stream, with clients that are none.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use nix::sys::signal::Signal;

use crate::harness::browser::{Browser, Look};
use crate::harness::facts::{await_that, connections_at, http_get, http_over};
use crate::harness::ground::Ground;
use crate::harness::peers::{Server, ask, connect};
use crate::harness::ringway::{Ringway, listener, one_pool, pool};

const LOOKS: [Look; 4] = [
    Look { scheme: "light", width: 1280, height: 900 },
    Look { scheme: "light", width: 390, height: 844 },
    Look { scheme: "dark", width: 1280, height: 900 },
    Look { scheme: "dark", width: 390, height: 844 },
];

const PLOTTED: &str = "document.querySelector('path.first').getAttribute('d').length > 3";

const CHECK: &str = "check = { type = \"tcp\", interval = \"1s\", fast_interval = \"100ms\", fall = 1 }";

/// Text whose contrast with what is behind it is below 4.5 (WCAG 2.2, 1.4.3).
const PALE: &str = r#"(() => {
  const parts = (color) => color.match(/[\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parts(color).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if ((parts(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.querySelectorAll("body *")].filter(
    (e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && !e.closest("script"));
  const pale = texts.filter((e) => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5;
  });
  return texts.length < 40 ? ["only " + texts.length + " texts"] : pale.map((e) => e.outerHTML.slice(0, 120));
})()"#;

fn state_of(server: &str) -> String {
    format!(
        "[...document.querySelectorAll('#pools tr')].find((tr) => tr.querySelector('th')?.firstChild.data === \
         '{server}')?.dataset.state"
    )
}

#[test]
fn the_page_shows_what_is_and_what_becomes_of_it() {
    let ground = Ground::new();
    let servers = [Server::named(&ground, "a"), Server::named(&ground, "b")];
    let front = ground.address();
    let addresses = servers.each_ref().map(Server::address);
    let ringway = Ringway::start(&ground, &one_pool(front, &addresses, CHECK));
    let url = format!("http://{}/", ringway.admin());
    let mut browser = Browser::start(&ground);
    for look in LOOKS {
        browser.open(&url, look);
        for server in ["s0", "s1"] {
            browser.await_true("both servers to be up", &format!("{} === 'up'", state_of(server)));
        }
        browser.await_true("a plot", PLOTTED);
        let wide = browser.value("document.documentElement.scrollWidth <= innerWidth");
        assert_eq!(wide, true, "{look:?}: it is wider than the window");
        let pale = browser.value(PALE);
        assert_eq!(pale, serde_json::json!([]), "{look:?}");
        let ground = browser.value("getComputedStyle(document.body).backgroundColor");
        let dark = ground.as_str().expect("a colour").trim_start_matches("rgb(").starts_with('1');
        assert_eq!(dark, look.scheme == "dark", "{look:?}: {ground}");
        browser.picture(&format!("{}-{}", look.scheme, look.width));
    }

    // It lives: nobody loads it again.
    browser.value("window.mark = 7");
    for _ in 0..10 {
        ask(front);
    }
    browser.await_true("connections to be seen", "document.querySelector('#listeners').textContent.includes('10')");
    let [kept, dies] = servers;
    drop(dies);
    browser.await_true("the server to be shown down", &format!("{} === 'down'", state_of("s1")));
    browser.await_true("the reason", "document.querySelector('#pools').textContent.includes('connection refused')");
    browser
        .await_true("the event", "document.querySelector('#events').textContent.includes('s1 of pool pool is down')");
    let read_out = "document.querySelector('[role=status]').textContent.includes('is down')";
    browser.await_true("it to be read out", read_out);
    assert_eq!(browser.value("document.title"), "(1 not up) ringway");
    browser.picture("one-is-down");
    browser.value("document.querySelector('#troubled').click()");
    let shown = "[...document.querySelectorAll('#pools tbody tr')].filter((tr) => tr.checkVisibility()).length";
    assert_eq!(browser.value(shown), 1, "only what is not up");
    browser.value("document.querySelector('#troubled').click()");

    // A reload is told, without what may be a secret.
    let check = "check = { type = \"http\", path = \"/s3cret\", interval = \"1s\" }";
    ringway.reload_with(&one_pool(front, &[kept.address()], check));
    browser
        .await_true("the reload", "document.querySelector('#reload-lines').textContent.includes('- server pool/s1')");
    let page = browser.value("document.documentElement.textContent").to_string();
    assert!(!page.contains("s3cret") && page.contains("check { type = \\\"tcp\\\", … }"), "{page}");
    browser.await_true("its server to be gone", &format!("{} === undefined", state_of("s1")));
    assert_eq!(browser.value("window.mark"), 7);

    let (requests, complaints) = browser.requests_and_complaints();
    assert_eq!(complaints, [""; 0]);
    assert!(requests.len() >= 8 && requests.iter().all(|request| request.starts_with(&url)), "{requests:?}");
    drop(browser);
    ringway.end_well();
}

#[test]
fn the_page_says_when_the_daemon_is_gone_and_comes_back_with_it() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let mut ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], CHECK));
    let mut browser = Browser::start(&ground);
    browser.open(&format!("http://{}/", ringway.admin()), LOOKS[0]);
    browser.await_true("the server", &format!("{} === 'up'", state_of("s0")));
    browser.value("window.mark = 7");
    assert!(ringway.verb(&["server", "set", "pool/s0", "--state", "drain"]).status.success());
    browser.await_true("it to drain", &format!("{} === 'drain'", state_of("s0")));
    ringway.signal(Signal::SIGKILL);
    browser.await_true("the silence", "document.querySelector('#link').textContent.includes('no word')");
    browser.await_true("the state", "document.querySelector('#health').textContent.includes('not known')");
    ringway.kill_and_start_again();
    browser.await_true("it to be back", "document.querySelector('#link').textContent === 'live'");
    browser.await_true("the server", &format!("{} === 'up'", state_of("s0")));
    let old = "document.querySelector('#events').textContent.includes('is drain')";
    assert_eq!(browser.value(old), false, "what another daemon said is gone");
    assert_eq!(browser.value("window.mark"), 7);
    drop(browser);
    ringway.end_well();
}

#[test]
fn the_page_can_be_used_by_keyboard_and_screen_reader() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], CHECK));
    ringway.reload_with(&one_pool(ground.address(), &[server.address()], CHECK));
    let mut browser = Browser::start(&ground);
    browser.open(&format!("http://{}/", ringway.admin()), LOOKS[0]);
    browser.await_true("the reload to be shown", "!document.querySelector('#reload-lines').hidden");
    browser.await_true("the server", &format!("{} === 'up'", state_of("s0")));
    browser.await_true("a plot", PLOTTED);
    let mut order = Vec::new();
    for _ in 0..5 {
        browser.press("Tab", 9);
        order.push(browser.value("document.activeElement.id || document.activeElement.className"));
    }
    assert_eq!(order, ["skip", "filter", "troubled", "events", "reload-lines"]);

    let found = browser.accessible();
    let has = |role: &str, name: &str| found.iter().any(|(r, n)| r == role && n == name);
    for (role, name) in [
        ("heading", "ringway"),
        ("heading", "Servers"),
        ("heading", "Listeners"),
        ("heading", "Events"),
        ("heading", "Last reload"),
        ("heading", "pool"),
        ("region", "Servers"),
        ("table", "pool"),
        ("table", "Listeners"),
        ("columnheader", "Failed"),
        ("searchbox", "Filter"),
        ("checkbox", "not up"),
        ("link", "Skip to servers"),
    ] {
        assert!(has(role, name), "{role} {name:?} is missing in {found:#?}");
    }
    assert!(found.iter().any(|(role, name)| role == "rowheader" && name.starts_with("s0")), "{found:#?}");
    assert!(found.iter().any(|(role, _)| role == "main") && found.iter().any(|(role, _)| role == "status"));
    let plots = found.iter().filter(|(role, name)| role == "image" && name.contains(": now ")).count();
    assert_eq!(plots, 5, "each plot says what it shows: {found:#?}");
    let nameless = ["link", "button", "searchbox", "checkbox", "image", "table", "region"];
    for (role, name) in &found {
        assert!(!nameless.contains(&role.as_str()) || !name.is_empty(), "a {role} without a name");
    }
    drop(browser);
    ringway.end_well();
}

#[test]
fn what_is_no_text_of_the_page_is_never_html() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let hostile = ground.file("<img src=x onerror='window.taken=1'>");
    let servers = [
        format!("{{ name = \"s0\", address = \"{}\" }}", server.address()),
        format!("{{ name = \"s1\", address = \"unix:{}\" }}", hostile.display()),
    ];
    let front = listener("front", &ground.address().to_string(), "pool");
    let ringway = Ringway::start(&ground, &(front + &pool("pool", &servers, CHECK)));
    let mut browser = Browser::start(&ground);
    browser.open(&format!("http://{}/", ringway.admin()), LOOKS[0]);
    browser.await_true("the text", "document.querySelector('#pools').textContent.includes('<img src=x onerror=')");
    browser.await_true("the other server", &format!("{} === 'up'", state_of("s0")));
    assert_eq!(browser.value("document.images.length === 0 && window.taken === undefined"), true);
    // Nor would a script that got in all the same be run: the policy names the digests of ours.
    let planted = "(() => { const s = document.createElement('script'); s.textContent = 'window.taken = 1'; \
                   document.body.append(s); return window.taken === undefined; })()";
    assert_eq!(browser.value(planted), true);
    drop(browser);
    ringway.end_well();
}

/// Asks for the stream and reads as far as the first frame begins.
fn watch(ringway: &Ringway) -> (TcpStream, String) {
    let mut stream = connect(ringway.admin());
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"event: all") && stream.read(&mut byte).expect("an answer") == 1 {
        answer.push(byte[0]);
    }
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn only_so_many_may_watch_and_the_rest_of_the_admin_server_answers() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let ringway = Ringway::start(&ground, &one_pool(ground.address(), &[server.address()], ""));
    let most = ringway::base::limits::WATCHERS_MAX;
    let mut watching = Vec::new();
    await_that("the first second", || {
        let (stream, answer) = watch(&ringway);
        let admitted = answer.starts_with("HTTP/1.1 200");
        watching.extend(admitted.then_some(stream));
        admitted
    });
    for _ in 1..most {
        let (stream, answer) = watch(&ringway);
        assert!(answer.contains("text/event-stream"), "{answer}");
        watching.push(stream);
    }
    let (status, body) = http_get(ringway.admin(), "/v1/events").expect("an answer");
    assert!(status == 503 && body.contains("watch"), "{status} {body}");
    assert_eq!(ringway.page("/readyz").0, 200);
    // HEAD asks what it would be, and takes no place.
    assert_eq!(http_over(connect(ringway.admin()), "HEAD", "/v1/events").expect("an answer").0, 200);
    watching.truncate(1);
    await_that("a place to be free again", || watch(&ringway).1.starts_with("HTTP/1.1 200"));
    drop(watching);
    ringway.end_well();
}

#[test]
fn one_who_does_not_read_is_dropped() {
    let ground = Ground::new();
    let server = Server::named(&ground, "a");
    let front = ground.address();
    let idle =
        |i| format!("{{ name = \"server-{i}\", address = \"10.1.{}.{}:80\", weight = 0 }}", i / 200, i % 200 + 1);
    let mut servers: Vec<String> = (0..4_000).map(idle).collect();
    servers.push(format!("{{ name = \"a\", address = \"{}\" }}", server.address()));
    let text = listener("front", &front.to_string(), "pool") + &pool("pool", &servers, "eject = \"off\"");
    let ringway = Ringway::start(&ground, &text);
    await_that("the first second", || watch(&ringway).1.starts_with("HTTP/1.1 200"));
    let (reads, _) = watch(&ringway);
    let (idle, _) = watch(&ringway);
    let reader = std::thread::spawn({
        let mut reads = reads.try_clone().expect("a second handle");
        move || std::io::copy(&mut reads, &mut std::io::sink())
    });
    await_that("two who watch", || connections_at(ringway.admin()) == 2);
    assert_eq!(ask(front), "a", "nobody else notices");
    // The first frame alone is more than the kernel keeps for it.
    await_that("the one who does not read to be dropped", || connections_at(ringway.admin()) == 1);
    assert!(!reader.is_finished(), "the one who reads goes on");
    reads.shutdown(Shutdown::Both).expect("its end");
    let read = reader.join().expect("no panic").expect("read to the end");
    assert!(read > 200_000, "the first frame is {read} bytes");
    drop((idle, reads));
    ringway.end_well();
}
