// "Pull the plug": the page's connection is cut for some seconds while the service counts on, and the page shows which
// numbers came late. The session goes on, so none is missing and none comes twice.

import { seconds, size } from "./units.js";

const COUNT = 80; // numbers, ten a second
const PULL_AT = 15; // the number at which the plug is pulled
const CUT = 4000; // milliseconds
const ATTEMPT = 150; // milliseconds that an attempt takes to fail meanwhile
const BURST = 100; // milliseconds after the session was resumed in which numbers are late ones
const PATIENCE = 3000; // milliseconds without a number after which the count was stopped
const DETACH = 4003; // the close code that leaves a session alone

// What ResumableWebSocket gets for a connection while the plug is out.
class NoConnection {
  readyState = WebSocket.CONNECTING;
  protocol = "";
  extensions = "";
  bufferedAmount = 0;

  constructor() {
    setTimeout(() => lose(this), ATTEMPT);
  }

  close() {
    this.readyState = WebSocket.CLOSED;
  }
}

function lose(socket) {
  const { onclose } = socket;
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.close(DETACH);
  onclose?.({ code: 1006, reason: "", wasClean: false });
}

// Makes the connections, and cuts them.
export class Cable {
  #out = false;
  #socket = null;

  // In place of the class WebSocket.
  get WebSocket() {
    const cable = this;
    return function connect(url, protocols) {
      cable.#socket = cable.#out ? new NoConnection() : new WebSocket(url, protocols);
      return cable.#socket;
    };
  }

  pull() {
    this.#out = true;
    lose(this.#socket);
  }

  plugIn() {
    this.#out = false;
    dispatchEvent(new Event("online")); // what a browser says then
  }
}

export class Plug {
  #cable;
  #find;
  #say;
  #running = false;
  #line = ""; // the beginning of a line
  #last = 0; // number that came last
  #late = 0; // numbers of the burst
  #lateBytes = 0;
  #resumed = null; // how the session was resumed, and when
  #inOrder = true;
  #cells = [];
  #timer = 0;

  constructor(cable, find, say) {
    this.#cable = cable;
    this.#find = find;
    this.#say = say;
    find("pull").addEventListener("click", () => this.#begin());
  }

  #begin() {
    this.#running = true;
    this.#line = "";
    this.#last = this.#late = this.#lateBytes = 0;
    this.#resumed = null;
    this.#inOrder = true;
    this.#cells = Array.from({ length: COUNT }, () => document.createElement("i"));
    this.#find("numbers").replaceChildren(...this.#cells);
    this.#find("numbers").hidden = false;
    this.#result(`The service counts to ${COUNT} …`);
    this.allow(false);
    this.#wait();
    this.#say(`count ${COUNT}`);
  }

  // Whether the button can be pressed.
  allow(allowed) {
    this.#find("pull").disabled = !allowed || this.#running;
  }

  // Text of the service.
  received(text) {
    if (!this.#running) return;
    const lines = (this.#line + text).split("\n");
    this.#line = lines.pop();
    for (const line of lines) if (/^\d+$/.test(line)) this.#number(Number(line), line.length + 1);
  }

  #number(number, bytes) {
    if (number !== this.#last + 1) this.#inOrder = false;
    this.#last = number;
    const late = this.#resumed !== null && performance.now() - this.#resumed.at < BURST;
    if (late) {
      this.#late += 1;
      this.#lateBytes += bytes;
    }
    const cell = this.#cells[number - 1];
    if (cell) cell.className = cell.className ? "twice" : late ? "late" : "live";
    this.#wait();
    if (number === PULL_AT) this.#pull();
    if (number === COUNT) this.end();
  }

  #pull() {
    this.#cable.pull();
    this.#result("Unplugged. The service counts on, and wsbridge keeps what it sends …");
    setTimeout(() => this.#cable.plugIn(), CUT);
  }

  // The session was resumed.
  resumed({ outage, attempts }) {
    this.#resumed = { outage, attempts, at: performance.now() };
    if (!this.#running) return;
    this.#wait();
    this.#result("Connected again. What wsbridge kept is replayed, and the service counts on …");
  }

  #wait() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.end(), CUT + PATIENCE);
  }

  // The count is complete, or was stopped.
  end() {
    if (!this.#running) return;
    clearTimeout(this.#timer);
    this.#running = false;
    this.allow(this.#resumed !== null);
    if (this.#resumed === null) return this.#result(`The count ended at ${this.#last}.`);
    const { outage, attempts } = this.#resumed;
    const whole = this.#inOrder ? "none is missing, none came twice" : "numbers are missing, or came twice";
    this.#result(
      `${seconds(outage)} without a connection, ${attempts} attempts. ${this.#late} numbers (${size(this.#lateBytes)}) were ` +
        `replayed when it was back: of ${this.#last}, ${whole}.`,
    );
  }

  #result(text) {
    this.#find("plug-result").textContent = text;
  }
}
