// The demo page: one session to /ws, shown as a terminal (terminal.js) with its round trip (pings.js), its rates
// (meters.js) and the reason why it ended (reasons.js). It survives that its connection is cut (plug.js).

import { Meters } from "./meters.js";
import { Pings } from "./pings.js";
import { Cable, Plug } from "./plug.js";
import { explain } from "./reasons.js";
import { ResumableWebSocket } from "./resume.js"; // a route of its own
import { Plain, Terminal } from "./terminal.js";
import { seconds } from "./units.js";

const PING_EVERY = 2000; // milliseconds
const FIRST_PING = 300;
const CONNECT_WITHIN = 15000;
const MAX_HISTORY = 100;
const SUBPROTOCOLS = ["binary"];
const PLACEHOLDERS = {
  connecting: "connecting …",
  open: "help",
  reconnecting: "sent later",
  closed: "press Enter to reconnect",
};

const find = (id) => document.getElementById(id);
const input = find("input");
const terminal = new Terminal(find("terminal"));
const meters = new Meters(find);
const cable = new Cable();
const plug = new Plug(cable, find, (line) => say(line));
const encoder = new TextEncoder();
const url = new URL("/ws", location.href.replace(/^http/, "ws"));
url.search = url.hash = "";

let connection = null;
const history = [];
let recalled = 0; // place in the history that the input shows

class Connection {
  #socket;
  #decoder = new TextDecoder(); // a character may be cut by the pieces it comes in
  #pings = new Pings((time) => meters.roundTrip(time, this.#pings.best));
  #opened = false;
  #ours = false;
  #timers = [];

  constructor() {
    show("connecting");
    meters.restart();
    terminal.restart();
    const options = { WebSocket: cable.WebSocket, connectTimeout: CONNECT_WITHIN };
    this.#socket = new ResumableWebSocket(url, SUBPROTOCOLS, options);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onopen = () => this.#open();
    this.#socket.onmessage = ({ data }) => this.#receive(data);
    this.#socket.onreconnecting = ({ detail }) => this.#reconnecting(detail);
    this.#socket.onresumed = ({ detail }) => this.#resumed(detail);
    this.#socket.onclose = (event) => this.#closed(event);
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN; // also while it reconnects: what is said goes out then
  }

  say(line) {
    terminal.write(`❯ ${line}\n`, "in");
    const data = encoder.encode(`${line}\n`);
    this.#socket.send(data);
    meters.sent(data.length);
  }

  close() {
    this.#ours = true;
    this.#socket.close(1000, "client_closed");
  }

  #open() {
    this.#opened = true;
    show("open");
    meters.opened(this.#socket.protocol || "none", this.#socket.resumable);
    terminal.write(`connected to ${url.host}\n`, "note");
    this.#timers.push(setTimeout(() => this.#ping(), FIRST_PING));
    this.#timers.push(setInterval(() => this.#ping(), PING_EVERY));
  }

  #reconnecting({ attempt, reason }) {
    show("reconnecting");
    if (attempt === 1) terminal.write(`${reason}; the session is kept\n`, "note");
  }

  #resumed(detail) {
    show("open");
    terminal.write(`connected again after ${seconds(detail.outage)}\n`, "note");
    plug.resumed(detail);
  }

  #receive(data) {
    const text = typeof data === "string" ? data : this.#decoder.decode(data, { stream: true });
    const before = this.#pings.bytes;
    const shown = this.#pings.filter(text, performance.now());
    terminal.write(shown);
    plug.received(shown);
    const size = typeof data === "string" ? encoder.encode(data).length : data.byteLength;
    meters.received(size - (this.#pings.bytes - before));
  }

  #ping() {
    if (!this.open) return;
    const now = performance.now();
    const line = this.#pings.line(now);
    if (line) this.#socket.send(encoder.encode(line));
    else meters.waiting(this.#pings.waiting(now));
  }

  #closed(event) {
    this.#timers.forEach(clearTimeout);
    terminal.write(this.#decoder.decode());
    const lost = this.#socket.state === "lost";
    const { name, words, clean, side } = explain(event, { opened: this.#opened, ours: this.#ours, lost });
    find("reason-name").textContent = new Plain().push(name);
    find("reason-words").textContent = words;
    find("reason").classList.toggle("clean", clean);
    terminal.write(`closed: ${new Plain().push(name)}\n`, "note");
    meters.closed();
    plug.end();
    document.body.dataset.ended = clean ? "" : side;
    show("closed");
  }
}

function show(state) {
  document.body.dataset.state = state;
  find("state").textContent = state;
  find("reason").hidden = state !== "closed";
  find("reconnect").disabled = state !== "closed";
  const live = state === "open" || state === "reconnecting";
  find("disconnect").disabled = !live;
  find("send").disabled = state === "connecting"; // enabled when closed: Enter presses it, and reconnects
  for (const button of find("commands").children) button.disabled = !live;
  plug.allow(state === "open");
  input.placeholder = PLACEHOLDERS[state];
}

function connect() {
  connection = new Connection();
  input.focus({ preventScroll: true });
}

function say(line) {
  if (connection.open) connection.say(line);
}

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const line = input.value;
  if (!connection.open) {
    if (document.body.dataset.state === "closed") connect();
    return;
  }
  say(line);
  if (line && history.at(-1) !== line) history.push(line);
  if (history.length > MAX_HISTORY) history.shift();
  recalled = history.length;
  input.value = "";
});

input.addEventListener("keydown", (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (step) {
    event.preventDefault();
    recalled = Math.min(Math.max(recalled + step, 0), history.length);
    input.value = history[recalled] ?? "";
  } else if (event.key === "Escape") {
    event.preventDefault();
    say("");
  }
});

find("commands").addEventListener("click", (event) => {
  const line = event.target.closest("button")?.dataset.line;
  if (line === undefined) return;
  say(line);
  input.focus({ preventScroll: true });
});

find("terminal").addEventListener("click", () => {
  if (getSelection().isCollapsed) input.focus({ preventScroll: true });
});
find("reconnect").addEventListener("click", connect);
find("disconnect").addEventListener("click", () => connection.close());
find("url").textContent = url.href;
find("bind").textContent = location.host;
connect();
