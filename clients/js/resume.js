// A WebSocket whose session outlives its connection: the subprotocol wsbridge.resume.v1, for browsers and Node.js.
//
//   import { ResumableWebSocket } from "./resume.js";
//   const socket = new ResumableWebSocket("wss://gw.example.org/shell");
//
// It is used like a WebSocket. When the connection breaks it makes another one, and no byte is missing or arrives twice.
// docs/resume-client.md describes it, docs/resume-protocol.md the protocol. License: MIT.

export const SUBPROTOCOL = "wsbridge.resume.v1";

// ---------------------------------------------------------------------------------------------------------------------
// Frames: one binary message each, its first byte is the type, integers are big-endian.

const OPEN = 0x01;
const OPENED = 0x02;
const RESUME = 0x03;
const RESUMED = 0x04;
const DATA = 0x05;
const ACK = 0x06;
const FIN = 0x07;
const ERROR = 0x08;
const GOAWAY = 0x09;
const KEEPALIVE = 0x80; // means that the path works; unknown types above it are ignored
const MAX_DATA_BYTES = 65536;
const MIN_WINDOW = 4096; // a server gives no less
const MAX_CONTROL_BYTES = 512; // of a message that is no DATA
const MAX_TEXT_BYTES = 120; // of ERROR
const TOKEN_BYTES = 32;
const ID_BYTES = 24; // epoch and session id

const GAP = 4002;
const VIOLATION = 4008;
const GONE = { 4001: true, 4002: true, 4004: true }; // the server does not have the session, or not as the client has it
const TRY_LATER = { 4013: true, 4014: true };
const DETACHING = { 1001: true, 1005: true, 1006: true, 1012: true, 1015: true }; // only the transport ended
const DETACH = 4003; // what a client closes a transport with that it replaces
const ABORTED = 4012; // the page breaks its stream off: the backend is reset

const WORDS = {
  1001: "the other side goes away",
  1005: "closed without a code",
  1006: "the connection broke",
  1012: "the server restarts",
  4001: "the session was not resumed: it has expired, or it belongs to another user or server",
  4002: "the session cannot be continued without a gap",
  4003: "the session was continued by another connection",
  4004: "the session was lost when the server restarted",
  4008: "protocol error",
  4009: "the session was ended by a rule of the server",
  4010: "the backend refused the connection",
  4011: "the backend cannot be reached",
  4012: "the backend reset the connection",
  4013: "the server has no room for another session",
  4014: "the server is draining",
};

function words(code, reason) {
  return reason || (WORDS[code] ?? (code === 1000 ? "" : `closed with ${code}`));
}

function frame(type, size) {
  const bytes = new Uint8Array(1 + size);
  bytes[0] = type;
  return { bytes, view: new DataView(bytes.buffer) };
}

function positionFrame(type, position) {
  const { bytes, view } = frame(type, 8);
  view.setBigUint64(1, BigInt(position));
  return bytes;
}

// What the server must not send; `code` ends the session.
class Violation extends Error {
  constructor(message, code = VIOLATION) {
    super(message);
    this.code = code;
  }
}

// `reason` has at most MAX_TEXT_BYTES bytes, as that of a Violation.
function errorFrame(code, reason) {
  const text = new TextEncoder().encode(reason);
  const { bytes, view } = frame(ERROR, 2 + text.length);
  view.setUint16(1, code);
  bytes.set(text, 3);
  return bytes;
}

function fixed(view, size) {
  if (view.byteLength !== 1 + size) throw new Violation(`a frame of type ${view.getUint8(0)} has ${view.byteLength} bytes`);
}

function position(view, at) {
  const value = view.getBigUint64(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Violation(`position ${value} is out of range`, GAP);
  return Number(value);
}

// ---------------------------------------------------------------------------------------------------------------------
// The session: positions, replay, windows. Bytes in, events and bytes out; it knows no sockets and no clock.

export class ClientSession {
  window = 0; // payload bytes that may be unacknowledged
  ttl = 0; // seconds for which the server keeps the session without a transport
  ackBytes = 0; // consumed bytes after which an ACK is due
  ackMs = 0; // milliseconds after the first unacknowledged byte after which an ACK is due
  keepalive = 0; // seconds after which a silent server sends KEEPALIVE; 0 if it does not
  hint = ""; // which of several servers has the session
  #wish;
  #inWindow = 0; // the same of the server
  #id = null; // epoch and session id, once it was opened
  #token = null;
  #attempts = 0; // RESUMEs so far
  #attached = false; // OPENED or RESUMED was received on this transport
  #greeted = false; // OPEN or RESUME was sent on this transport
  #ended = false; // by ERROR, of either side
  // What the application sends. Positions count payload bytes; FIN has one of its own.
  #frames = []; // DATA frames, each {at, bytes}, from #head on; those before #cursor were sent on this transport
  #head = 0;
  #cursor = 0;
  #acked = 0;
  #sent = 0; // on this transport
  #highest = 0; // on any
  #queued = 0;
  #final = null; // position of our FIN
  // What it receives.
  #received = 0;
  #consumed = 0;
  #announced = 0; // position of the last ACK
  #finReceived = false;

  constructor(wish = 0) {
    if (!Number.isInteger(wish) || wish < 0 || wish > 0xffffffff) throw new RangeError(`a window of ${wish} bytes`);
    this.#wish = wish;
  }

  get opened() {
    return this.#id !== null;
  }

  get attached() {
    return this.#attached;
  }

  // Bytes (FIN counts as one) that the server has not acknowledged; that were not sent on this transport.
  get unacknowledged() {
    return this.#queued - this.#acked;
  }

  get unsent() {
    return this.#queued - this.#sent;
  }

  // Bytes consumed, but not acknowledged yet.
  get ackPending() {
    return this.#consumed - this.#announced;
  }

  get ackDue() {
    return this.ackPending >= this.ackBytes && this.ackPending > 0;
  }

  // How far both directions have got, as far as the client knows.
  get progress() {
    return this.#received + this.#acked;
  }

  // Both directions have ended, and all is acknowledged: the client closes the transport with 1000.
  get complete() {
    const acknowledged = this.#acked === this.#queued && this.#announced === this.#received;
    return this.#finReceived && this.#final !== null && acknowledged;
  }

  // Begin a transport: its first frame, OPEN or RESUME.
  greet() {
    this.detach();
    this.#greeted = true;
    if (this.#id === null) {
      const { bytes, view } = frame(OPEN, 4);
      view.setUint32(1, this.#wish);
      return bytes;
    }
    const { bytes, view } = frame(RESUME, ID_BYTES + TOKEN_BYTES + 20);
    bytes.set(this.#id, 1);
    bytes.set(this.#token, 25);
    view.setUint32(57, ++this.#attempts);
    view.setBigUint64(61, BigInt(this.#received));
    view.setBigUint64(69, BigInt(this.#acked));
    return bytes;
  }

  // The transport is gone; what the server has not received will be sent again on the next.
  detach() {
    this.#highest = Math.max(this.#highest, this.#sent);
    this.#attached = this.#greeted = false;
    this.#sent = this.#acked;
    this.#cursor = this.#head;
  }

  // Queue bytes; they are kept until they are acknowledged.
  send(bytes) {
    if (this.#final !== null) throw new Error("nothing can be sent after FIN");
    for (let at = 0; at < bytes.length; at += MAX_DATA_BYTES) {
      const piece = bytes.subarray(at, at + MAX_DATA_BYTES);
      const data = new Uint8Array(1 + piece.length);
      data[0] = DATA;
      data.set(piece, 1);
      this.#frames.push({ at: this.#queued, bytes: data });
      this.#queued += piece.length;
    }
  }

  // End what the application sends.
  finish() {
    if (this.#final !== null) return;
    this.#final = this.#queued;
    this.#queued += 1;
  }

  get finished() {
    return this.#final !== null;
  }

  // The server's stream has ended.
  get finReceived() {
    return this.#finReceived;
  }

  // The next frame to send, DATA or FIN; null if there is none, or the window is full.
  next() {
    if (!this.#attached) return null;
    if (this.#cursor === this.#frames.length) {
      if (this.#final === null || this.#sent !== this.#final) return null;
      this.#sent += 1;
      return positionFrame(FIN, this.#final);
    }
    const room = this.#acked + this.window - this.#sent;
    if (room <= 0) return null;
    const { at, bytes } = this.#frames[this.#cursor];
    const from = 1 + this.#sent - at;
    const to = Math.min(bytes.length, from + room);
    this.#sent = at + to - 1;
    if (to === bytes.length) this.#cursor += 1;
    if (from === 1 && to === bytes.length) return bytes;
    const part = bytes.slice(from - 1, to);
    part[0] = DATA;
    return part;
  }

  // The application took so many bytes (of a FIN: 1).
  consume(count) {
    this.#consumed += count;
  }

  // An ACK of all that was consumed.
  ack() {
    this.#announced = this.#consumed;
    return positionFrame(ACK, this.#consumed);
  }

  // Whether a close code of the server ends the session; otherwise it can be resumed.
  endsBy(code) {
    return !DETACHING[code] && !(TRY_LATER[code] && this.#id !== null && !this.#attached);
  }

  // One frame of the server (a Uint8Array) gives one event, null if it needs none. Types: opened, resumed {replayed}
  // (bytes that are sent again), data {bytes}, ack, fin, goaway {after, jitter} (milliseconds), later {code, reason}
  // (this transport is of no use, a later one may be), error {code, reason}, the last.
  receive(bytes) {
    if (this.#ended || !this.#greeted) return null; // of a transport that was given up
    try {
      if (!bytes.length) throw new Violation("an empty message");
      return this.#receive(bytes[0], bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      this.#ended = true;
      this.detach();
      return { type: "error", code: error.code, reason: error.message, ours: true };
    }
  }

  #receive(type, bytes, view) {
    if (type !== DATA && bytes.length > MAX_CONTROL_BYTES) throw new Violation(`type ${type} has ${bytes.length} bytes`);
    if (type === ERROR) return this.#onError(bytes, view);
    if (type === KEEPALIVE) fixed(view, 0);
    if (type >= KEEPALIVE) return null;
    if (!this.#attached) {
      if (type === OPENED && this.#id === null) return this.#onOpened(bytes, view);
      if (type === RESUMED && this.#id !== null) return this.#onResumed(bytes, view);
      throw new Violation(`type ${type} in place of ${this.#id === null ? "OPENED" : "RESUMED"}`);
    }
    if (type === DATA) return this.#onData(bytes);
    if (type === ACK) return this.#onAck(view);
    if (type === FIN) return this.#onFin(view);
    if (type === GOAWAY) {
      fixed(view, 8);
      return { type: "goaway", after: view.getUint32(1), jitter: view.getUint32(5) };
    }
    throw new Violation(`type ${type} is unknown or out of order`);
  }

  #onOpened(bytes, view) {
    if (view.byteLength < 74) throw new Violation(`OPENED has ${view.byteLength} bytes`);
    fixed(view, 73 + view.getUint8(73));
    const window = view.getUint32(61);
    const hint = bytes.subarray(74);
    if (!window) throw new Violation("OPENED with a window of 0 bytes");
    if (hint.some((byte) => byte > 127)) throw new Violation("OPENED with a node hint that is not ASCII");
    this.#id = bytes.slice(1, 25);
    this.#token = bytes.slice(25, 57);
    this.ttl = view.getUint32(57);
    this.window = window;
    this.#inWindow = Math.min(window, this.#wish ? Math.max(this.#wish, MIN_WINDOW) : window);
    this.ackBytes = Math.min(view.getUint32(65), Math.max(this.#inWindow, MIN_WINDOW) >> 1); // it need not wait
    this.ackMs = view.getUint16(69);
    this.keepalive = view.getUint16(71);
    this.hint = String.fromCharCode(...hint);
    this.#attached = true;
    return { type: "opened" };
  }

  #onResumed(bytes, view) {
    fixed(view, 44);
    const at = position(view, 1);
    if (at < this.#acked || at > this.#highest) throw new Violation(`position ${at} is not in ${this.#acked} to ${this.#highest}`, GAP);
    this.#token = bytes.slice(9, 41);
    this.ttl = view.getUint32(41);
    this.#attached = true;
    this.#sent = at;
    while (this.#cursor < this.#frames.length && this.#end(this.#cursor) <= at) this.#cursor += 1;
    return { type: "resumed", replayed: Math.max(0, Math.min(this.#highest, this.#final ?? this.#highest) - at) };
  }

  #onData(bytes) {
    const size = bytes.length - 1;
    if (!size || size > MAX_DATA_BYTES) throw new Violation(`DATA has ${size} bytes`);
    if (this.#finReceived) throw new Violation("DATA after FIN");
    if (this.#received + size - this.#announced > this.#inWindow) throw new Violation("DATA exceeds the window");
    this.#received += size;
    return { type: "data", bytes: bytes.subarray(1) };
  }

  #onAck(view) {
    fixed(view, 8);
    const at = position(view, 1);
    if (at < this.#acked || at > this.#sent) throw new Violation(`ACK ${at} is not in ${this.#acked} to ${this.#sent}`, GAP);
    if (at === this.#acked) return null;
    this.#acked = at;
    while (this.#head < this.#cursor && this.#end(this.#head) <= at) this.#frames[this.#head++] = undefined;
    if (this.#head > 256 && this.#head * 2 > this.#frames.length) {
      this.#frames.splice(0, this.#head);
      this.#cursor -= this.#head;
      this.#head = 0;
    }
    return { type: "ack" };
  }

  #onFin(view) {
    fixed(view, 8);
    const at = position(view, 1);
    if (this.#finReceived) throw new Violation("a second FIN");
    if (at !== this.#received) throw new Violation(`FIN at ${at} after ${this.#received} bytes`, GAP);
    this.#finReceived = true;
    this.#received += 1;
    return { type: "fin" };
  }

  #onError(bytes, view) {
    const size = view.byteLength;
    if (size < 3 || size > 3 + MAX_TEXT_BYTES) throw new Violation(`ERROR has ${size} bytes`);
    const code = view.getUint16(1);
    if (code < 4000 || code > 4999) throw new Violation(`ERROR has the code ${code}`);
    let reason;
    try {
      reason = new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(3));
    } catch {
      throw new Violation("the text of ERROR is not UTF-8");
    }
    this.#ended = this.endsBy(code);
    this.detach();
    return { type: this.#ended ? "error" : "later", code, reason };
  }

  // Position after a frame.
  #end(index) {
    const { at, bytes } = this.#frames[index];
    return at + bytes.length - 1;
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Streams.

const FEW_CHUNKS = 64; // that wait for a reader; small ones behind them are joined, as each takes memory of its own
const JOINED_BYTES = 4096;

function joined(first, second) {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}

// A ReadableStream of Uint8Array whose chunks are consumed as they are pulled, none before.
class Inbox {
  #chunks = [];
  #end = null; // {error, onTaken} behind the last chunk
  #cancelled = false; // nobody reads any more: all is taken as it comes
  #wake = () => {};
  #onTaken;

  constructor(onTaken, onCancel) {
    this.#onTaken = onTaken;
    const cancel = () => {
      this.#cancelled = true;
      for (const { length } of this.#chunks.splice(0)) onTaken(length);
      this.#end?.onTaken?.();
      onCancel();
    };
    this.stream = new ReadableStream({ pull: (controller) => this.#pull(controller), cancel }, { highWaterMark: 0 });
  }

  async #pull(controller) {
    while (!this.#chunks.length && !this.#end) await new Promise((resolve) => (this.#wake = resolve));
    if (this.#chunks.length) {
      const bytes = this.#chunks.shift();
      controller.enqueue(bytes);
      this.#onTaken(bytes.length);
    } else if (this.#end.error) {
      controller.error(this.#end.error);
    } else {
      controller.close();
      this.#end.onTaken?.();
    }
  }

  push(bytes) {
    if (this.#cancelled) return this.#onTaken(bytes.length);
    const last = this.#chunks.length < FEW_CHUNKS ? null : this.#chunks.at(-1);
    if (last && last.length + bytes.length <= JOINED_BYTES) this.#chunks.splice(-1, 1, joined(last, bytes));
    else this.#chunks.push(bytes);
    this.#wake();
  }

  end(error, onTaken) {
    if (this.#cancelled) return onTaken?.();
    this.#end ??= { error, onTaken };
    this.#wake();
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Pauses between attempts: none at first, then random ones up to a bound that doubles with each failure. A transport that
// is lost before it was stable is a failure, too, unless something came over it: the server may drop each.

const FIRST_BOUND_MS = 1000;
const STABLE_MS = 10_000; // after a transport that lasted so long, the bound begins again
const AT_ONCE_MS = 1000; // between two attempts that are made at once

class Schedule {
  notice = null; // {after, jitter} of GOAWAY, until the next attempt
  #maxDelay;
  #failures = 0; // attempts that got no transport, since one was stable
  #drops = 0; // transports over which nothing came, one after another
  #attachedAt = 0;
  #progress = 0; // of the session, when a transport was lost
  #mayBeAtOnce = true; // whether a transport was of use since the last attempt without a pause
  #atOnceAt = -Infinity; // when that attempt was made

  constructor(maxDelay) {
    this.#maxDelay = maxDelay;
  }

  attached(at) {
    this.#attachedAt = at;
  }

  // A transport of the session is lost: milliseconds to the next attempt.
  lost(at, progress) {
    const stable = at - this.#attachedAt >= STABLE_MS;
    const useful = stable || progress > this.#progress;
    this.#progress = progress;
    if (stable) this.#failures = 0;
    if (useful) [this.#drops, this.#mayBeAtOnce] = [0, true];
    const atOnce = this.#mayBeAtOnce && at - this.#atOnceAt >= AT_ONCE_MS;
    const pause = atOnce ? 0 : this.#random();
    if (atOnce) [this.#mayBeAtOnce, this.#atOnceAt] = [false, at];
    else if (!useful) this.#drops += 1;
    return this.notice ? Math.max(pause, this.notice.after + Math.random() * this.notice.jitter) : pause;
  }

  // An attempt has failed.
  failed() {
    const pause = this.#random();
    this.#failures += 1;
    return pause;
  }

  #random() {
    return Math.random() * Math.min(this.#maxDelay, FIRST_BOUND_MS * 2 ** (this.#failures + this.#drops));
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// The WebSocket.

const SILENT_KEEPALIVES = 2.5; // times `keepalive` without a message: the path is dead
const LATE_MS = 1000; // a timer that is so late may have been suspended
const GRACE_MS = 2000; // for messages that have come during a sleep
const MAX_TIMER_MS = 2 ** 31 - 1;
const PLAIN_WINDOW = 1 << 20; // bytes that a stream has buffered in a plain WebSocket
const TOKEN_PREFIX = "wsbridge.token."; // of subprotocols that carry a token, and are never selected

const DEFAULTS = {
  window: 0, // bytes that the server may send ahead of the page; 0 for as many as it would
  connectTimeout: 10_000, // milliseconds from the beginning of an attempt to OPENED or RESUMED
  closeTimeout: 10_000, // for the close handshake, and to reconnect for it
  maxDelay: 10_000, // between two attempts
  nodeParameter: "n", // of the URL: gets the node hint of the server, if that gives one
};

const STATES = ["connecting", "open", "closing", "closed"];
const [CONNECTING, LIVE, CLOSING, CLOSED] = STATES.keys();

const CloseEventClass =
  globalThis.CloseEvent ??
  class CloseEvent extends Event {
    constructor(type, { code = 0, reason = "", wasClean = false } = {}) {
      super(type);
      Object.assign(this, { code, reason, wasClean });
    }
  };

class DetailEvent extends Event {
  constructor(type, detail) {
    super(type);
    this.detail = detail;
  }
}

// Milliseconds, whatever becomes of the date.
function now() {
  return performance.now();
}

function raise(name, message) {
  throw new DOMException(message, name);
}

function absolute(url) {
  let parsed;
  try {
    if (typeof url !== "string" && !url.href) throw new TypeError();
    parsed = new URL(url, globalThis.document?.baseURI ?? globalThis.location?.href);
  } catch {
    raise("SyntaxError", `not a URL: ${url}`);
  }
  if (/^http/.test(parsed.protocol)) parsed.protocol = parsed.protocol.replace("http", "ws");
  if (!/^wss?:$/.test(parsed.protocol)) raise("SyntaxError", `not the URL of a WebSocket: ${parsed.protocol}`);
  if (parsed.hash) raise("SyntaxError", "the URL has a fragment");
  return parsed;
}

// Subprotocols as an array, without the one that is offered anyway.
function listed(protocols) {
  const names = typeof protocols === "string" ? [protocols] : [...protocols];
  if (!names.every((name) => /^[\w!#$%&'*+.^`|~-]+$/.test(name))) raise("SyntaxError", "a subprotocol is not a token");
  if (new Set(names).size !== names.length) raise("SyntaxError", "a subprotocol is given twice");
  return names.filter((name) => name !== SUBPROTOCOL);
}

// Of another realm (a frame), too.
function isA(data, ...names) {
  return names.includes(Object.prototype.toString.call(data).slice(8, -1));
}

function bytesOf(data) {
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (isA(data, "ArrayBuffer", "SharedArrayBuffer")) return new Uint8Array(data);
  return new TextEncoder().encode(`${data}`);
}

export class ResumableWebSocket extends EventTarget {
  #options;
  #source; // the URL, or a function that gives one for each transport
  #protocols;
  #url = "";
  #origin = "";
  #protocol = "";
  #binaryType = "blob";
  #handlers = {};
  #readyState = CONNECTING;
  #lost = false; // CLOSED, as the session could not be resumed
  #failure = null; // why, as an Error, if it has not ended well
  #session;
  #schedule;
  #socket = null; // the transport
  #attempt = 0; // number of the transport; what an older one still says is ignored
  #held = null; // what has come together with OPENED: functions
  #plain = false; // the server has not selected the subprotocol: a WebSocket like any other
  #timers = {};
  #stopListening = () => {};

  // Times are those of now(); the date may jump, but only it goes on while the computer sleeps.
  #attempts = 0; // in this outage
  #lostAt = null; // when this outage began; null: there is none
  #lostOn = 0; // its date
  #triedAt = 0; // when the last attempt began
  #heard = 0; // messages on all transports
  #heardAt = 0; // when the last one came
  #heardOn = 0; // its date

  #reading = Promise.resolve(); // what waits until a Blob before it has been read
  #readingCount = 0;
  #readingBytes = 0;
  #discardedBytes = 0; // given to send() after the end; bufferedAmount counts them, as that of WebSocket does
  #ending = false; // the page has ended its stream: FIN was sent, or waits for a Blob
  #closing = null; // {code, reason, atOnce} of close() or abort(); `sent` once it was, on any transport
  #closeSent = false; // on this transport
  #inbox = null;
  #writable = null;
  #writeController = null;
  #waiting = []; // resolvers of writes that wait for room

  constructor(url, protocols = [], options = {}) {
    super();
    const given = Object.entries(options).filter(([, value]) => value !== undefined);
    this.#options = { ...DEFAULTS, WebSocket: globalThis.WebSocket, ...Object.fromEntries(given) };
    this.#protocols = listed(protocols);
    if (!this.#options.WebSocket) raise("NotSupportedError", "there is no WebSocket here: give one as an option");
    this.#url = typeof url === "function" ? "" : absolute(url).href;
    this.#source = typeof url === "function" ? url : () => this.#url;
    this.#session = new ClientSession(this.#options.window);
    this.#schedule = new Schedule(this.#options.maxDelay);
    this.#listen();
    this.#connect();
  }

  // -- what WebSocket has

  get url() {
    return this.#url;
  }

  get readyState() {
    return this.#plain ? this.#socket.readyState : this.#readyState;
  }

  // What the page offered first, as if that had been selected; of a plain WebSocket, what the server selected.
  get protocol() {
    return this.#protocol;
  }

  get extensions() {
    return this.#socket?.extensions ?? "";
  }

  get binaryType() {
    return this.#binaryType;
  }

  set binaryType(type) {
    if (type !== "blob" && type !== "arraybuffer") return;
    this.#binaryType = type;
    if (this.#plain && !this.#inbox) this.#socket.binaryType = type;
  }

  get bufferedAmount() {
    if (this.#plain) return this.#socket.bufferedAmount;
    const inTransport = this.#session.attached ? this.#socket.bufferedAmount : 0;
    return this.#session.unsent + this.#readingBytes + this.#discardedBytes + inTransport;
  }

  send(data) {
    if (this.#plain) return this.#socket.send(data);
    if (this.#readyState === CONNECTING) raise("InvalidStateError", "it is still connecting");
    if (this.#readyState === LIVE && this.#ending) raise("InvalidStateError", "its writable was closed");
    const blob = isA(data, "Blob", "File");
    const bytes = blob ? null : bytesOf(data);
    const size = blob ? data.size : bytes.length;
    if (this.#readyState !== LIVE) {
      this.#discardedBytes += size;
    } else if (blob) {
      this.#behindBlobs(async () => this.#session.send(new Uint8Array(await data.arrayBuffer())), size);
    } else if (this.#readingCount) {
      const copy = bytes.slice();
      this.#behindBlobs(() => this.#session.send(copy), size);
    } else {
      this.#session.send(bytes);
      this.#pump();
    }
  }

  close(code, reason = "") {
    if (code !== undefined) code = Math.round(code === null ? NaN : code);
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      raise("InvalidAccessError", `a page cannot close with ${code}: 1000, or 3000 to 4999`);
    }
    if (code === DETACH) raise("InvalidAccessError", `${code} is the code of a transport that is replaced`);
    if (new TextEncoder().encode(reason).length > 123) raise("SyntaxError", "the reason is longer than 123 bytes");
    if (this.#plain) return code === undefined ? this.#socket.close() : this.#socket.close(code, reason);
    this.#close({ code: code ?? 1000, reason });
  }

  // -- what it has besides

  // connecting, open, reconnecting, closing, closed; or lost: closed, as the session could not be resumed.
  get state() {
    if (this.#lost) return "lost";
    return this.readyState === LIVE && this.#lostAt !== null ? "reconnecting" : STATES[this.readyState];
  }

  // Whether the server has agreed to resume: known once it is open.
  get resumable() {
    return this.#session.opened;
  }

  // What arrives, as a stream of Uint8Array, in place of message events. The server sends no more than the window ahead
  // of the reader.
  get readable() {
    if (!this.#inbox) {
      this.#inbox = new Inbox(
        (count) => this.#consume(count),
        () => this.readyState < CLOSING && this.close(1000),
      );
      if (this.#plain) this.#socket.binaryType = "arraybuffer";
      if (this.readyState === CLOSED || this.#session.finReceived) this.#inbox.end(this.#failure);
    }
    return this.#inbox.stream;
  }

  // A stream of what send() accepts. A write waits while a window is not acknowledged; close ends this direction alone
  // (half-close), and resolves once everything has been acknowledged; abort resets the backend's connection.
  get writable() {
    if (this.#writable) return this.#writable;
    this.#writable = new WritableStream({
      start: (controller) => {
        this.#writeController = controller;
        controller.signal?.addEventListener("abort", () => this.#wake()); // abort() comes only once a write has ended
      },
      write: async (chunk) => {
        await this.#until(() => this.readyState !== CONNECTING);
        if (this.readyState !== LIVE) throw new Error("the session is closing");
        this.send(chunk);
        await this.#until(() => !this.#isFull());
      },
      close: async () => {
        await this.#until(() => this.readyState !== CONNECTING);
        if (this.#plain) return this.#socket.close(1000);
        if (this.#readyState === LIVE) this.#end();
        await this.#until(() => !this.#readingCount && !this.#session.unacknowledged);
      },
      abort: () => {
        if (this.#plain) this.#socket.close(ABORTED, "aborted");
        else this.#close({ code: ABORTED, reason: "aborted", atOnce: true });
      },
    });
    if (this.readyState === CLOSED) this.#writeController.error(this.#failure ?? new Error("closed"));
    return this.#writable;
  }

  // -- transports

  async #connect() {
    this.#drop();
    this.#schedule.notice = null;
    this.#triedAt = now();
    const attempt = this.#attempt;
    const current = () => attempt === this.#attempt;
    const { connectTimeout, nodeParameter, WebSocket } = this.#options;
    const { opened: resuming, hint: node } = this.#session;
    const lose = (code, reason, wasClean) => current() && this.#lose(code, reason, wasClean);
    this.#start("connect", connectTimeout, () => lose(1006, `no answer within ${connectTimeout / 1000} s`));
    try {
      const source = async () => this.#source({ resuming, attempt: this.#attempts, node });
      let given = await source();
      if (!current()) return;
      if (given === null || given === undefined) return this.#finish(1006, "no URL was given", { lost: resuming });
      if (!("url" in Object(given))) given = { url: given };
      const url = absolute(given.url);
      this.#url = url.href;
      this.#origin = url.origin;
      if (resuming && node && nodeParameter) url.searchParams.set(nodeParameter, node);
      const protocols = listed(given.protocols ?? this.#protocols);
      // Browsers fail a connection whose server selects none of the subprotocols that were offered; some servers select
      // the first, whatever it is.
      const others = protocols.length ? protocols : ["binary"];
      const offered = resuming ? protocols.filter((name) => name.startsWith(TOKEN_PREFIX)) : others;
      const socket = new WebSocket(url.href, [...offered, SUBPROTOCOL]);
      this.#socket = socket;
      socket.binaryType = "arraybuffer";
      const inTurn = (act) => current() && (this.#held ? this.#held.push(act) : act());
      socket.onopen = () => current() && this.#transportOpened(protocols);
      socket.onmessage = ({ data }) => inTurn(() => this.#transportReceived(data));
      socket.onclose = ({ code, reason, wasClean }) => inTurn(() => lose(code, reason, wasClean));
      // Browsers report the close in the same turn; Node.js does not report the close of a failed handshake at all.
      socket.onerror = () => current() && this.#start("error", 0, () => lose(1006));
    } catch (error) {
      lose(1006, `no transport: ${error?.message ?? error}`);
    }
  }

  // Forget the transport. It is closed with a code that leaves the session alone, once there is one.
  #drop(code = this.#session.opened ? DETACH : 1000, reason = "") {
    this.#attempt += 1;
    for (const name of ["connect", "error", "held", "retry", "ack", "silence"]) this.#stop(name);
    this.#held = null;
    this.#session.detach();
    const socket = this.#socket;
    this.#socket = null;
    if (socket && socket.readyState < CLOSING) socket.close(code, reason);
  }

  #transportOpened(protocols) {
    if (this.#socket.protocol === SUBPROTOCOL) {
      this.#protocol = protocols.find((name) => !name.startsWith(TOKEN_PREFIX)) ?? "";
      this.#socket.send(this.#session.greet());
    } else if (this.#session.opened) {
      this.#lose(1006, "the server did not select the subprotocol");
    } else {
      this.#bePlain();
    }
  }

  #bePlain() {
    const socket = this.#socket;
    this.#plain = true;
    this.#stop("connect");
    this.#stopListening();
    this.#protocol = socket.protocol;
    socket.binaryType = this.#inbox ? "arraybuffer" : this.#binaryType;
    socket.onmessage = ({ data, origin }) => {
      if (this.#inbox) this.#inbox.push(bytesOf(data));
      else this.dispatchEvent(new MessageEvent("message", { data, origin }));
    };
    socket.onerror = () => this.dispatchEvent(new Event("error"));
    socket.onclose = ({ code, reason, wasClean }) => this.#announceEnd(code, reason, wasClean);
    this.dispatchEvent(new Event("open"));
    this.#wake();
  }

  #transportReceived(data) {
    this.#heard += 1;
    this.#heardAt = now();
    this.#heardOn = Date.now();
    const text = { type: "error", code: VIOLATION, reason: "a text message", ours: true };
    const event = typeof data === "string" ? text : this.#session.receive(new Uint8Array(data));
    if (event !== null) this.#on(event);
  }

  // Node.js delivers several messages in one turn, if they have come together. A page that awaits `open` listens to
  // the next one only after that.
  #hold() {
    this.#held = [];
    queueMicrotask(() => {
      if (this.#held?.length) this.#start("held", 0, () => this.#release());
      else this.#held = null;
    });
  }

  #release() {
    const acts = this.#held;
    const attempt = this.#attempt;
    this.#held = null;
    for (const act of acts) attempt === this.#attempt && act();
  }

  #on(event) {
    switch (event.type) {
      case "data":
        if (this.#inbox) this.#inbox.push(event.bytes);
        else this.#deliver(event.bytes);
        break;
      case "ack":
        if (this.#readyState === CLOSING) this.#startCloseTimer();
        this.#wake();
        this.#pump();
        break;
      case "opened":
        this.#attached();
        this.#readyState = LIVE;
        this.#hold();
        this.dispatchEvent(new Event("open"));
        this.#wake();
        this.#pump();
        break;
      case "resumed": {
        const detail = { attempts: this.#attempts, outage: now() - this.#lostAt, replayed: event.replayed };
        this.#attached();
        this.#acknowledge();
        this.dispatchEvent(new DetailEvent("resumed", detail));
        this.#pump();
        break;
      }
      case "fin":
        this.#onFin();
        break;
      case "goaway":
        this.#schedule.notice = event;
        break;
      case "later":
        this.#lose(event.code, event.reason);
        break;
      case "error":
        this.#onError(event);
    }
  }

  #attached() {
    this.#stop("connect");
    this.#schedule.attached(now());
    this.#lostAt = null;
    this.#watch();
  }

  #deliver(bytes) {
    if (this.#readyState === LIVE) {
      const data = this.#binaryType === "blob" ? new Blob([bytes]) : bytes.slice().buffer;
      this.dispatchEvent(new MessageEvent("message", { data, origin: this.#origin }));
    }
    this.#consume(bytes.length);
  }

  #consume(count) {
    if (this.#plain) return;
    this.#session.consume(count);
    if (!this.#session.attached) return;
    if (this.#session.ackDue) this.#acknowledge();
    else if (!this.#timers.ack) this.#start("ack", this.#session.ackMs, () => this.#acknowledge());
  }

  #acknowledge() {
    this.#stop("ack");
    this.#socket.send(this.#session.ack());
  }

  // The server's stream is complete. A page with streams ends its own when it likes; others know no half-close.
  #onFin() {
    const taken = () => {
      this.#session.consume(1);
      if (this.#session.attached) this.#acknowledge();
      this.#pump();
    };
    if (this.#inbox) return this.#inbox.end(undefined, taken);
    taken();
    if (this.#readyState !== LIVE || this.#writable) return;
    this.#readyState = CLOSING;
    this.#startCloseTimer();
    this.#end();
  }

  #onError({ code, reason, ours = false }) {
    if (!ours) return this.#endedBy(code, reason, true);
    this.#socket.send(errorFrame(code, reason));
    this.#finish(code, reason, { lost: GONE[code], wire: [code, reason] });
  }

  // The server has ended the session, or does not have it.
  #endedBy(code, reason, wasClean) {
    const { sent, code: ownCode, reason: ownReason } = this.#closing ?? {};
    // Where our Close had arrived, and only the answer was lost, this is what the page wanted.
    const wanted = code === 4001 && this.#closing && (sent || !this.#session.unacknowledged);
    if (wanted) this.#finish(ownCode, ownReason, { wasClean: true });
    else this.#finish(code, reason, { wasClean, lost: GONE[code] });
  }

  // A transport ended, or it is given up: reconnect, unless its code ends the session.
  #lose(code, reason = "", wasClean = false) {
    const { opened, complete, ttl } = this.#session;
    if (!opened) return this.#finish(code, reason, { wasClean });
    if (complete) return this.#finish(1000, reason || "backend_closed", { wasClean: true });
    if (this.#session.endsBy(code)) return this.#endedBy(code, reason, wasClean);
    this.#drop();
    this.#closeSent = false;
    const at = now();
    const isNew = this.#lostAt === null;
    if (isNew) {
      this.#lostAt = at;
      this.#lostOn = Date.now();
      this.#attempts = 0;
    }
    const expiry = this.#lostAt + ttl * 1000;
    // An attempt that began before may have been suspended, with the page or the computer: there is another one.
    if (!isNew && this.#triedAt >= expiry) {
      return this.#finish(1006, `the server was not reached for ${ttl} s: ${words(code, reason)}`, { lost: true });
    }
    const pause = isNew ? this.#schedule.lost(at, this.#session.progress) : this.#schedule.failed();
    const delay = Math.min(pause, Math.max(0, expiry - at));
    this.#start("retry", delay, () => this.#connect());
    this.#attempts += 1;
    const since = this.#lostOn;
    const detail = { attempt: this.#attempts, delay, since, until: since + ttl * 1000, reason: words(code, reason) };
    this.dispatchEvent(new DetailEvent("reconnecting", detail));
  }

  // `wire`: what the transport is closed with.
  #finish(code, reason, { wasClean = false, lost = false, wire = [1000] } = {}) {
    if (this.#readyState === CLOSED) return;
    this.#drop(...wire);
    this.#stop("close");
    this.#stopListening();
    this.#readyState = CLOSED;
    this.#lost = lost;
    if (!wasClean) this.dispatchEvent(new Event("error"));
    this.#announceEnd(code, words(code, reason), wasClean);
  }

  #announceEnd(code, reason, wasClean) {
    this.#failure = code === 1000 && wasClean ? null : new Error(`closed with ${code}: ${reason}`);
    this.#inbox?.end(this.#failure);
    this.#writeController?.error(this.#failure ?? new Error("closed"));
    this.#wake();
    this.dispatchEvent(new CloseEventClass("close", { code, reason, wasClean }));
  }

  // -- sending

  // End the page's stream.
  #end() {
    this.#ending = true;
    if (this.#readingCount) return this.#behindBlobs(() => this.#session.finish(), 0);
    this.#session.finish();
    this.#pump();
  }

  // Act once all Blobs before have been read.
  #behindBlobs(act, size) {
    this.#readingCount += 1;
    this.#readingBytes += size;
    this.#reading = this.#reading
      .then(act)
      .catch((error) => this.#finish(1006, `a Blob could not be read: ${error.message}`, { wire: [ABORTED] }))
      .then(() => {
        this.#readingCount -= 1;
        this.#readingBytes -= size;
        this.#pump();
        this.#wake();
      });
  }

  #close(closing) {
    if (this.#closing || this.#closeSent || this.#readyState === CLOSED) return;
    this.#closing = closing;
    if (this.#readyState === CONNECTING) {
      this.#drop();
      queueMicrotask(() => this.#finish(1006, "closed before it was open"));
    } else {
      this.#startCloseTimer();
    }
    this.#readyState = CLOSING;
    this.#pump();
  }

  // Send what the window allows, and then the Close that waits for it.
  #pump() {
    if (!this.#session.attached || this.#closeSent) return;
    const { code, reason, atOnce } = this.#closing ?? {};
    if (atOnce) return this.#sendClose(code, reason);
    for (let frame; (frame = this.#session.next()); ) this.#socket.send(frame);
    if (this.#session.complete) return this.#sendClose(1000, "");
    if (!this.#closing || this.#readingCount) return;
    // 1000 comes when all has arrived, other codes when all was sent.
    if (code === 1000 ? !this.#session.unacknowledged : !this.#session.unsent) this.#sendClose(code, reason);
  }

  #sendClose(code, reason) {
    this.#closeSent = true;
    if (this.#closing) this.#closing.sent = true;
    this.#readyState = CLOSING;
    this.#socket.close(code, reason);
    this.#startCloseTimer();
  }

  // It runs as long as it is CLOSING: whatever happens, there is an end.
  #startCloseTimer() {
    const { closeTimeout } = this.#options;
    this.#start("close", closeTimeout, () => this.#finish(1006, `not closed within ${closeTimeout / 1000} s`));
  }

  #isFull() {
    if (this.#plain) return this.#socket.bufferedAmount >= PLAIN_WINDOW;
    return this.#session.unacknowledged + this.#readingBytes >= this.#session.window;
  }

  async #until(condition) {
    while (!condition()) {
      if (this.readyState === CLOSED) throw new Error("the session has ended");
      if (this.#writeController.signal?.aborted) throw new Error("aborted");
      await new Promise((resolve) => (this.#plain ? setTimeout(resolve, 10) : this.#waiting.push(resolve)));
    }
  }

  #wake() {
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  // -- time, and what the browser knows

  #start(name, delay, act) {
    this.#stop(name);
    this.#timers[name] = setTimeout(() => {
      this.#timers[name] = undefined;
      act();
    }, Math.min(delay, MAX_TIMER_MS));
  }

  #stop(name) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = undefined;
  }

  // Milliseconds without a message after which a path is dead, as the server would send KEEPALIVE; 0: it would not.
  get #silenceLimit() {
    return this.#session.keepalive * 1000 * SILENT_KEEPALIVES;
  }

  // Notice a path that is dead.
  #watch() {
    if (!this.#silenceLimit) return;
    const heard = this.#heard;
    const due = this.#heardAt + this.#silenceLimit;
    this.#start("silence", due - now(), () => {
      if (this.#heard > heard) this.#watch();
      else if (now() - due > LATE_MS) this.#watchBriefly();
      else this.#loseSilent();
    });
  }

  // After what may have been a sleep, of the page or the computer: messages that have come meanwhile are read first.
  // Timers of hidden pages are always late, so this is done once.
  #watchBriefly() {
    const heard = this.#heard;
    this.#start("silence", GRACE_MS, () => (this.#heard > heard ? this.#watch() : this.#loseSilent()));
  }

  #loseSilent() {
    const silence = Math.max(now() - this.#heardAt, Date.now() - this.#heardOn);
    this.#lose(1006, `nothing came for ${Math.round(silence / 1000)} s`);
  }

  #listen() {
    const { document } = globalThis;
    const listening = new AbortController();
    const on = (target, type, act) => target?.addEventListener?.(type, act, { signal: listening.signal });
    this.#stopListening = () => listening.abort();
    const mayHaveSlept = () => this.#session.attached && this.#silenceLimit && Date.now() - this.#heardOn >= this.#silenceLimit;
    const wake = () => {
      if (mayHaveSlept()) this.#watchBriefly(); // the timer for it has slept, too
      else if (this.#timers.retry && !this.#schedule.notice) this.#connect();
    };
    on(globalThis, "offline", () => this.#session.attached && this.#lose(1006, "the browser is offline"));
    // An attempt that runs may hang, as it was begun over another network.
    on(globalThis, "online", () => this.#lostAt !== null && !this.#schedule.notice && this.#connect());
    on(globalThis, "pageshow", wake);
    on(document, "resume", wake);
    on(document, "visibilitychange", () => document.visibilityState === "visible" && wake());
    // A page that is gone needs no session; one that is kept (persisted) may come back.
    on(globalThis, "pagehide", ({ persisted }) => persisted || this.#finish(1001, "the page was left", { wasClean: true }));
  }

  // A handler is called by one listener, which stays where it is among others when the handler is replaced.
  #setHandler(type, handler) {
    if (!(type in this.#handlers)) this.addEventListener(type, (event) => this.#handlers[type]?.call(this, event));
    this.#handlers[type] = typeof handler === "function" ? handler : null;
  }

  static {
    for (const [value, name] of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].entries()) {
      for (const target of [this, this.prototype]) Object.defineProperty(target, name, { value, enumerable: true });
    }
    for (const type of ["open", "message", "error", "close", "reconnecting", "resumed"]) {
      Object.defineProperty(this.prototype, `on${type}`, {
        get() {
          return this.#handlers[type] ?? null;
        },
        set(handler) {
          this.#setHandler(type, handler);
        },
        enumerable: true,
        configurable: true,
      });
    }
  }
}
