// Sockets of a page over scripted transports: what the tests of ResumableWebSocket share.

import assert from "node:assert/strict";
import { afterEach, beforeEach } from "node:test";

import { ResumableWebSocket } from "../resume.js";
import { FakeSocket, opened, resumed, settle, world } from "./fake.js";

export const URL_OF_TEST = "ws://gw.example.org/shell";
export let time; // of the test that runs

// Each test of the file has time and chance of its own.
export function scripted() {
  beforeEach(() => (time = world()));
  afterEach(() => time.end());
}

// A socket whose events are written down, as texts.
export function make({ url = URL_OF_TEST, protocols = [], ...options } = {}) {
  const socket = new ResumableWebSocket(url, protocols, { WebSocket: FakeSocket, ...options });
  const events = [];
  socket.binaryType = "arraybuffer";
  socket.onopen = () => events.push("open");
  socket.onmessage = (event) => events.push(typeof event.data === "string" ? `text ${event.data}` : new TextDecoder().decode(event.data));
  socket.onerror = () => events.push("error");
  socket.onclose = (event) => events.push(`close ${event.code} ${event.reason}`);
  socket.onreconnecting = ({ detail }) => events.push(`reconnecting ${detail.attempt} in ${detail.delay}: ${detail.reason}`);
  socket.onresumed = ({ detail }) => events.push(`resumed after ${detail.outage} and ${detail.attempts}: ${detail.replayed} again`);
  return { socket, seen: () => events.splice(0) };
}

export async function live({ terms, ...options } = {}) {
  const made = make(options);
  await settle();
  FakeSocket.last.open();
  FakeSocket.last.receive(opened(terms));
  assert.deepEqual(made.seen(), ["open"]);
  FakeSocket.last.frames();
  return { ...made, transport: FakeSocket.last };
}

// The next transport, connected up to RESUMED.
export async function resume(received, terms) {
  const before = FakeSocket.all.length;
  await time.pass(0);
  assert.equal(FakeSocket.all.length, before + 1);
  const transport = FakeSocket.last;
  transport.open();
  const [frame] = transport.frames();
  assert.match(frame, /^RESUME /);
  transport.receive(resumed(received, terms));
  return { transport, frame };
}
