//! `config/openapi.json` names exactly what the admin server has: every path and method, every field of every answer, and what
//! may be asked. Answers are those of the real server where it needs no conductor; the others are written down here field by
//! field, so that a new one does not compile until it stands here, and does not pass until it stands in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use ringway::config::ledger::{Registry, Standing};
use ringway::config::parse;
use ringway::control::admin::{History, ROUTES, conversation};
use ringway::control::evener::{Rebalance, Rebalanced, Uneven};
use ringway::control::failure::Kind;
use ringway::control::reload::Answer;
use ringway::control::roster::{Edited, InForce, ServerAdd, ServerRemove};
use ringway::control::sessions::{Kill, Killed, SessionStatus, Sessions};
use ringway::control::span::Span;
use ringway::control::steer::{Drain, Drained, ServerChange, ServerChanged};
use ringway::dataplane::commons::{Commons, Scene};
use ringway::observe::history::Sample;
use ringway::observe::panel::{EngineChoice, LastReload, Panel};
use ringway::observe::recent::Told;
use ringway::observe::status::Latency;
use serde_json::Value;

fn document() -> Value {
    serde_json::from_str(include_str!("../config/openapi.json")).expect("config/openapi.json is JSON")
}

fn panel() -> Arc<Panel> {
    let text = "[listeners.l]\nbind = '127.0.0.1:9'\npool = 'p'\n[pools.p]\nservers = [{ name = 's', address = \
                '127.0.0.1:1' }]\n";
    let draft = parse("t.toml", text, &|_| None).unwrap_or_else(|complaints| panic!("{complaints}"));
    let plan = Arc::new(draft.compile(&mut Registry::new(1), None));
    let commons = Arc::new(Commons::new(1, Scene { plan, doors: Vec::new() }, 10));
    Arc::new(Panel::new(commons, EngineChoice { name: "io_uring", reason: "preferred" }, Arc::default()))
}

/// Status, content type and body of what the server answers.
fn ask(method: &str, target: &str, body: &str, all_rights: bool) -> (u16, String, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = conversation(&panel(), "# the file\n", request.as_bytes(), all_rights);
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let kind = head.lines().find_map(|line| line.strip_prefix("content-type: ")).unwrap_or_default();
    (status, kind.to_owned(), body.to_owned())
}

/// Holds values against schemas, and remembers which fields it has seen.
struct Checker {
    document: Value,
    wrong: String,
    seen: BTreeSet<String>,
}

impl Checker {
    fn new() -> Self {
        Self { document: document(), wrong: String::new(), seen: BTreeSet::new() }
    }

    /// `value` is what schema `name` says, and has no field that is not in it.
    fn check(&mut self, name: &str, value: &Value) {
        let schema = self.document["components"]["schemas"][name].clone();
        assert!(schema.is_object(), "there is no schema {name}");
        self.hold(name, &schema, value);
    }

    fn hold(&mut self, place: &str, schema: &Value, value: &Value) {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.strip_prefix("#/components/schemas/").expect("a schema of ours").to_owned();
            return self.check(&name, value);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            let choice = choices.iter().find(|choice| (choice["type"] == "null") == value.is_null());
            return match choice {
                Some(choice) => self.hold(place, &choice.clone(), value),
                None => drop(writeln!(self.wrong, "{place}: {value} is none of them")),
            };
        }
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_u64() => "integer",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            one => vec![one.clone()],
        };
        if !types.iter().any(|wanted| wanted == kind || wanted == "number" && kind == "integer") {
            let _ = writeln!(self.wrong, "{place}: {value} is no {types:?}");
        }
        if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
            let _ = writeln!(self.wrong, "{place}: {value} is not in the list");
        }
        for item in value.as_array().into_iter().flatten() {
            self.hold(place, &schema["items"], item);
        }
        for (key, field) in value.as_object().into_iter().flatten() {
            match (&schema["properties"][key], &schema["additionalProperties"]) {
                (Value::Object(property), _) => {
                    self.seen.insert(format!("{place}.{key}"));
                    self.hold(&format!("{place}.{key}"), &Value::Object(property.clone()), field);
                }
                (_, Value::Object(any)) => self.hold(place, &Value::Object(any.clone()), field),
                _ => drop(writeln!(self.wrong, "{place}.{key} is not in the file")),
            }
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            if value.get(required.as_str().expect("a name")).is_none() {
                let _ = writeln!(self.wrong, "{place}: {required} is required, and not there");
            }
        }
    }
}

fn latency() -> Latency {
    Latency { count: 1, p50_us: Some(2), p99_us: None }
}

/// Answers and questions that need a conductor or a past, with every field.
fn samples() -> Vec<(&'static str, Value)> {
    let history = History {
        samples: vec![Sample {
            number: 1,
            unix_ms: 2,
            sessions: 3,
            accepted_s: 0.5,
            failed_s: 0.5,
            bytes_in_s: 0.5,
            bytes_out_s: 0.5,
            connect: latency(),
            first_byte: latency(),
        }],
        events: vec![Told {
            number: 1,
            unix_ms: 2,
            level: "info".into(),
            event: "started".into(),
            message: "ready".into(),
        }],
        reload: Some(LastReload { unix_ms: 1, applied: true, generation: 2, lines: vec!["+".into()], more: 3 }),
    };
    let session = SessionStatus {
        session: "0-1".into(),
        client: Some("10.0.0.1:2".into()),
        listener: "l".into(),
        pool: "p".into(),
        server: None,
        state: "queued".into(),
        age_s: 0.5,
        idle_s: 0.5,
        bytes_in: 1,
        bytes_out: 2,
    };
    let answer = Answer {
        applied: false,
        generation: 1,
        changes: vec!["+".into()],
        needs_restart: vec!["x".into()],
        complaints: vec!["x".into()],
        report: "x".into(),
        kind: Some(Kind::Config),
    };
    let changed = ServerChanged {
        was: Standing::Ready,
        state: Standing::Maint,
        weight: 1,
        max_connections: 2,
        sessions: 3,
        pool_is_down: true,
        kept_in: Some("x".into()),
    };
    let change = ServerChange {
        pool: "p".into(),
        server: "s".into(),
        state: Some(Standing::Drain),
        weight: Some(1),
        max_connections: Some(2),
        over: Some(Span::of_seconds(60)),
        close: true,
        persist: true,
    };
    let drain = Drain { undo: true, over: Some(Span::of_seconds(60)), close: true };
    let rebalance = Rebalance { pool: "p".into(), over: Some(Span::of_seconds(60)), dry_run: true, stop: true };
    let uneven = Uneven { server: "s".into(), role: Some("primary".into()), sessions: 1, share: 2, excess: 3, idle: 4 };
    let rebalanced = Rebalanced { pool: "p".into(), excess: 1, ended: 2, servers: vec![uneven] };
    let add = ServerAdd {
        pool: "p".into(),
        server: "s".into(),
        address: "10.0.0.1:80".into(),
        weight: Some(1),
        max_connections: Some(2),
        backup: true,
        persist: true,
    };
    let remove = ServerRemove { pool: "p".into(), server: "s".into(), persist: true };
    let edited = Edited { generation: 2, changes: vec!["+".into()], sessions: 3, kept_in: Some("x".into()) };
    let laid_over = InForce { path: Some("x".into()), kept: "x".into(), passing: "x".into() };
    let value = |value: Result<Value, serde_json::Error>| value.expect("our own types serialise");
    vec![
        ("History", value(serde_json::to_value(history))),
        ("Sessions", value(serde_json::to_value(Sessions { found: 1, complete: true, sessions: vec![session] }))),
        ("Reload", value(serde_json::to_value(answer))),
        ("ServerChanged", value(serde_json::to_value(changed))),
        ("ServerChange", value(serde_json::to_value(change))),
        ("Drain", value(serde_json::to_value(drain))),
        ("Drained", value(serde_json::to_value(Drained { ready: true, sessions: 1 }))),
        ("Rebalance", value(serde_json::to_value(rebalance))),
        ("Rebalanced", value(serde_json::to_value(rebalanced))),
        ("ServerAdd", value(serde_json::to_value(add))),
        ("ServerRemove", value(serde_json::to_value(remove))),
        ("Edited", value(serde_json::to_value(edited))),
        ("Overlay", value(serde_json::to_value(laid_over))),
        ("Kill", value(serde_json::to_value(Kill { sessions: vec!["0-1".into()] }))),
        ("Killed", value(serde_json::to_value(Killed { ended: vec!["0-1".into()], unknown: vec!["0-2".into()] }))),
    ]
}

#[test]
fn every_path_and_method_is_there() {
    let document = document();
    let ours: BTreeMap<&str, (&str, bool)> =
        ROUTES.iter().map(|route| (route.path, (if route.changes { "post" } else { "get" }, route.private))).collect();
    let mut theirs = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let methods = methods.as_object().expect("methods");
        assert_eq!(methods.len(), 1, "{path}");
        for (method, operation) in methods {
            let private = operation["x-unix-socket-only"] == true;
            assert_eq!(operation["responses"]["403"].is_object(), private, "{path}");
            assert!(ids.insert(operation["operationId"].as_str().expect("an id").to_owned()), "{path}");
            theirs.insert(path.as_str(), (method.as_str(), private));
        }
    }
    assert_eq!(theirs, ours);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn every_field_is_there() {
    let mut checker = Checker::new();
    for (target, schema) in [
        ("/v1/status", "Status"),
        ("/v1/info", "Info"),
        ("/v1/history", "History"),
        ("/v1/explain?listener=l&source=10.0.0.1", "Explanation"),
    ] {
        let (status, kind, body) = ask("GET", target, "", false);
        assert_eq!((status, kind.as_str()), (200, "application/json"), "{target}: {body}");
        checker.check(schema, &serde_json::from_str(&body).expect("JSON"));
    }
    for (schema, value) in samples() {
        checker.check(schema, &value);
    }
    for (method, target, body, all_rights, wanted) in [
        ("GET", "/nowhere", "", true, 404),
        ("DELETE", "/v1/status", "", true, 405),
        ("GET", "/v1/config", "", false, 403),
        ("POST", "/v1/kill", "", false, 403),
        ("POST", "/v1/kill", "{}", true, 400),
        ("POST", "/v1/server", "{\"pool\":\"p\",\"server\":\"s\"}", true, 400),
        ("POST", "/v1/server/add", "{\"pool\":\"p\",\"server\":\"s\"}", true, 400),
        ("POST", "/v1/server/remove", "{}", true, 400),
        ("POST", "/v1/drain", "{\"now\":true}", true, 400),
        ("POST", "/v1/drain", "{\"close\":true}", true, 400),
        ("POST", "/v1/rebalance", "{}", true, 400),
        ("GET", "/v1/overlay", "", false, 403),
        ("GET", "/v1/explain?listener=x", "", false, 404),
        ("GET", "/v1/sessions?limit=0", "", true, 400),
        // There is no conductor here.
        ("POST", "/v1/reload", "", true, 503),
    ] {
        let (status, kind, body) = ask(method, target, body, all_rights);
        assert_eq!((status, kind.as_str()), (wanted, "application/problem+json"), "{method} {target}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["status"], wanted, "{body}");
        checker.check("Problem", &body);
        let path = target.split('?').next().expect("a path");
        let operation = &checker.document["paths"][path][method.to_lowercase()];
        let responses = &operation["responses"];
        assert!(operation.is_null() || responses[wanted.to_string()].is_object(), "{method} {target}: {wanted}");
    }
    // A reload that is refused is a problem, and an answer.
    let schemas = &checker.document["components"]["schemas"];
    let fields = |name: &str| -> BTreeSet<String> {
        schemas[name]["properties"].as_object().expect("fields").keys().cloned().collect()
    };
    assert_eq!(fields("NotApplied"), &fields("Problem") | &fields("Reload"));

    let mut unseen: BTreeSet<String> = schemas
        .as_object()
        .expect("schemas")
        .keys()
        .filter(|name| *name != "NotApplied")
        .flat_map(|name| fields(name).into_iter().map(move |field| format!("{name}.{field}")))
        .collect();
    unseen.retain(|field| !checker.seen.contains(field));
    assert!(checker.wrong.is_empty(), "what the server says is not what config/openapi.json says:\n{}", checker.wrong);
    assert!(unseen.is_empty(), "config/openapi.json has fields that nobody sends: {unseen:?}");
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let text = document.to_string();
    let schemas: BTreeSet<&str> =
        document["components"]["schemas"].as_object().expect("schemas").keys().map(String::as_str).collect();
    let used: BTreeSet<&str> =
        text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(used, schemas, "each schema is there, and used");
}
