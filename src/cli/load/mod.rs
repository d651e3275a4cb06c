//! `ringway load`: a load generator and the servers it talks to.
//!
//! `serve` answers; `connect`, `request`, `stream` and `hold` ask. Each is a `gear::Drill` that one thread turns by
//! events; `run` has the threads, `tally` what they count, `report` how it is shown. On one core, generator, servers
//! and kernel together are the limit, so a path saves system calls: sends are tried at once, a short read is known to
//! be the last, bytes nobody looks at are dropped in the kernel.

pub mod arguments;
mod exchange;
mod gear;
mod hold;
mod pace;
mod pattern;
mod peer;
mod report;
mod run;
mod serve;
mod socket;
mod stream;
mod tally;
mod target;
mod units;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Map, Value, json};

use self::arguments::{Arguments, Common, Connect, Drill, Extent, Hold, Request, Serve, Stream};
use self::gear::Gear;
use self::peer::{Manner, Mode};
use self::report::Report;
use self::run::{Outcome, Part, run};
use self::serve::{Listener, Server};
use self::socket::{Close, Dialer};
use self::tally::Fault;
use super::exit;
use super::out::complain;

/// How long a run goes on when neither a duration nor a count is given.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);

/// Runs the drill the command line names.
pub fn main(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.drill {
        Drill::Serve(serve) => serve_main(serve),
        Drill::Connect(connect) => connect_main(connect),
        Drill::Request(request) => request_main(request),
        Drill::Stream(stream) => stream_main(stream),
        Drill::Hold(hold) => hold_main(hold),
    };
    match result {
        Ok(true) => ExitCode::from(exit::OK),
        Ok(false) => ExitCode::from(exit::FAILURE),
        Err(error) => {
            complain(format_args!("ringway load: {error:#}"));
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn serve_main(serve: &Serve) -> anyhow::Result<bool> {
    run::reserve_all_descriptors();
    let output = &serve.output;
    let mut sets: Vec<Vec<Listener>> = (0..output.threads).map(|_| Vec::new()).collect();
    for target in &serve.listen {
        let first = Listener::bind(target, output.threads > 1)?;
        for set in sets.iter_mut().skip(1) {
            set.push(first.again()?);
        }
        announce(&first, output.json)?;
        sets[0].push(first);
    }
    let manner = manner_of(serve);
    // Each thread takes its own set.
    let sets = Mutex::new(sets);
    let outcome = run(output.threads, output.progress, |_, mut gear, stop| {
        let set = sets.lock().ok().and_then(|mut sets| sets.pop());
        let duration_ns = serve.duration.map(nanoseconds);
        let mut server = Server::new(manner.clone(), set.unwrap_or_default(), duration_ns);
        server.start(&mut gear)?;
        gear.turn(&mut server, stop)
    })?;
    let asked = asked(json!({
        "mode": format!("{:?}", serve.mode).to_lowercase(),
        "threads": output.threads,
    }));
    print("serve", asked, &outcome, output.json)?;
    Ok(outcome.tally.faults_of(Fault::Mismatch) == 0)
}

/// Tells a script which address it got, before anything else is printed.
fn announce(listener: &Listener, as_json: bool) -> io::Result<()> {
    let address = listener.address().to_string();
    let mut out = io::stdout().lock();
    match as_json {
        true => writeln!(out, "{}", json!({ "listening": address }))?,
        false => writeln!(out, "listening {address}")?,
    }
    out.flush()
}

fn manner_of(serve: &Serve) -> Manner {
    let leave = match (serve.reset_after, serve.close_after) {
        (Some(bytes), _) => Some((bytes, Close::Reset)),
        (None, Some(bytes)) => Some((bytes, Close::Fin)),
        (None, None) => None,
    };
    Manner {
        mode: serve.mode,
        request_bytes: serve.request,
        answer_bytes: match (serve.mode, serve.bytes) {
            (Mode::Source, 0) => u64::MAX,
            (Mode::Source, bytes) => bytes,
            _ => serve.response,
        },
        name: serve.name.as_ref().map(|name| format!("{name}\n").into_bytes()).unwrap_or_default(),
        leave,
        delay: serve.delay,
        verify: serve.verify,
    }
}

fn connect_main(connect: &Connect) -> anyhow::Result<bool> {
    let plan = exchange_plan(&connect.extent, connect.request, connect.response, true);
    exchange_main("connect", &connect.common, plan)
}

fn request_main(request: &Request) -> anyhow::Result<bool> {
    let plan = exchange_plan(&request.extent, request.request, request.response, false);
    exchange_main("request", &request.common, plan)
}

/// What both kinds of exchange do, all threads together; connections and timeout are filled in later.
fn exchange_plan(extent: &Extent, request: u64, response: u64, fresh: bool) -> exchange::Plan {
    exchange::Plan {
        connections: 0,
        fresh,
        request_bytes: request,
        response_bytes: response,
        verify: extent.verify,
        rate: extent.rate,
        count: extent.count.unwrap_or(u64::MAX),
        duration_ns: duration_ns(extent.duration, extent.count.is_some()),
        timeout_ns: 0,
    }
}

fn exchange_main(kind: &'static str, common: &Common, whole: exchange::Plan) -> anyhow::Result<bool> {
    let asked = json!({
        "request_bytes": whole.request_bytes,
        "response_bytes": whole.response_bytes,
        "rate_asked": whole.rate,
    });
    generate(kind, common, asked, |part, gear, stop| {
        let plan = exchange::Plan {
            connections: part.share(common.connections) as usize,
            rate: whole.rate.map(|rate| rate / part.of as f64),
            count: match whole.count {
                u64::MAX => u64::MAX,
                count => part.share(count),
            },
            timeout_ns: nanoseconds(common.timeout),
            ..whole
        };
        gear.turn(&mut exchange::Exchange::new(plan, dialer(common)?), stop)
    })
}

fn stream_main(stream: &Stream) -> anyhow::Result<bool> {
    let asked = json!({
        "direction": format!("{:?}", stream.direction).to_lowercase(),
        "bytes_asked": stream.bytes,
        "verify": stream.verify,
    });
    let common = &stream.common;
    generate("stream", common, asked, |part, gear, stop| {
        let plan = stream::Plan {
            connections: part.share(common.connections) as usize,
            direction: stream.direction,
            bytes: stream.bytes,
            verify: stream.verify,
            duration_ns: duration_ns(stream.duration, stream.bytes.is_some()),
            timeout_ns: nanoseconds(common.timeout),
        };
        gear.turn(&mut stream::Stream::new(plan, dialer(common)?), stop)
    })
}

fn hold_main(hold: &Hold) -> anyhow::Result<bool> {
    let common = &hold.common;
    generate("hold", common, json!({}), |part, gear, stop| {
        let plan = hold::Plan {
            connections: part.share(common.connections) as usize,
            duration_ns: nanoseconds(hold.duration),
            ramp: hold.ramp.map(|rate| rate / part.of as f64),
            ping_ns: hold.ping.map(nanoseconds),
            timeout_ns: nanoseconds(common.timeout),
        };
        gear.turn(&mut hold::Hold::new(plan, dialer(common)?), stop)
    })
}

/// Runs a generator on its threads, and reports. True when there were no errors, or they are allowed.
fn generate<F>(kind: &'static str, common: &Common, details: Value, body: F) -> anyhow::Result<bool>
where
    F: Fn(Part, Gear, &std::sync::atomic::AtomicBool) -> io::Result<tally::Tally> + Sync,
{
    run::reserve_descriptors(common.connections)?;
    let threads = common.output.threads.min(common.connections);
    let outcome = run(threads, common.output.progress, body).context(kind)?;
    let mut asked = asked(json!({
        "target": common.target.to_string(),
        "connections": common.connections,
        "threads": threads,
    }));
    asked.extend(self::asked(details));
    print(kind, asked, &outcome, common.output.json)?;
    Ok(outcome.tally.faults() == 0 || common.allow_errors)
}

fn print(kind: &'static str, asked: Map<String, Value>, outcome: &Outcome, as_json: bool) -> anyhow::Result<()> {
    let report = Report { kind, asked, tally: &outcome.tally, interrupted: outcome.interrupted };
    report.print(as_json).context("cannot write the report")
}

fn dialer(common: &Common) -> io::Result<Dialer> {
    Dialer::new(&common.target, &common.source, common.close)
}

/// How long a run starts operations: what was asked, else until `counted` is done, else the default.
fn duration_ns(asked: Option<Duration>, counted: bool) -> u64 {
    nanoseconds(match asked {
        Some(duration) => duration,
        None if counted => units::DURATION_MAX,
        None => DURATION_DEFAULT,
    })
}

/// No duration that can be asked for is longer than a day, so this never cuts one.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn asked(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
