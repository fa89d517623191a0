// What browsers, Node.js, pages, clocks and servers do besides what is usual, over scripted transports.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { ClientSession, ResumableWebSocket } from "../resume.js";
import { FakeSocket, SUBPROTOCOL, ack, data, error, fin, goaway, keepalive, opened, resumed, settle } from "./fake.js";
import { URL_OF_TEST, live, make, resume, scripted, time } from "./page.js";

scripted();

describe("transports", () => {
  test("a failed handshake of which only an error is heard, as in Node.js", async () => {
    const { seen } = make();
    await settle();
    FakeSocket.last.onerror?.(new Event("error"));
    await time.pass(0);
    assert.deepEqual(seen(), ["error", "close 1006 the connection broke"]);
    const other = await live();
    other.transport.end();
    await time.pass(0);
    FakeSocket.last.onerror?.(new Event("error"));
    await time.pass(0);
    assert.deepEqual(other.seen(), ["reconnecting 1 in 0: the connection broke", "reconnecting 2 in 500: the connection broke"]);
  });

  test("an error whose close follows is told of once, with the code and text of the close", async () => {
    const { seen, transport } = await live();
    transport.onerror?.(new Event("error"));
    transport.end(4009, "max_lifetime");
    await time.pass(0);
    assert.deepEqual(seen(), ["close 4009 max_lifetime"]);
  });

  test("an error that nobody listens to ends the process with the library ws", async () => {
    const { transport } = await live();
    assert.equal(typeof transport.onerror, "function");
  });

  test("a transport that was dropped says nothing any more", async () => {
    const { seen, transport } = await live();
    transport.end();
    const next = await resume(0);
    seen();
    transport.onerror?.(new Event("error"));
    transport.receive(data("late"), error(4009));
    transport.end(4009);
    await time.pass(0);
    assert.deepEqual([seen(), next.transport.closed], [[], null]);
  });

  test("messages that come with OPENED in one read are heard by what waits for open", async () => {
    for (const last of ["error", "fin", "close"]) {
      const { socket } = make();
      socket.onmessage = socket.onclose = null;
      const heard = [];
      const page = async () => {
        await new Promise((resolve) => (socket.onopen = resolve));
        socket.onmessage = (event) => heard.push(new TextDecoder().decode(event.data));
        socket.onclose = (event) => heard.push(event.code);
      };
      const done = page();
      await settle();
      FakeSocket.last.open();
      FakeSocket.last.receive(opened(), data("hello"));
      if (last === "error") FakeSocket.last.receive(error(4012, "reset"));
      if (last === "fin") FakeSocket.last.receive(fin(5));
      if (last === "close") FakeSocket.last.end(4012);
      await done;
      await time.pass(0);
      assert.deepEqual(heard, last === "fin" ? ["hello"] : ["hello", 4012], last);
      assert.equal(socket.readyState, last === "fin" ? 2 : 3);
    }
  });

  test("and so are those that come with RESUMED", async () => {
    const { seen, transport } = await live();
    transport.end();
    await time.pass(0);
    FakeSocket.last.open();
    FakeSocket.last.receive(resumed(0), data("hello"), error(4012, "reset"));
    assert.deepEqual(seen().slice(1), ["resumed after 0 and 1: 0 again", "hello", "close 4012 reset"]);
  });

  // Pauses before the attempts of a session whose transports are cut as soon as `use` has had them.
  async function pauses(count, use, received = () => 0) {
    const { socket, transport } = await live();
    const found = [];
    socket.onreconnecting = ({ detail }) => found.push(detail.delay);
    await time.pass(10_000);
    for (let last = transport; found.length < count; last = FakeSocket.last) {
      last.end(1006);
      await time.pass(found.at(-1));
      FakeSocket.last.open();
      FakeSocket.last.receive(resumed(received()));
      use(FakeSocket.last, socket);
    }
    return found;
  }

  test("a server that resumes and drops at once is asked less and less often", async () => {
    assert.deepEqual(await pauses(7, () => {}), [0, 500, 1000, 2000, 4000, 5000, 5000]);
  });

  test("once something has come again, pauses are as they were before", async () => {
    let count = 0;
    assert.deepEqual(await pauses(7, (transport) => ++count === 4 && transport.receive(data("x"))), [0, 500, 1000, 2000, 0, 500, 1000]);
  });

  test("one that drops after something has come is asked at once, but not twice a second", async () => {
    assert.deepEqual(await pauses(4, (transport) => transport.receive(data("x"))), [0, 500, 500, 0]);
    let sent = 0;
    const acknowledge = (transport, socket) => {
      socket.send("x");
      transport.receive(ack(++sent));
    };
    assert.deepEqual(await pauses(4, acknowledge, () => sent), [0, 500, 500, 0]);
  });

  test("the text of a violation is in the Close, too", async () => {
    const { transport } = await live();
    transport.receive(new Uint8Array([0x33]));
    const [frame] = transport.frames();
    assert.equal(frame, `ERROR 4008 ${transport.closed[1]}`);
    assert.match(transport.closed[1], /type 51/);
  });

  test("nothing is left behind by transports and by the end", async () => {
    const { socket, transport } = await live();
    transport.end();
    await resume(0);
    socket.close();
    FakeSocket.last.end(1000);
    assert.deepEqual([socket.state, time.timers()], ["closed", 0]);
  });
});

describe("time", () => {
  test("a dead path is noticed in a page whose timers are late, always", async () => {
    const { seen } = await live({ terms: { keepalive: 20 } });
    for (let minute = 0; minute < 4; minute += 1) {
      time.sleep(60_000); // Chromium lets timers of hidden pages fire once a minute
      await time.pass(0);
    }
    assert.match(seen()[0] ?? "", /^reconnecting 1 in 0: nothing came for \d+ s/);
  });

  test("it is lost after the ttl even if its timers are late", async () => {
    const { socket, transport } = await live({ terms: { ttl: 120 } });
    transport.end();
    for (let minute = 0; minute < 8; minute += 1) {
      await time.pass(0);
      time.sleep(60_000);
    }
    assert.equal(socket.state, "lost");
  });

  test("the date may be set back, and a dead path is noticed nonetheless", async () => {
    const { seen, transport } = await live({ terms: { keepalive: 4 } });
    time.setDate(-3_600_000);
    transport.receive(keepalive());
    time.setDate(-3_600_000);
    await time.pass(10_000);
    assert.deepEqual(seen(), ["reconnecting 1 in 0: nothing came for 10 s"]);
  });

  test("the date may be set forward, and the session is not lost", async () => {
    const { socket, seen, transport } = await live({ terms: { ttl: 60 } });
    transport.end();
    await time.pass(0);
    time.setDate(3_600_000);
    FakeSocket.last.end();
    await time.pass(500);
    FakeSocket.last.end();
    assert.equal(socket.state, "reconnecting");
    await time.pass(1000);
    FakeSocket.last.open();
    FakeSocket.last.receive(resumed(0));
    assert.equal(seen().at(-1), "resumed after 1500 and 3: 0 again");
  });

  test("since and until are dates", async () => {
    const { socket, transport } = await live({ terms: { ttl: 60 } });
    const details = [];
    socket.onreconnecting = ({ detail }) => details.push(detail);
    const lost = Date.now();
    transport.end();
    await time.pass(0);
    FakeSocket.last.end();
    time.setDate(400);
    await time.pass(500.4);
    FakeSocket.last.end();
    for (const { since, until } of details) assert.deepEqual([since, until], [lost, lost + 60_000]);
    assert.equal(details.length, 3);
  });
});

describe("pages", () => {
  test("a handler is one listener, whatever else listens", async () => {
    const { socket, transport } = await live();
    const heard = [];
    const both = () => heard.push("both");
    socket.onmessage = () => heard.push("first");
    socket.addEventListener("message", both);
    socket.onmessage = both; // in the place of the first
    transport.receive(data("a"));
    assert.deepEqual(heard.splice(0), ["both", "both"]);
    socket.onmessage = null;
    transport.receive(data("b"));
    assert.deepEqual(heard.splice(0), ["both"]);
    socket.onmessage = () => heard.push("handler");
    socket.addEventListener("message", () => heard.push("listener"));
    socket.onmessage = () => heard.push("other handler");
    transport.receive(data("c"));
    assert.deepEqual(heard, ["other handler", "both", "listener"]); // a handler has the place in which there first was one
  });

  test("listeners: objects, once, signals", async () => {
    const { socket, transport } = await live();
    const heard = [];
    const stop = new AbortController();
    socket.addEventListener("message", { handleEvent: () => heard.push("object") });
    socket.addEventListener("message", () => heard.push("once"), { once: true });
    socket.addEventListener("message", () => heard.push("until aborted"), { signal: stop.signal });
    transport.receive(data("a"));
    stop.abort();
    transport.receive(data("b"));
    assert.deepEqual(heard, ["object", "once", "until aborted", "object"]);
  });

  test("handlers may send and close, whatever they handle", async () => {
    const { socket, seen } = make();
    socket.addEventListener("open", () => socket.send("from open"));
    socket.addEventListener("message", ({ data }) => socket.send(data));
    socket.addEventListener("reconnecting", () => socket.send(" from reconnecting"));
    socket.addEventListener("resumed", () => socket.close(3001, "from resumed"));
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.receive(opened());
    await settle();
    FakeSocket.last.receive(data(" back"));
    assert.deepEqual(FakeSocket.last.frames(), ["OPEN 0", "DATA from open", "DATA  back"]);
    FakeSocket.last.end();
    const { transport } = await resume(14);
    assert.deepEqual(transport.frames(), ["ACK 5", "DATA  from reconnecting"]);
    assert.deepEqual(transport.closed, [3001, "from resumed"]);
    transport.end(3001);
    assert.match(seen().at(-1), /^close 3001/);
    const other = make();
    other.socket.addEventListener("open", () => other.socket.close());
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.receive(opened());
    assert.deepEqual([FakeSocket.last.closed, other.socket.state], [[1000, ""], "closing"]);
    const third = await live();
    third.socket.onreconnecting = () => third.socket.close();
    third.transport.end();
    const last = await resume(0);
    assert.deepEqual(last.transport.closed, [1000, ""]);
  });

  test("handlers that throw stop nothing", async () => {
    const thrown = [];
    const before = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    const note = (found) => thrown.push(found.message);
    process.on("uncaughtException", note);
    try {
      const { socket, transport } = await live();
      for (const type of ["message", "reconnecting", "resumed", "error", "close"]) {
        socket[`on${type}`] = () => {
          throw new Error(type);
        };
      }
      socket.send("kept");
      transport.receive(data("a"));
      transport.end();
      const next = await resume(0);
      assert.deepEqual(next.transport.frames(), ["ACK 1", "DATA kept"]);
      next.transport.receive(new Uint8Array([0x33]));
      await settle();
      assert.equal(socket.state, "closed");
      assert.deepEqual(thrown, ["message", "reconnecting", "resumed", "error", "close"]);
    } finally {
      process.removeListener("uncaughtException", note);
      for (const listener of before) process.on("uncaughtException", listener);
    }
  });

  test("what send() takes", async () => {
    const { socket, transport } = await live();
    const shared = new Uint8Array(new SharedArrayBuffer(6));
    shared.set(new TextEncoder().encode("shared"));
    socket.send(shared.buffer);
    socket.send(new DataView(shared.buffer, 2, 3));
    socket.send("\ud800 alone");
    socket.send(new Uint16Array([0x6968]));
    socket.send(17);
    assert.deepEqual(transport.frames(), ["DATA shared", "DATA are", "DATA \ufffd alone", "DATA hi", "DATA 17"]);
  });

  test("options that are undefined are those that are not given", async () => {
    const { socket } = make({ connectTimeout: undefined, closeTimeout: undefined, maxDelay: undefined, nodeParameter: undefined, window: undefined });
    await time.pass(1);
    assert.equal(socket.state, "connecting");
    FakeSocket.last.open();
    assert.deepEqual(FakeSocket.last.frames(), ["OPEN 0"]);
  });

  test("the global WebSocket is that of the moment, as it may be a stand-in", async () => {
    const before = globalThis.WebSocket;
    globalThis.WebSocket = FakeSocket;
    try {
      new ResumableWebSocket("ws://x/");
      await settle();
      assert.equal(FakeSocket.last.url, "ws://x/");
      globalThis.WebSocket = undefined;
      assert.throws(() => new ResumableWebSocket("ws://x/"), { name: "NotSupportedError" });
    } finally {
      globalThis.WebSocket = before;
    }
  });

  test("a window that OPEN cannot ask for is an error", () => {
    for (const window of [-1, 0.5, 2 ** 32, Number.NaN]) assert.throws(() => make({ window }), RangeError, `${window}`);
  });

  test("subprotocols: none that is no token, and that of the session once", async () => {
    assert.throws(() => make({ protocols: ["a b"] }), { name: "SyntaxError" });
    assert.throws(() => make({ protocols: "" }), { name: "SyntaxError" });
    make({ protocols: ["mqtt", SUBPROTOCOL] });
    await settle();
    assert.deepEqual(FakeSocket.last.protocols, ["mqtt", SUBPROTOCOL]);
    make({ protocols: SUBPROTOCOL });
    await settle();
    assert.deepEqual(FakeSocket.last.protocols, ["binary", SUBPROTOCOL]);
  });

  test("a function that gives what is no URL", async () => {
    globalThis.document = Object.assign(new EventTarget(), { baseURI: "http://gw.example.org/page" });
    try {
      for (const given of [{}, { url: undefined }, 42, false, []]) {
        const { seen } = make({ url: () => given });
        await settle();
        assert.match(seen().at(-1), /^close 1006 no transport: not a URL/, JSON.stringify(given));
      }
      for (const given of ["/a", { url: new URL("http://gw.example.org/a") }, { url: "/a", protocols: null }, new URL("ws://gw.example.org/a")]) {
        make({ url: () => given });
        await settle();
        assert.equal(FakeSocket.last.url, "ws://gw.example.org/a");
      }
    } finally {
      delete globalThis.document;
    }
  });

  test("a function that settles late is not heard any more", async () => {
    let settleLate = {};
    const url = () => new Promise((resolve, reject) => (settleLate = { resolve, reject }));
    const { socket, seen } = make({ url });
    socket.close();
    settleLate.resolve("ws://x/");
    await settle();
    assert.deepEqual([FakeSocket.all.length, seen()], [0, ["error", "close 1006 closed before it was open"]]);
    const other = make({ url });
    await time.pass(10_000);
    settleLate.reject(new Error("late"));
    await settle();
    assert.deepEqual(other.seen(), ["error", "close 1006 no answer within 10 s"]);
  });

  test("what is sent behind an end that waits for a Blob is an error of the page, not of the session", async () => {
    const { socket, transport } = await live();
    const writer = socket.writable.getWriter();
    socket.send(new Blob(["blob"]));
    const closed = writer.close();
    await null;
    await null;
    await null;
    assert.throws(() => socket.send("behind"), { name: "InvalidStateError" });
    await settle();
    assert.deepEqual(transport.frames(), ["DATA blob", "FIN 4"]);
    transport.receive(ack(5));
    await closed;
    assert.equal(socket.state, "open");
  });

  test("the page may close while the last bytes are not acknowledged, and it ends without them", async () => {
    const { socket, seen, transport } = await live({ terms: { window: 3 } });
    socket.send("abcde");
    transport.receive(fin(0)); // the backend has ended its stream, and reads no more
    assert.equal(socket.state, "closing");
    await time.pass(9_000);
    transport.receive(ack(1));
    await time.pass(9_000);
    assert.deepEqual(seen(), []);
    await time.pass(1_000);
    assert.deepEqual(seen(), ["error", "close 1006 not closed within 10 s"]);
    const other = await live({ terms: { window: 3 } });
    other.socket.send("abc");
    other.transport.receive(fin(0));
    other.socket.close(3001, "enough");
    assert.deepEqual(other.transport.closed, [3001, "enough"]);
  });

  test("codes are numbers, as for WebSocket", async () => {
    const { socket, transport } = await live();
    socket.close("3001.4");
    assert.deepEqual(transport.closed, [3001, ""]);
    const { socket: other } = await live();
    for (const code of [null, Number.NaN, "x", 999, 5000]) assert.throws(() => other.close(code), { name: "InvalidAccessError" });
    other.close("1000");
    assert.deepEqual(FakeSocket.last.closed, [1000, ""]);
  });

  test("codes without words of their own have some", async () => {
    const { seen, transport } = await live();
    transport.end(1011);
    assert.deepEqual(seen(), ["close 1011 closed with 1011"]);
  });
});

describe("servers", () => {
  test("an ACK is not later than half of what the server may send", async () => {
    const { transport } = await live({ window: 4096, terms: { ackBytes: 1 << 20, ackMs: 65_535 } });
    transport.receive(data("x".repeat(2047)));
    assert.deepEqual(transport.frames(), []);
    transport.receive(data("x"));
    assert.deepEqual(transport.frames(), ["ACK 2048"]);
  });

  test("an OPENED that is refused opens nothing", () => {
    const withHint = opened({ node: "web2" });
    withHint[77] = 0xe9; // no ASCII
    for (const bytes of [opened({ window: 0 }), withHint]) {
      const session = new ClientSession();
      session.greet();
      const event = session.receive(bytes);
      assert.deepEqual([event?.type, event?.code, session.opened], ["error", 4008, false]);
    }
  });

  test("positions that no number has are a gap, and not rounded", async () => {
    for (const frame of [ack(2n ** 64n - 1n), ack(2n ** 53n), fin(2n ** 63n)]) {
      const { socket, transport } = await live();
      transport.receive(frame);
      assert.match(transport.frames()[0], /^ERROR 4002 position \d+ is out of range/);
      assert.equal(socket.state, "lost");
    }
    const { transport } = await live();
    transport.end();
    const next = await resume(2n ** 53n);
    assert.match(next.transport.frames()[0], /^ERROR 4002 position 9007199254740992 is out of range/);
  });

  test("an ACK of nothing new is no progress for which close() waits longer", async () => {
    const { socket, seen, transport } = await live();
    socket.send("abc");
    socket.close();
    for (let count = 0; count < 10; count += 1) {
      await time.pass(1000);
      transport.receive(ack(0));
    }
    assert.deepEqual([seen().at(-1), socket.state], ["close 1006 not closed within 10 s", "closed"]);
  });

  test("an attempt whose TLS failed is a failed attempt", async () => {
    const { socket, transport } = await live();
    transport.end();
    await time.pass(0);
    FakeSocket.last.end(1015);
    assert.equal(socket.state, "reconnecting");
  });
});

describe("what the browser says", () => {
  let window;
  beforeEach(() => {
    window = new EventTarget();
    globalThis.addEventListener = window.addEventListener.bind(window);
  });
  afterEach(() => delete globalThis.addEventListener);

  for (const type of ["visibilitychange", "resume", "pageshow"]) {
    test(`${type} after a sleep in which no clock went on: a path that says nothing is given up soon`, async () => {
      globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });
      try {
        const { seen, transport } = await live({ terms: { keepalive: 20 } });
        const wake = () => (type === "pageshow" ? window : document).dispatchEvent(new Event(type));
        time.setDate(3_600_000); // the date does, but timers do not
        wake();
        transport.receive(keepalive());
        await time.pass(2000);
        wake();
        await time.pass(2000);
        assert.deepEqual(seen(), []);
        time.setDate(3_600_000);
        wake();
        await time.pass(2000);
        assert.match(seen()[0] ?? "", /^reconnecting 1 in 0: nothing came for 360\d s/);
      } finally {
        delete globalThis.document;
      }
    });
  }

  test("online does not end the pause that the server asks for", async () => {
    const { transport } = await live();
    transport.receive(goaway(2000, 0));
    transport.end(1012);
    window.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(FakeSocket.all.length, 1);
    await time.pass(2000);
    assert.equal(FakeSocket.all.length, 2);
  });

  test("offline that is not true costs one transport", async () => {
    const { seen, transport } = await live();
    window.dispatchEvent(new Event("offline"));
    const next = await resume(0);
    window.dispatchEvent(new Event("online"));
    await settle();
    assert.deepEqual([transport.closed, next.transport.closed, FakeSocket.all.length], [[4003, ""], null, 2]);
    assert.match(seen().at(-1), /^resumed/);
  });

  test("instances do not disturb one another, and leave no listeners", async () => {
    let listeners = 0;
    const { addEventListener } = globalThis;
    globalThis.addEventListener = (type, act, options) => {
      listeners += 1;
      options.signal.addEventListener("abort", () => (listeners -= 1));
      addEventListener(type, act, options);
    };
    const one = await live();
    const other = await live();
    one.transport.end(4009);
    window.dispatchEvent(new Event("offline"));
    assert.deepEqual([one.seen(), other.seen().length], [["close 4009 the session was ended by a rule of the server"], 1]);
    other.socket.close();
    await time.pass(10_000);
    make({ url: URL_OF_TEST }).socket.close();
    await settle();
    assert.equal(listeners, 0);
  });
});

test("it is an EventTarget with a WebSocket's constructor", () => {
  assert.equal(ResumableWebSocket.length, 1);
  assert.ok(make().socket instanceof EventTarget);
});
