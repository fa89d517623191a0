// The status page of wsbridge: asks the admin API every two seconds, and shows what it answers. Everything that comes
// from there is put into the page as text (textContent, title), never as markup.

import { draw, History, newSpark } from "./chart.js";
import { duration, filtered, MAX_NARROW_ROWS, MAX_ROWS, rate, rowsOf, shortTime, size, sorted, stateOf, sumOf, timeOfDay, VIEWS, withRates } from "./model.js";

const INTERVAL = 2000; // milliseconds between two rounds of requests
const TIMEOUT = 10_000; // milliseconds that a request may take
const SLOW = 5; // seconds; a connection that is blocked for longer is marked

const narrow = matchMedia("(max-width: 760px)"); // as in style.css

const find = (id) => document.getElementById(id);

let token = null; // in memory only
let snapshot = null; // with rates
let timer = null;
let isAsking = false;
let isPaused = false;
let view = "connections";
let wanted = "";
const order = Object.fromEntries(Object.entries(VIEWS).map(([name, one]) => [name, { label: one.sort, reversed: false }]));
const rates = new History();
const counts = new History();
const routeRates = new Map(); // History by the name of a route

class RequestError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function show(id, text) {
  const element = find(id);
  if (element.textContent !== text) element.textContent = text;
}

function mark(element, name, on) {
  element.classList.toggle(name, Boolean(on));
}

// Requests

async function get(path) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const signal = AbortSignal.timeout(TIMEOUT);
  const options = { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  const response = await fetch(path, options);
  if (!response.ok) throw new RequestError(response.status, (await response.text()).slice(0, 500).trim());
  return response.json();
}

async function ask() {
  const status = await get("/v1/status"); // alone, so that a wrong token is one rejected request
  const [routes, listeners, live] = await Promise.all(["/v1/routes", "/v1/listeners", "/v1/connections"].map(get));
  const { connections, ended, total } = live;
  return { at: performance.now(), status, routes, listeners, connections, ended, total };
}

async function round() {
  clearTimeout(timer);
  if (isAsking || isPaused || document.hidden) return;
  isAsking = true;
  try {
    const answer = await ask();
    const reasons = new Map(answer.ended.map((row) => [row.route, row.reason]).reverse());
    answer.routes = answer.routes.map((row) => ({ last_reason: reasons.get(row.route), ...row }));
    accept(withRates(answer, snapshot));
  } catch (error) {
    if (!(error instanceof RequestError) && error.name !== "TimeoutError" && !(error instanceof TypeError) && !(error instanceof SyntaxError)) throw error;
    fail(error);
  } finally {
    isAsking = false;
    if (document.body.dataset.phase !== "login") timer = setTimeout(round, INTERVAL);
  }
}

function accept(next) {
  const isNew = !snapshot || snapshot.status.pid !== next.status.pid || snapshot.status.started !== next.status.started;
  if (isNew) for (const history of [rates, counts, ...routeRates.values()]) history.clear();
  snapshot = next;
  document.body.dataset.phase = "live";
  find("problem").hidden = true;
  find("login").hidden = true;
  find("main").hidden = false;
  remember();
  showStatus();
  showTable();
}

function fail(error) {
  if (error.status === 401) {
    token = null;
    login(document.body.dataset.phase === "starting" ? "" : "The token is not valid (any more).");
    return;
  }
  document.body.dataset.phase = "gone";
  const why = error instanceof RequestError ? `${error.message} (status ${error.status})` : "wsbridge does not answer";
  const last = snapshot === null ? "" : ` What is shown is of ${find("about").dataset.time}.`;
  show("problem", `Not reachable, retrying: ${why}.${last}`);
  find("problem").hidden = false;
  showState("not reachable", "bad");
}

// Token

function login(problem) {
  document.body.dataset.phase = "login";
  find("main").hidden = true;
  find("problem").hidden = true;
  find("login").hidden = false;
  find("login-problem").hidden = !problem;
  show("login-problem", problem);
  showState("token required", "wait");
  find("token").focus();
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("token").value.trim();
  find("token").value = "";
  if (!/^[ -~]+$/.test(given)) {
    login("A token has printable ASCII characters only.");
    return;
  }
  token = given;
  document.body.dataset.phase = "checking";
  round();
});

// The daemon

function remember() {
  const now = snapshot.at;
  counts.add(now, [snapshot.status.connections]);
  if (snapshot.routes.some((row) => Number.isFinite(row.rate_to_client))) {
    rates.add(now, [sumOf(snapshot.routes, "rate_to_backend"), sumOf(snapshot.routes, "rate_to_client")]);
  }
  for (const name of routeRates.keys()) {
    if (!snapshot.routes.some((row) => row.route === name)) routeRates.delete(name);
  }
  for (const row of snapshot.routes.slice(0, MAX_ROWS)) {
    if (!Number.isFinite(row.rate_to_client)) continue;
    if (!routeRates.has(row.route)) routeRates.set(row.route, new History());
    routeRates.get(row.route).add(now, [row.rate_to_backend ?? 0, row.rate_to_client ?? 0]);
  }
}

function showState(text, quality) {
  show("state", text);
  find("pill").dataset.quality = quality;
}

function showStatus() {
  const { status, routes } = snapshot;
  showState(...stateOf(status));
  find("about").dataset.time = new Date().toLocaleTimeString([], { hour12: false });
  show("about", `version ${status.version}, engine ${status.engine}, pid ${status.pid}, up ${duration(status.uptime_seconds)}`);
  show("connections", String(status.connections));
  const away = status.sessions_detached ? `; ${status.sessions_detached} detached sessions` : "";
  show("connections-limit", `of at most ${status.connections_limit}${away}`);
  mark(find("connections").parentElement, "bad", status.connections >= status.connections_limit);
  const hasRates = routes.some((row) => Number.isFinite(row.rate_to_client));
  for (const side of ["backend", "client"]) {
    show(`rate-${side}`, hasRates ? rate(sumOf(routes, `rate_to_${side}`)) : "–");
    show(`sum-${side}`, `${size(sumOf(routes, `bytes_to_${side}`))} in all`);
  }
  show("lag", shortTime(status.loop_lag_seconds));
  show("lag-longest", `longest ${shortTime(status.loop_lag_longest_seconds)}`);
  mark(find("lag").parentElement, "bad", status.loop_lag_seconds >= 0.1);
  show("memory", status.memory ? size(status.memory.memory_bytes) : "–");
  show("memory-limit", status.memory ? `of ${size(status.memory.memory_limit_bytes)}` : "no limit");
  mark(find("memory").parentElement, "bad", status.memory?.pressure);
  showConfiguration(status);
  const top = Math.max(rates.largest, 1024);
  draw(find("rates"), rates, top);
  show("rates-top", `${rate(top)} at the top`);
  const most = Math.max(counts.largest, 10);
  draw(find("counts"), counts, most);
  show("counts-top", `${most} at the top`);
}

function showConfiguration(status) {
  const older = status.generations.filter((one) => one.generation !== status.generation);
  const left = older.reduce((sum, one) => sum + one.connections, 0);
  show("generation", `generation ${status.generation}`);
  const last = status.last_reload;
  let text = last ? `reloaded at ${timeOfDay(last.time)}` : "not reloaded yet";
  if (last?.error) text = `reload failed at ${timeOfDay(last.time)}: ${last.error}`;
  show("reload", left ? `${text}; older generations: ${left} connections` : text);
  mark(find("reload").parentElement, "bad", last?.error);
}

// Tables

function makeTabs() {
  const names = Object.keys(VIEWS);
  for (const name of names) {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.id = `tab-${name}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", "panel");
    tab.append(VIEWS[name].title, " ", document.createElement("span"));
    tab.addEventListener("click", () => select(name));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = names[(names.indexOf(name) + step + names.length) % names.length];
      select(next);
      find(`tab-${next}`).focus();
    });
    find("tabs").append(tab);
  }
}

function select(name) {
  view = name;
  for (const other of Object.keys(VIEWS)) {
    const isSelected = other === name;
    find(`tab-${other}`).setAttribute("aria-selected", String(isSelected));
    find(`tab-${other}`).tabIndex = isSelected ? 0 : -1;
  }
  find("panel").setAttribute("aria-labelledby", `tab-${name}`);
  makeHead();
  find("rows").replaceChildren();
  if (snapshot) showTable();
}

function makeHead() {
  const options = [["", "order of the daemon"]];
  const cells = VIEWS[view].columns.map((column) => {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.className = column.number ? "number" : "";
    if (column.spark) {
      cell.textContent = column.label;
      return cell;
    }
    options.push([column.label, column.label]);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.label;
    button.addEventListener("click", () => sortBy(column.label));
    cell.append(button);
    return cell;
  });
  find("head").replaceChildren(...cells);
  const choices = options.map(([value, label]) => new Option(label, value));
  find("sort").replaceChildren(...choices);
  markSort();
}

function sortBy(label) {
  const current = order[view];
  current.reversed = current.label === label && !current.reversed;
  current.label = label;
  markSort();
  showTable();
}

function markSort() {
  const { label, reversed } = order[view];
  find("sort").value = label;
  VIEWS[view].columns.forEach((column, index) => {
    const cell = find("head").children[index];
    const falls = Boolean(column.number) !== reversed;
    if (column.label === label) cell.setAttribute("aria-sort", falls ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function newRow() {
  const row = document.createElement("tr");
  for (const column of VIEWS[view].columns) {
    const cell = document.createElement("td");
    cell.dataset.label = column.label;
    cell.className = column.spark ? "spark" : column.number ? "number" : "";
    if (column.spark) cell.append(newSpark());
    row.append(cell);
  }
  return row;
}

function fillRow(element, row) {
  VIEWS[view].columns.forEach((column, index) => {
    const cell = element.children[index];
    if (column.spark) {
      const history = routeRates.get(row.route);
      if (history) draw(cell.firstChild, history, Math.max(history.largest, 1024));
      return;
    }
    const text = column.text(column.value(row));
    if (cell.textContent === text) return;
    cell.textContent = text;
    cell.title = text.length > 24 ? text : "";
    mark(cell, "none", text === "–");
  });
  const blocked = Math.max(row.blocked_to_client_seconds ?? 0, row.blocked_to_backend_seconds ?? 0);
  mark(element, "warning", blocked >= SLOW || row.event === "connection.rejected");
}

function showTable() {
  if (!snapshot) return;
  for (const name of Object.keys(VIEWS)) {
    const count = name === "connections" ? snapshot.total : rowsOf(snapshot, name).length;
    find(`tab-${name}`).lastElementChild.textContent = String(count);
  }
  const { label, reversed } = order[view];
  const found = sorted(filtered(rowsOf(snapshot, view), wanted), view, label, reversed);
  const shown = found.slice(0, narrow.matches ? MAX_NARROW_ROWS : MAX_ROWS);
  const body = find("rows");
  while (body.children.length > shown.length) body.lastElementChild.remove();
  while (body.children.length < shown.length) body.append(newRow());
  shown.forEach((row, index) => fillRow(body.children[index], row));
  find("empty").hidden = shown.length > 0;
  show("empty", wanted ? "No row contains this text." : `No ${view}.`);
  const by = label ? `the first by ${label}` : "the first";
  show("note", shown.length < found.length ? `${shown.length} of ${found.length} rows are shown, ${by}.` : "");
}

// Controls

find("filter").addEventListener("input", () => {
  wanted = find("filter").value;
  showTable();
});
find("sort").addEventListener("change", () => {
  order[view] = { label: find("sort").value, reversed: false };
  markSort();
  showTable();
});
find("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  find("pause").setAttribute("aria-pressed", String(isPaused));
  show("pause", isPaused ? "Resume" : "Pause");
  if (!isPaused && document.body.dataset.phase !== "login") round();
});
narrow.addEventListener("change", showTable);
document.addEventListener("visibilitychange", () => {
  if (document.body.dataset.phase !== "login") round();
});

makeTabs();
select("connections");
if (document.body.dataset.token === "required") login("");
else round();
