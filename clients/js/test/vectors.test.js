// The sessions that all implementations share: tests/vectors/resume/README.md. ResumableWebSocket has the timers, so here
// they are made of what ClientSession says.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import { ClientSession } from "../resume.js";

const VECTORS = new URL("../../../tests/vectors/resume/", import.meta.url);
const OURS = ["end", "end_after_data"]; // a page closes with a close frame, without ERROR
const hex = (bytes) => Buffer.from(bytes).toString("hex");

function payload(text) {
  if (typeof text === "string") return Buffer.from(text, "hex");
  return Buffer.from(text.repeat.repeat(text.count), "hex");
}

function message(text) {
  return typeof text === "string" ? Buffer.from(text, "hex") : Buffer.concat([Buffer.from([5]), payload(text.data)]);
}

// Bytes as the vectors have them.
function shown(bytes) {
  return bytes.length > 64 ? { bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") } : hex(bytes);
}

// One session, with the names of the vectors.
class Machine {
  #session;
  #state = "detached";
  #events = [];
  #sends = [];
  #closing = null;
  #detachedAt = null;
  #silentAt = null; // when silence means that the transport is lost
  #ackAt = null;

  constructor(window) {
    this.#session = new ClientSession(window);
  }

  // Do a step; give what comes out.
  step({ do: name, at, ...facts }) {
    this[name](at, facts);
    for (let frame; (frame = this.#session.next()); ) this.#sends.push(frame);
    if (this.#state === "attached" && this.#session.complete) this.#closing = [1000, ""];
    const found = { events: this.#events.splice(0), sends: this.#sends.splice(0), closing: this.#closing, state: this.#state };
    return { ...found, room: this.#room(), deadline: this.#deadline() };
  }

  #room() {
    const { opened, finished, window, unacknowledged } = this.#session;
    return !opened || finished || this.#state === "ended" ? 0 : window - unacknowledged;
  }

  #deadline() {
    const { ttl, opened } = this.#session;
    const expires = this.#state === "detached" && this.#detachedAt !== null && opened ? this.#detachedAt + ttl : null;
    const times = [expires, this.#silentAt, this.#ackAt].filter((time) => time !== null);
    return times.length && this.#state !== "ended" ? Math.min(...times) : null;
  }

  #detach(at) {
    this.#detachedAt ??= at;
    this.#silentAt = this.#ackAt = null;
    this.#session.detach();
    this.#state = "detached";
  }

  #end(code, by, complete = false) {
    this.#events.push({ event: "ended", code, by, complete });
    this.#state = "ended";
  }

  connect(at) {
    if (this.#state !== "detached") this.#detach(at);
    this.#closing = null;
    this.#state = this.#session.opened ? "resuming" : "opening";
    this.#sends.push(this.#session.greet());
  }

  receive(at, { messages }) {
    for (const event of messages.map((each) => this.#session.receive(new Uint8Array(message(each))))) {
      if (event?.reason) this.reason = event.reason;
      if (event !== null) this[`on_${event.type}`](event, at);
    }
    if (this.#state === "attached" && this.#session.keepalive) this.#silentAt = at + 2 * this.#session.keepalive;
  }

  on_opened() {
    this.#state = "attached";
    this.#detachedAt = null;
    this.#events.push({ event: "opened" });
  }

  on_resumed({ replayed }) {
    this.#state = "attached";
    this.#detachedAt = null;
    this.#events.push({ event: "resumed", replayed });
    this.#sends.push(this.#session.ack());
  }

  on_data({ bytes }) {
    const last = this.#events.at(-1);
    if (last?.event === "received") last.bytes = Buffer.concat([last.bytes, bytes]);
    else this.#events.push({ event: "received", bytes });
  }

  on_ack() {}

  on_fin() {
    this.#events.push({ event: "peer_finished" });
  }

  on_goaway({ after, jitter }) {
    this.#events.push({ event: "going_away", after: after / 1000, jitter: jitter / 1000 });
  }

  on_later({ code }, at) {
    this.#detach(at);
    this.#closing = [code, ""];
    this.#events.push({ event: "transport_useless" });
  }

  on_error({ code, reason, ours }) {
    if (ours) this.#sends = [Buffer.from([8, code >> 8, code & 255])];
    this.#closing = [code, reason];
    this.#end(code, ours ? "us" : "peer");
  }

  send(at, facts) {
    this.#session.send(payload(facts.payload));
  }

  finish() {
    this.#session.finish();
  }

  consumed(at, { bytes }) {
    this.#session.consume(bytes);
    if (this.#state !== "attached") return;
    if (this.#session.ackDue) this.#acknowledge();
    else this.#ackAt ??= at + this.#session.ackMs / 1000;
  }

  consumed_fin() {
    this.#session.consume(1);
    if (this.#state === "attached") this.#acknowledge();
  }

  #acknowledge() {
    this.#ackAt = null;
    this.#sends.push(this.#session.ack());
  }

  transport_lost(at, { code = null }) {
    if (this.#state === "attached" && this.#session.complete) return this.#end(1000, "us", true);
    this.#closing = null;
    if (this.#state === "ended") return;
    if (!this.#session.opened && code === null) this.#detach(at);
    else if (this.#session.endsBy(code ?? 1006)) this.#end(code, "peer");
    else this.#detach(at);
  }

  deadline(at) {
    if (this.#ackAt !== null && this.#ackAt <= at) this.#acknowledge();
    if (this.#silentAt !== null && this.#silentAt <= at) {
      this.#detach(at);
      this.#closing = [4003, ""];
      this.#events.push({ event: "transport_useless" });
    }
    if (this.#detachedAt !== null && this.#detachedAt + this.#session.ttl <= at) this.#end(null, "us");
  }
}

function checkEvents(found, wanted) {
  const plain = found.map(({ bytes, ...rest }) => (bytes ? { ...rest, payload: shown(bytes) } : rest));
  const comparable = wanted.map(({ text, ...rest }) => rest); // texts are an implementation's own
  assert.deepEqual(plain, comparable);
}

function checkSends(found, wanted) {
  const joined = [];
  for (const frame of found) {
    if (frame[0] !== 5) joined.push(frame[0] === 8 ? hex(frame.subarray(0, 3)) : hex(frame));
    else if (joined.at(-1)?.data) joined.at(-1).data = Buffer.concat([joined.at(-1).data, frame.subarray(1)]);
    else joined.push({ data: Buffer.from(frame.subarray(1)) });
  }
  const plain = joined.map((each) => (each.data ? { data: shown(each.data) } : each));
  assert.deepEqual(plain, wanted.map((each) => (typeof each === "string" && each.startsWith("08") ? each.slice(0, 6) : each)));
}

let done = 0;
for (const file of readdirSync(VECTORS).filter((name) => name.startsWith("client") && name.endsWith(".json"))) {
  for (const { name, window, steps } of JSON.parse(readFileSync(new URL(file, VECTORS)))) {
    if (steps.some((step) => OURS.includes(step.do))) continue;
    done += 1;
    test(`${file}: ${name}`, () => {
      const machine = new Machine(window);
      for (const [number, step] of steps.entries()) {
        const { events = [], sends = [], closing = null, state, room, deadline = null } = step;
        try {
          const found = machine.step(step);
          checkEvents(found.events, events);
          checkSends(found.sends, sends);
          assert.deepEqual([found.closing?.[0], found.state, found.room], [closing?.[0], state, room]);
          if (deadline === null) assert.equal(found.deadline, null);
          else assert.ok(Math.abs(found.deadline - deadline) < 1e-6, `deadline ${found.deadline}, not ${deadline}`);
        } catch (error) {
          error.message = `step ${number}, ${JSON.stringify(step)}: ${machine.reason} ${error.message}`;
          throw error;
        }
      }
    });
  }
}

test("the vectors are there", () => assert.ok(done > 80));
