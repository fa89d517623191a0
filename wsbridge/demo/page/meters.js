// The meters below the terminal: round trip, bytes and rates each way, subprotocol and age of the connection.

import { clock, milliseconds, size } from "./units.js";

const EVERY = 500; // milliseconds between two looks at the counters
const SPAN = 3; // looks that a rate is the mean of
const SHOWN = 60; // looks that the curve shows
const WIDTH = 120;
const HEIGHT = 40;

export class Meters {
  #find;
  #in = 0;
  #out = 0;
  #looks = []; // {at, in, out}, the oldest first
  #curve = new Array(SHOWN).fill(0);
  #since = null; // when the connection opened

  constructor(find) {
    this.#find = find;
    setInterval(() => this.#look(), EVERY);
  }

  received(bytes) {
    this.#in += bytes;
  }

  sent(bytes) {
    this.#out += bytes;
  }

  restart() {
    this.#in = this.#out = 0;
    this.#looks = [];
    this.#since = null;
    this.#show({ rtt: "–", "rtt-best": "", subprotocol: "–", age: "" });
  }

  opened(subprotocol, resumable) {
    this.#since = performance.now();
    this.#show({ subprotocol: resumable ? "resume" : subprotocol });
  }

  closed() {
    this.#look();
    this.#since = null;
    this.#looks = [];
    this.#show({ "rate-in": "0 B/s", "rate-out": "0 B/s", rtt: "–" });
  }

  roundTrip(time, best) {
    this.#show({ rtt: milliseconds(time), "rtt-best": `best ${milliseconds(best)}` });
  }

  waiting(time) {
    this.#show({ rtt: `> ${milliseconds(time)}` });
  }

  #show(texts) {
    for (const [id, text] of Object.entries(texts)) {
      const element = this.#find(id);
      if (element.textContent !== text) element.textContent = text;
    }
  }

  #look() {
    const now = performance.now();
    this.#looks.push({ at: now, in: this.#in, out: this.#out });
    if (this.#looks.length > SPAN) this.#looks.shift();
    const first = this.#looks[0];
    const seconds = Math.max(now - first.at, 1) / 1000;
    const rate = this.#looks.length > 1 ? (this.#in - first.in) / seconds : 0;
    const back = this.#looks.length > 1 ? (this.#out - first.out) / seconds : 0;
    this.#show({
      "rate-in": `${size(rate)}/s`,
      "rate-out": `${size(back)}/s`,
      "bytes-in": size(this.#in),
      "bytes-out": size(this.#out),
    });
    if (this.#since !== null) this.#show({ age: `open for ${clock((now - this.#since) / 1000)}` });
    this.#curve.push(rate);
    this.#curve.shift();
    this.#draw();
  }

  #draw() {
    const top = Math.max(...this.#curve, 1024);
    const points = this.#curve.map((rate, at) => {
      const x = (at * WIDTH) / (SHOWN - 1);
      return `${x.toFixed(1)},${(HEIGHT - 1 - (rate / top) * (HEIGHT - 6)).toFixed(1)}`;
    });
    this.#find("spark").setAttribute("points", `-2,${HEIGHT + 2} -2,${HEIGHT - 1} ${points.join(" ")} ${WIDTH + 2},${HEIGHT + 2}`);
  }
}
