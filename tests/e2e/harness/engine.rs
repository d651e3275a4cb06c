//! Which engine this pass of the tests is about: `RINGWAY_TEST_ENGINE`, `io_uring` (the default) or `epoll`.
//!
//! Every test runs in both passes. The few that are about one engine, or about the choice between them, begin with
//! [`in_pass`] and have their say in one of them only.

/// The engine every daemon of this pass is configured with. Never `auto`: a fallback nobody asked for is a failure here.
pub fn name() -> &'static str {
    match std::env::var("RINGWAY_TEST_ENGINE").as_deref() {
        Err(_) | Ok("" | "io_uring") => "io_uring",
        Ok("epoll") => "epoll",
        Ok(other) => panic!("RINGWAY_TEST_ENGINE is {other:?}; it may be io_uring or epoll"),
    }
}

/// True in the pass of `engine`; says so when it is another.
pub fn in_pass(engine: &str) -> bool {
    let right = name() == engine;
    if !right {
        println!("nothing to do: this test belongs to the pass of {engine}");
    }
    right
}
