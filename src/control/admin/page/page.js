"use strict";
// The status page: reads /v1/events and shows it. Everything that comes is put in as text.

const SAMPLES = 300, EVENTS = 200;
const SIGNS = { up: "▲", down: "▼", drain: "◇", maint: "■", ejected: "⊘", starting: "△", unknown: "◌" };
const $ = (id) => document.getElementById(id);

let about = null, layout = null, rows = new Map(), samples = [], events = [];
let heard = Date.now();

// Figures for people.

const count = (n) => (n < 1e4 ? String(Math.round(n)) : n < 1e6 ? (n / 1e3).toFixed(1) + " k" : (n / 1e6).toFixed(1) + " M");
const rate = (n) => (n === 0 ? "0" : n < 100 ? n.toFixed(1) : count(n));
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return (i === 0 ? Math.round(n) : n.toFixed(1)) + " " + units[i];
}
function micros(us) {
  if (us === null || us === undefined) return "–";
  return us < 1e3 ? Math.round(us) + " µs" : us < 1e6 ? (us / 1e3).toFixed(1) + " ms" : (us / 1e6).toFixed(1) + " s";
}
function span(s) {
  const of = (n, one, m, two) => Math.floor(n) + " " + one + " " + Math.floor(m) + " " + two;
  if (s < 60) return s + " s";
  if (s < 3600) return of(s / 60, "min", s % 60, "s");
  return s < 86400 ? of(s / 3600, "h", (s / 60) % 60, "min") : of(s / 86400, "d", (s / 3600) % 24, "h");
}

// Elements.

function make(name, text, kind) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (kind) element.className = kind;
  return element;
}
function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function chip(element, state, word) {
  element.className = "chip " + state;
  element.replaceChildren(make("span", SIGNS[state] ?? "◌"), " ", make("span", word ?? state));
  element.firstChild.setAttribute("aria-hidden", "true");
}
function cell(row, label, numeric) {
  const td = make("td", "", numeric ? "n" : "");
  td.dataset.label = label;
  const value = make("span");
  td.append(value);
  row.append(td);
  return value;
}
function headed(row, name, small) {
  const th = make("th", name);
  th.scope = "row";
  if (small) th.append(make("small", small));
  row.append(th);
}

// Plots: up to two lines over the samples, gaps where there is nothing to show.

const PLOTS = [
  { name: "Connections", unit: rate, per: "/s", lines: [["accepted", (s) => s.accepted_s], ["failed", (s) => s.failed_s]] },
  { name: "Sessions", unit: count, per: "", lines: [["open", (s) => s.sessions]] },
  { name: "Bytes", unit: bytes, per: "/s", lines: [["in", (s) => s.bytes_in_s], ["out", (s) => s.bytes_out_s]] },
  { name: "First byte", unit: micros, per: "", lines: [["p50", (s) => s.first_byte.p50_us], ["p99", (s) => s.first_byte.p99_us]] },
  { name: "Connect", unit: micros, per: "", lines: [["p50", (s) => s.connect.p50_us], ["p99", (s) => s.connect.p99_us]] },
];
for (const plot of PLOTS) {
  const figure = $("plot-template").content.cloneNode(true).firstElementChild;
  figure.querySelector(".name").textContent = plot.name;
  plot.svg = figure.querySelector("svg");
  plot.svg.setAttribute("aria-label", plot.name);
  plot.legend = figure.querySelector(".legend");
  plot.values = plot.lines.map(([name]) => {
    const value = make("b", "–"), entry = make("span");
    entry.append(value, " " + name);
    plot.legend.append(entry);
    return value;
  });
  plot.top = figure.querySelector(".top");
  $("plots").append(figure);
}
function line(values, most) {
  let path = "", pen = false;
  values.forEach((value, i) => {
    if (value === null || value === undefined) return void (pen = false);
    const x = 300 - (values.length - 1 - i) * (300 / (SAMPLES - 1)), y = 79 - (value / most) * 76;
    // A single point is a short stroke, or it would not be seen.
    path += (pen ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1) + (pen ? "" : "h.6");
    pen = true;
  });
  return path;
}
function draw() {
  for (const plot of PLOTS) {
    const all = plot.lines.map(([, read]) => samples.map(read));
    const most = Math.max(...all.flat().filter((value) => value > 0), 0);
    const [first, second] = all.map((values) => line(values, most || 1));
    plot.svg.querySelector(".first").setAttribute("d", first);
    plot.svg.querySelector(".second").setAttribute("d", second ?? "");
    const begin = 300 - (samples.length - 1) * (300 / (SAMPLES - 1));
    const filled = !first || plot.unit === micros ? "" : first + "L300 79L" + begin.toFixed(1) + " 79Z";
    plot.svg.querySelector(".area").setAttribute("d", filled);
    const last = all.map((values) => values.at(-1));
    const shown = last.map((value) => (value === null || value === undefined ? "–" : plot.unit(value) + plot.per));
    plot.values.forEach((value, i) => say(value, shown[i]));
    say(plot.top, "top " + plot.unit(most) + plot.per);
    const named = plot.lines.map(([name], i) => name + " " + shown[i]).join(", ");
    plot.svg.setAttribute("aria-label", plot.name + ": now " + named + "; at most " + plot.unit(most) + plot.per);
  }
}

// Tables: built when the configuration is another one, then filled row by row.

function build() {
  rows = new Map();
  $("pools").replaceChildren(...layout.pools.map((pool, i) => buildPool(pool, i)));
  $("listeners").replaceChildren(...layout.listeners.map((listener, i) => {
    const tr = make("tr");
    headed(tr, listener.name);
    say(cell(tr, "Address"), listener.binds.join(", "));
    say(cell(tr, "Pool"), listener.pool);
    const [sessions, rates, accepted, failed, bytesIn, bytesOut] =
      ["Sessions", "Accepted/s", "Accepted", "Failed", "In/s", "Out/s"].map((label) => cell(tr, label, true));
    rows.set("l" + i, (row) => {
      say(sessions, count(row.sessions ?? 0));
      say(rates, rate(row.accepted_s ?? 0));
      say(accepted, count(row.accepted ?? 0));
      say(failed, count(row.failed ?? 0));
      failed.className = row.failed ? "bad" : "";
      say(bytesIn, bytes(row.in_s ?? 0));
      say(bytesOut, bytes(row.out_s ?? 0));
    });
    return tr;
  }));
}
function buildPool(pool, i) {
  const article = $("pool-template").content.cloneNode(true).firstElementChild;
  const title = article.querySelector("h3"), terms = article.querySelector(".terms");
  title.textContent = pool.name;
  title.id = "pool-" + i;
  article.querySelector("table").setAttribute("aria-labelledby", title.id);
  article.classList.toggle("plain", !pool.roles);
  const p = (latency) => micros(latency?.p50_us) + " / " + micros(latency?.p99_us);
  rows.set("p" + i, (row) => {
    const parts = [pool.policy, "connect p50 / p99 " + p(row.connect), "first byte " + p(row.first_byte)];
    if (row.waiting) parts.push(row.waiting + " waiting");
    if (row.retries) parts.push(count(row.retries) + " retries");
    say(terms, parts.join(" · "));
  });
  article.querySelector("tbody").append(...pool.servers.map((server, j) => buildServer(pool, server, i + "/" + j)));
  return article;
}
function buildServer(pool, server, key) {
  const tr = make("tr");
  headed(tr, server.name, server.address + (server.backup ? " · backup" : ""));
  const stateCell = make("td"), state = make("span"), reason = make("small", "", "reason");
  stateCell.append(state, reason);
  tr.append(stateCell);
  const role = make("td", "", "role");
  if (pool.roles) role.dataset.label = "Role";
  tr.append(role);
  const [sessions, rates, connects, failed, bytesIn, bytesOut, weight] =
    ["Sessions", "Connects/s", "Connects", "Failed", "In/s", "Out/s", "Weight"].map((label) => cell(tr, label, true));
  tr.dataset.words = (pool.name + "/" + server.name + " " + server.address).toLowerCase();
  rows.set("s" + key, (row) => {
    if (tr.dataset.state !== row.state) {
      chip(state, row.state);
      tr.classList.toggle("turned", tr.dataset.state !== undefined);
      tr.dataset.state = row.state;
    }
    say(reason, row.reason ?? "");
    say(role, row.role ? row.role + (row.lag_s === undefined ? "" : ", " + row.lag_s + " s behind") : "");
    say(sessions, count(row.sessions ?? 0) + (row.max_connections ? " / " + count(row.max_connections) : ""));
    say(rates, rate(row.connects_s ?? 0));
    say(connects, count(row.connects ?? 0));
    say(failed, count(row.failed ?? 0));
    failed.className = row.failed ? "bad" : "";
    say(bytesIn, bytes(row.in_s ?? 0));
    say(bytesOut, bytes(row.out_s ?? 0));
    say(weight, String(row.weight));
  });
  return tr;
}
function sift() {
  const words = $("filter").value.trim().toLowerCase(), troubled = $("troubled").checked;
  for (const article of $("pools").children) {
    let left = 0;
    for (const tr of article.querySelectorAll("tbody tr")) {
      tr.hidden = !tr.dataset.words.includes(words) || (troubled && tr.dataset.state === "up");
      left += tr.hidden ? 0 : 1;
    }
    article.hidden = left === 0 && (words !== "" || troubled);
  }
}

// The rest of the page.

function showAbout() {
  const draining = about.state === "draining";
  const servers = [...document.querySelectorAll("#pools tr[data-state]")];
  const up = servers.filter((tr) => tr.dataset.state === "up").length;
  chip($("health"), draining ? "drain" : "up", about.state);
  const why = ["preferred", "configured"].includes(about.engine_reason) ? "" : " (io_uring is refused: " + about.engine_reason + ")";
  say($("engine"), about.version + " · " + about.engine + why);
  say($("fact-sessions"), count(about.sessions) + " of " + count(about.max_connections));
  say($("fact-up"), up + " of " + servers.length);
  say($("fact-descriptors"), count(about.descriptors) + " of " + count(about.descriptors_max));
  say($("fact-generation"), String(about.generation) + (about.last_reload_successful ? "" : ", a newer one is refused"));
  say($("fact-uptime"), span(about.uptime_s));
  document.title = (up < servers.length ? "(" + (servers.length - up) + " not up) " : "") + "ringway";
  const workers = $("workers");
  while (workers.children.length > about.workers.length) workers.lastChild.remove();
  about.workers.forEach((sessions, i) => {
    const item = workers.children[i] ?? workers.appendChild(make("li"));
    say(item, "worker " + i + ": " + count(sessions) + " sessions");
  });
}
function stamp(unixMs) {
  const date = new Date(unixMs), time = make("time", date.toLocaleTimeString([], { hour12: false }));
  time.dateTime = date.toISOString();
  return time;
}
function showEvents(fresh) {
  for (const event of fresh) {
    const item = make("li", "", event.level);
    item.append(stamp(event.unix_ms));
    if (event.level !== "info") item.append(make("b", event.level), " ");
    item.append(event.message);
    $("events").prepend(item);
    // Read out only what somebody may have to act on.
    if (event.level !== "info" && samples.length) say($("announcements"), event.message);
  }
  while ($("events").children.length > EVENTS) $("events").lastChild.remove();
}
function showReload(reload) {
  const result = $("reload-result"), list = $("reload-lines");
  result.replaceChildren(
    reload.applied ? "Applied" : make("b", "Refused", "bad"), " at ", stamp(reload.unix_ms), ": configuration ",
    String(reload.generation), reload.applied ? " is in force." : " goes on. The log says why; it is about:",
  );
  const signs = { "+": "plus", "-": "minus", "~": "tilde" };
  const lines = reload.lines.map((text) => make("li", text, signs[text[0]]));
  if (reload.more) lines.push(make("li", "and " + reload.more + " more"));
  if (!reload.lines.length) lines.push(make("li", "nothing changed"));
  list.replaceChildren(...lines);
  list.hidden = false;
}

// The stream.

function take(frame, kind) {
  heard = Date.now();
  about = frame.about;
  if (frame.layout) {
    layout = frame.layout;
    build();
  }
  for (const [prefix, part] of [["l", frame.listeners], ["p", frame.pools], ["s", frame.servers]])
    for (const [key, row] of Object.entries(part)) rows.get(prefix + key)?.(row);
  if (frame.layout || Object.keys(frame.servers).length) sift();
  if (kind === "all") {
    samples = [];
    $("events").replaceChildren();
  }
  showEvents(frame.events);
  samples = samples.concat(frame.samples).slice(-SAMPLES);
  if (frame.reload) showReload(frame.reload);
  showAbout();
  if (frame.samples.length) draw();
  link(true);
}
function link(there) {
  const lost = $("link");
  lost.className = there ? "" : "lost";
  say(lost, there ? "live" : "no word from ringway for " + span(Math.round((Date.now() - heard) / 1000)));
  if (!there) chip($("health"), "unknown", "not known");
}

let stream = null;
function open() {
  stream?.close();
  stream = new EventSource("/v1/events");
  for (const kind of ["all", "again", "some"])
    stream.addEventListener(kind, (event) => take(JSON.parse(event.data), kind));
  // A refusal ends an EventSource for good: then it is opened anew below.
}
let tried = Date.now();
setInterval(() => {
  const silent = Date.now() - heard;
  if (silent > 4000) link(false);
  if (silent > 15000 && Date.now() - tried > 15000 || stream.readyState === EventSource.CLOSED && Date.now() - tried > 5000) {
    tried = Date.now();
    open();
  }
}, 1000);
$("filter").addEventListener("input", sift);
$("troubled").addEventListener("change", sift);
open();
