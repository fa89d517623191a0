// Transports without a network, and the frames of a server, for tests that say what happens when.

export const SUBPROTOCOL = "wsbridge.resume.v1";

// A WebSocket whose other end is the test. Those that were made are in `all`.
export class FakeSocket {
  static all = [];
  static get last() {
    return this.all.at(-1);
  }

  readyState = 0;
  protocol = "";
  extensions = "";
  binaryType = "blob";
  bufferedAmount = 0;
  sent = [];
  closed = null; // [code, reason] of close()

  constructor(url, protocols) {
    this.url = url;
    this.protocols = protocols;
    this.constructor.all.push(this);
  }

  send(data) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.readyState === 1) this.sent.push(typeof data === "string" ? data : data.slice());
  }

  close(code, reason) {
    if (this.readyState > 1) return;
    this.closed = [code, reason];
    this.readyState = 2;
  }

  // -- the other end

  open(protocol = SUBPROTOCOL) {
    this.readyState = 1;
    this.protocol = protocol;
    this.onopen?.({ type: "open" });
  }

  receive(...frames) {
    for (const bytes of frames) {
      const data = typeof bytes === "string" ? bytes : bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
      this.onmessage?.({ data, origin: "ws://x" });
    }
  }

  end(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ type: "close", code, reason, wasClean: code !== 1006 });
  }

  // What was sent since the last call, each frame as text: `DATA hello`, `ACK 5`, `FIN 5`, `OPEN 0`, ...
  frames() {
    return this.sent.splice(0).map(shown);
  }
}

const NAMES = ["", "OPEN", "OPENED", "RESUME", "RESUMED", "DATA", "ACK", "FIN", "ERROR", "GOAWAY"];

function shown(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const name = NAMES[bytes[0]];
  if (name === "OPEN") return `OPEN ${view.getUint32(1)}`;
  if (name === "DATA") return bytes.length > 100 ? `DATA ${bytes.length - 1} bytes` : `DATA ${new TextDecoder().decode(bytes.subarray(1))}`;
  if (name === "ACK" || name === "FIN") return `${name} ${view.getBigUint64(1)}`;
  if (name === "ERROR") return `ERROR ${view.getUint16(1)} ${new TextDecoder().decode(bytes.subarray(3))}`;
  if (name === "RESUME") {
    const token = bytes[25];
    return `RESUME token=${token} attempt=${view.getUint32(57)} received=${view.getBigUint64(61)} first=${view.getBigUint64(69)}`;
  }
  return `${bytes[0]}`;
}

function build(size, write) {
  const bytes = new Uint8Array(size);
  write(new DataView(bytes.buffer), bytes);
  return bytes;
}

// Frames of a server.

export function opened({ token = 1, ttl = 120, window = 1 << 20, ackBytes = 32768, ackMs = 250, keepalive = 20, node = "" } = {}) {
  return build(74 + node.length, (view, bytes) => {
    view.setUint8(0, 2);
    view.setBigUint64(1, 77n);
    bytes.fill(9, 9, 25);
    bytes.fill(token, 25, 57);
    view.setUint32(57, ttl);
    view.setUint32(61, window);
    view.setUint32(65, ackBytes);
    view.setUint16(69, ackMs);
    view.setUint16(71, keepalive);
    view.setUint8(73, node.length);
    bytes.set(new TextEncoder().encode(node), 74);
  });
}

export function resumed(received, { token = 2, ttl = 120 } = {}) {
  return build(45, (view, bytes) => {
    view.setUint8(0, 4);
    view.setBigUint64(1, BigInt(received));
    bytes.fill(token, 9, 41);
    view.setUint32(41, ttl);
  });
}

export function data(text) {
  const payload = typeof text === "string" ? new TextEncoder().encode(text) : text;
  return build(1 + payload.length, (view, bytes) => {
    view.setUint8(0, 5);
    bytes.set(payload, 1);
  });
}

function positioned(type, position) {
  return build(9, (view) => {
    view.setUint8(0, type);
    view.setBigUint64(1, BigInt(position));
  });
}

export const ack = (position) => positioned(6, position);
export const fin = (position) => positioned(7, position);

export function error(code, text = "") {
  return build(3 + text.length, (view, bytes) => {
    view.setUint8(0, 8);
    view.setUint16(1, code);
    bytes.set(new TextEncoder().encode(text), 3);
  });
}

export function goaway(after, jitter) {
  return build(9, (view) => {
    view.setUint8(0, 9);
    view.setUint32(1, after);
    view.setUint32(5, jitter);
  });
}

export const keepalive = () => new Uint8Array([0x80]);

// Everything that is due without time: promises.
export async function settle() {
  for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
}

// Time and chance of one test: `pass(milliseconds)` lets timers fire, and `chance(value)` sets what Math.random gives.
export function world() {
  FakeSocket.all = [];
  const { setTimeout, clearTimeout } = globalThis;
  const real = { setTimeout, clearTimeout, date: Date.now, now: performance.now, random: Math.random };
  const timers = new Map();
  let now = 5_000;
  let date = 1_700_000_000_000;
  let count = 0;
  let luck = 0.5;
  globalThis.setTimeout = (act, delay = 0) => {
    timers.set(++count, { act, due: now + (delay > 0 ? delay : 0) }); // as the real one, which takes NaN for 0
    return count;
  };
  globalThis.clearTimeout = (id) => timers.delete(id);
  performance.now = () => now;
  Date.now = () => date + now;
  Math.random = () => luck;
  return {
    chance: (value) => (luck = value),
    // What is due fires, each timer at its time; then promises settle.
    pass: async (milliseconds) => {
      const end = now + milliseconds;
      for (;;) {
        const [first] = [...timers].filter(([, { due }]) => due <= end).sort(([a, one], [b, other]) => one.due - other.due || a - b);
        if (!first) break;
        const [id, { act, due }] = first;
        timers.delete(id);
        now = Math.max(now, due);
        act();
        await settle();
      }
      now = end;
      await settle();
    },
    // The computer sleeps: no timer fires until it wakes up.
    sleep: (milliseconds) => (now += milliseconds),
    // The date is set anew.
    setDate: (milliseconds) => (date += milliseconds),
    timers: () => timers.size,
    end: () => {
      Object.assign(globalThis, { setTimeout: real.setTimeout, clearTimeout: real.clearTimeout });
      performance.now = real.now;
      Date.now = real.date;
      Math.random = real.random;
    },
  };
}
