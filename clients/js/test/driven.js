// A ResumableWebSocket that another program drives: each line of standard input is a step as JSON, each line of output
// what is seen after it. Transports and time are those of fake.js, so that a test decides what arrives, and when.

import { createInterface } from "node:readline";

import { ResumableWebSocket } from "../resume.js";
import { FakeSocket, settle, world } from "./fake.js";

const hex = (bytes) => Buffer.from(bytes).toString("hex");
const bytes = (text) => Uint8Array.from(Buffer.from(text, "hex"));

let time = null;
let socket = null;
let events = [];
let writer = null;

const STEPS = {
  // Begin with a new socket; `streams` uses its writable in place of send().
  start({ options, streams, chance }) {
    time?.end();
    time = world();
    time.chance(chance ?? 0.5);
    events = [];
    socket = new ResumableWebSocket("ws://x/", [], { WebSocket: FakeSocket, ...options });
    socket.binaryType = "arraybuffer";
    socket.onopen = () => events.push(["open"]);
    socket.onmessage = ({ data }) => events.push(["data", hex(data)]);
    socket.onclose = ({ code, reason }) => events.push(["close", code, reason]);
    socket.onreconnecting = ({ detail }) => events.push(["reconnecting", detail.attempt, detail.delay]);
    socket.onresumed = ({ detail }) => events.push(["resumed", detail.replayed]);
    writer = streams ? socket.writable.getWriter() : null;
    if (streams) read(socket.readable.getReader());
  },
  open: ({ protocol }) => FakeSocket.last.open(protocol),
  receive: ({ messages }) => FakeSocket.last.receive(...messages.map(bytes)),
  end: ({ code, reason }) => FakeSocket.last.end(code, reason),
  send({ data }) {
    if (writer) writer.write(bytes(data)).catch(() => {});
    else socket.send(bytes(data));
  },
  finish: () => void writer.close().catch(() => {}),
  close: ({ code, reason }) => socket.close(code, reason),
  pass: ({ milliseconds }) => time.pass(milliseconds),
};

async function read(reader) {
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      events.push(["data", hex(value)]);
    }
    events.push(["end"]);
  } catch (error) {
    events.push(["failed", error.message]);
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { step, ...rest } = JSON.parse(line);
  await STEPS[step](rest);
  await settle();
  const transport = FakeSocket.last;
  const seen = {
    events: events.splice(0),
    transports: FakeSocket.all.length,
    sent: transport?.sent.splice(0).map(hex) ?? [],
    closed: transport?.closed ?? null,
    state: socket.state,
    buffered: socket.bufferedAmount,
  };
  process.stdout.write(`${JSON.stringify(seen)}\n`);
}
