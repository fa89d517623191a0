// ResumableWebSocket over scripted transports.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { ResumableWebSocket } from "../resume.js";
import { FakeSocket, SUBPROTOCOL, ack, data, error, fin, goaway, keepalive, opened, resumed, settle } from "./fake.js";
import { URL_OF_TEST, live, make, resume, scripted, time } from "./page.js";

scripted();

describe("as a WebSocket", () => {
  test("it has the constants, and everything on its prototype", () => {
    const { socket } = make();
    const names = Object.getOwnPropertyNames(Object.getPrototypeOf(socket));
    for (const name of ["send", "close", "binaryType", "onerror", "onmessage", "onopen", "onclose", "protocol", "readyState"]) {
      assert.ok(names.includes(name), name); // noVNC looks there
    }
    for (const [value, name] of ["CONNECTING", "OPEN", "CLOSING", "CLOSED"].entries()) {
      assert.equal(ResumableWebSocket[name], value);
      assert.equal(socket[name], value);
    }
    assert.equal(socket.readyState, 0);
    assert.equal(socket.url, URL_OF_TEST);
    assert.equal(new ResumableWebSocket("ws://x/", [], { WebSocket: FakeSocket }).binaryType, "blob");
  });

  test("its arguments are checked as those of WebSocket are", () => {
    const fails = (name, act) => assert.throws(act, (thrown) => thrown.name === name);
    fails("SyntaxError", () => make({ url: "nowhere" }));
    fails("SyntaxError", () => make({ url: "ftp://x/" }));
    fails("SyntaxError", () => make({ url: "ws://x/#part" }));
    fails("SyntaxError", () => make({ protocols: ["a", "a"] }));
    const { socket } = make({ url: "https://gw.example.org/x?y=1" });
    assert.equal(socket.url, "wss://gw.example.org/x?y=1");
    fails("InvalidStateError", () => socket.send("early"));
    fails("InvalidAccessError", () => socket.close(1001));
    fails("InvalidAccessError", () => socket.close(4003));
    fails("SyntaxError", () => socket.close(1000, "x".repeat(124)));
  });

  test("it opens, and sends and receives bytes", async () => {
    const { socket, seen } = make({ protocols: ["mqtt"], window: 300_000 });
    await settle();
    const transport = FakeSocket.last;
    assert.deepEqual(transport.protocols, ["mqtt", SUBPROTOCOL]);
    transport.open();
    assert.deepEqual(transport.frames(), ["OPEN 300000"]);
    assert.deepEqual(seen(), []);
    transport.receive(opened());
    await settle();
    assert.deepEqual(seen(), ["open"]);
    assert.deepEqual([socket.readyState, socket.state, socket.resumable, socket.protocol], [1, "open", true, "mqtt"]);

    const bytes = new TextEncoder().encode("-view-");
    socket.send("text");
    socket.send(bytes.buffer);
    socket.send(bytes.subarray(1, 5));
    bytes.fill(0); // what was given to send() does not change any more
    socket.send("");
    assert.deepEqual(transport.frames(), ["DATA text", "DATA -view-", "DATA view"]);
    transport.receive(data("hello"), data(" world"));
    assert.deepEqual(seen(), ["hello", " world"]);
  });

  test("Blobs are sent in order with all else, and received if asked for", async () => {
    const { socket, transport } = await live();
    let heard = null;
    socket.onmessage = (event) => (heard = event.data);
    socket.send(new Blob(["one"]));
    socket.send("two");
    socket.send(new Blob(["three"]));
    assert.equal(socket.bufferedAmount, 11);
    socket.close(1000);
    await settle();
    assert.deepEqual(transport.frames(), ["DATA one", "DATA two", "DATA three"]);
    assert.equal(transport.closed, null); // 1000 waits until all has arrived
    transport.receive(ack(11));
    assert.deepEqual(transport.closed, [1000, ""]);
    const other = await live();
    other.socket.binaryType = "blob";
    other.socket.onmessage = (event) => (heard = event.data);
    other.transport.receive(data("blob"));
    assert.equal(await heard.text(), "blob");
  });

  test("where none is offered by the page, binary is beside it", async () => {
    const { socket } = await live();
    assert.deepEqual(FakeSocket.last.protocols, ["binary", SUBPROTOCOL]);
    assert.equal(socket.protocol, "");
  });

  test("a failed first connection is an error and 1006", async () => {
    const { socket, seen } = make();
    await settle();
    FakeSocket.last.end(1006);
    assert.deepEqual(seen(), ["error", "close 1006 the connection broke"]);
    assert.deepEqual([socket.readyState, socket.state], [3, "closed"]);
    await time.pass(60_000);
    assert.equal(FakeSocket.all.length, 1);
  });

  test("closed before it is open", async () => {
    const { socket, seen } = make();
    await settle();
    socket.close();
    assert.deepEqual([socket.readyState, socket.state, seen()], [2, "closing", []]); // events come later
    await settle();
    assert.deepEqual(seen(), ["error", "close 1006 closed before it was open"]);
    assert.deepEqual(FakeSocket.last.closed, [1000, ""]);
  });

  test("a server that refuses says why", async () => {
    const { seen } = make();
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.receive(error(4011, "no route to host"));
    assert.deepEqual(seen(), ["close 4011 no route to host"]);
  });

  test("close: after what is queued, and with the code and reason of the other side", async () => {
    const { socket, seen, transport } = await live({ terms: { window: 4 } });
    socket.send("123456");
    socket.close(3001, "enough");
    assert.deepEqual([socket.readyState, socket.state], [2, "closing"]);
    assert.deepEqual(transport.frames(), ["DATA 1234"]);
    assert.equal(transport.closed, null);
    transport.receive(data("late")); // no event, but it is acknowledged
    transport.receive(ack(4));
    assert.deepEqual(transport.frames(), ["DATA 56"]);
    assert.deepEqual(transport.closed, [3001, "enough"]);
    transport.end(3001, "enough");
    assert.deepEqual(seen(), ["close 3001 enough"]);
    socket.send("ignored");
    assert.equal(socket.bufferedAmount, 9); // "56" is unacknowledged
  });

  test("close without a code is 1000, as 1005 would leave the session", async () => {
    const { socket, transport } = await live();
    socket.close();
    assert.deepEqual(transport.closed, [1000, ""]);
  });

  test("a Close that is not answered ends after closeTimeout, and so does waiting for the last ACK", async () => {
    const { socket, seen, transport } = await live();
    socket.send("abc");
    socket.close();
    await time.pass(9000);
    transport.receive(ack(1));
    await time.pass(9000);
    transport.receive(ack(3));
    assert.deepEqual(transport.closed, [1000, ""]);
    await time.pass(9999);
    assert.deepEqual(seen(), []);
    await time.pass(1);
    assert.deepEqual(seen(), ["error", "close 1006 not closed within 10 s"]);
    assert.equal(socket.readyState, 3);
  });

  test("bufferedAmount: what is not sent yet", async () => {
    const { socket, transport } = await live({ terms: { window: 10 } });
    socket.send("0123456789abc");
    assert.equal(socket.bufferedAmount, 3);
    transport.bufferedAmount = 5;
    assert.equal(socket.bufferedAmount, 8);
    transport.end();
    assert.equal(socket.bufferedAmount, 13);
  });

  test("where the subprotocol is not selected it is a plain WebSocket, and never reconnects", async () => {
    const { socket, seen } = make({ protocols: ["mqtt"] });
    await settle();
    const transport = FakeSocket.last;
    transport.open("mqtt");
    assert.deepEqual(seen(), ["open"]);
    assert.deepEqual([socket.protocol, socket.resumable, socket.state, transport.sent.length], ["mqtt", false, "open", 0]);
    socket.send("raw");
    assert.deepEqual(transport.sent, ["raw"]);
    assert.equal(transport.binaryType, "arraybuffer");
    transport.receive(new TextEncoder().encode("bytes"), "and text");
    assert.deepEqual(seen(), ["bytes", "text and text"]);
    transport.end(1006);
    assert.deepEqual(seen(), ["close 1006 "]);
    assert.deepEqual([socket.readyState, socket.state], [3, "closed"]);
    await time.pass(300_000);
    assert.equal(FakeSocket.all.length, 1);
  });
});

describe("resuming", () => {
  test("nothing is missing and nothing doubled", async () => {
    const { socket, seen, transport } = await live();
    socket.send("one");
    socket.send("two");
    transport.receive(data("abc"), ack(2));
    transport.end(1006);
    assert.deepEqual(seen(), ["abc", "reconnecting 1 in 0: the connection broke"]);
    assert.deepEqual([socket.readyState, socket.state], [1, "reconnecting"]);
    socket.send("three");
    const next = await resume(4);
    assert.equal(next.frame, "RESUME token=1 attempt=1 received=3 first=2");
    assert.deepEqual(next.transport.protocols, [SUBPROTOCOL]);
    assert.deepEqual(next.transport.frames(), ["ACK 3", "DATA wo", "DATA three"]);
    assert.deepEqual(seen(), ["resumed after 0 and 1: 2 again"]);
    assert.equal(socket.state, "open");
    next.transport.receive(data("def"));
    assert.deepEqual(seen(), ["def"]);
    transport.receive(data("from the old one"));
    assert.deepEqual(seen(), []);
  });

  test("the token is the newest that has arrived; attempts count", async () => {
    const { transport } = await live();
    transport.end();
    await time.pass(0);
    FakeSocket.last.open();
    assert.match(FakeSocket.last.frames()[0], /token=1 attempt=1/);
    FakeSocket.last.end(); // RESUMED was lost
    await time.pass(500);
    FakeSocket.last.open();
    assert.match(FakeSocket.last.frames()[0], /token=1 attempt=2/);
    FakeSocket.last.receive(resumed(0, { token: 5 }));
    FakeSocket.last.end();
    await time.pass(1000);
    FakeSocket.last.open();
    assert.match(FakeSocket.last.frames()[0], /token=5 attempt=3/);
  });

  test("the first retry is at once, then random up to a bound that doubles, until a transport was stable", async () => {
    const { seen, transport } = await live();
    const delays = () => seen().map((text) => Number(/ in (.*?):/.exec(text)?.[1])).filter((delay) => !Number.isNaN(delay));
    time.chance(0.5);
    await time.pass(10_000);
    transport.end();
    const found = delays();
    for (let count = 0; count < 8; count += 1) {
      await time.pass(found.at(-1));
      FakeSocket.last.end();
      found.push(...delays());
    }
    assert.deepEqual(found, [0, 500, 1000, 2000, 4000, 5000, 5000, 5000, 5000]);
    time.chance(0.1);
    await time.pass(5000);
    FakeSocket.last.open();
    FakeSocket.last.receive(resumed(0));
    await time.pass(9000); // not stable yet: it does not begin again, and does not grow
    FakeSocket.last.end();
    assert.deepEqual(delays(), [1000]);
    await time.pass(1000);
    FakeSocket.last.open();
    FakeSocket.last.receive(resumed(0));
    await time.pass(10_000);
    FakeSocket.last.end();
    assert.deepEqual(delays(), [0]);
  });

  test("it is lost when the server was not reached for the ttl", async () => {
    const { socket, seen, transport } = await live({ terms: { ttl: 5 } });
    socket.send("x");
    transport.end();
    for (let second = 0; second < 5; second += 1) {
      await time.pass(0);
      if (FakeSocket.last.readyState === 0) FakeSocket.last.end();
      await time.pass(1000);
    }
    await time.pass(0);
    if (FakeSocket.last.readyState === 0) FakeSocket.last.end();
    const last = seen().slice(-2);
    assert.deepEqual(last, ["error", "close 1006 the server was not reached for 5 s: the connection broke"]);
    assert.deepEqual([socket.state, socket.readyState], ["lost", 3]);
  });

  test("after a suspension longer than the ttl it still asks once", async () => {
    const { socket, seen, transport } = await live({ terms: { ttl: 5 } });
    transport.end();
    await time.pass(0);
    time.sleep(100_000); // during the first attempt
    await time.pass(0);
    assert.equal(socket.state, "reconnecting");
    assert.equal(FakeSocket.all.length, 3);
    FakeSocket.last.open();
    FakeSocket.last.receive(error(4001, "session or token not accepted"));
    assert.equal(seen().at(-1), "close 4001 session or token not accepted");
    assert.equal(socket.state, "lost");
  });

  for (const [code, state] of [[4001, "lost"], [4002, "lost"], [4003, "closed"], [4004, "lost"], [4009, "closed"], [4012, "closed"], [1000, "closed"], [1011, "closed"]]) {
    test(`close code ${code} ends it`, async () => {
      const { socket, seen, transport } = await live();
      transport.end(code, "because");
      assert.deepEqual(seen(), [`close ${code} because`]);
      assert.equal(socket.state, state);
      await time.pass(60_000);
      assert.equal(FakeSocket.all.length, 1);
    });
  }

  for (const code of [1001, 1005, 1006, 1012]) {
    test(`close code ${code} only ends the transport`, async () => {
      const { socket, transport } = await live();
      transport.end(code);
      assert.equal(socket.state, "reconnecting");
    });
  }

  for (const code of [4013, 4014]) {
    test(`a RESUME that gets ${code} is tried again`, async () => {
      const { socket, seen, transport } = await live();
      transport.end();
      await time.pass(0);
      FakeSocket.last.open();
      FakeSocket.last.receive(error(code));
      assert.match(seen().at(-1), /^reconnecting 2 in 500: the server/);
      assert.equal(socket.state, "reconnecting");
      await time.pass(500);
      FakeSocket.last.open();
      FakeSocket.last.end(code);
      assert.match(seen().at(-1), /^reconnecting 3/);
      await time.pass(1000);
      FakeSocket.last.open();
      FakeSocket.last.receive(resumed(0));
      assert.equal(socket.state, "open");
    });
  }

  test("an attempt without an answer is given up", async () => {
    const { seen, transport } = await live();
    transport.end();
    await time.pass(0);
    await time.pass(10_000);
    assert.deepEqual(FakeSocket.last.closed, [4003, ""]);
    assert.equal(seen().at(-1), "reconnecting 2 in 500: no answer within 10 s");
  });

  test("a transport without the subprotocol is a failed attempt", async () => {
    const { seen, transport } = await live();
    transport.end();
    await time.pass(0);
    FakeSocket.last.open("binary");
    assert.deepEqual(FakeSocket.last.sent, []);
    assert.match(seen().at(-1), /^reconnecting 2 .*subprotocol/);
  });

  test("GOAWAY says when to come back", async () => {
    const { seen, transport } = await live();
    transport.receive(goaway(2000, 4000));
    assert.deepEqual(seen(), []);
    transport.end(1012, "restart");
    assert.deepEqual(seen(), ["reconnecting 1 in 4000: restart"]);
    await time.pass(3999);
    assert.equal(FakeSocket.all.length, 1);
    await time.pass(1);
    assert.equal(FakeSocket.all.length, 2);
    FakeSocket.last.end();
    assert.match(seen()[0], /^reconnecting 2 in 500/);
  });

  test("a dead path is noticed by silence", async () => {
    const { seen, transport } = await live({ terms: { keepalive: 4 } });
    for (let count = 0; count < 5; count += 1) {
      await time.pass(9000);
      transport.receive(keepalive());
    }
    assert.deepEqual(seen(), []);
    await time.pass(9999);
    assert.deepEqual(seen(), []);
    await time.pass(1);
    assert.deepEqual(seen(), ["reconnecting 1 in 0: nothing came for 10 s"]);
    assert.deepEqual(transport.closed, [4003, ""]);
  });

  test("with keepalive 0 silence means nothing", async () => {
    const { seen } = await live({ terms: { keepalive: 0 } });
    await time.pass(3_600_000);
    assert.deepEqual(seen(), []);
  });

  test("close while reconnecting: what is queued is delivered first", async () => {
    const { socket, seen, transport } = await live();
    transport.end();
    socket.send("last words");
    socket.close();
    assert.deepEqual([socket.readyState, socket.state], [2, "closing"]);
    const next = await resume(0);
    assert.deepEqual(next.transport.frames(), ["ACK 0", "DATA last words"]);
    next.transport.receive(ack(10));
    assert.deepEqual(next.transport.closed, [1000, ""]);
    next.transport.end(1000);
    assert.equal(seen().at(-1), "close 1000 ");
    assert.equal(socket.state, "closed");
  });

  test("close while the server is away ends after closeTimeout", async () => {
    const { socket, seen, transport } = await live();
    transport.end();
    socket.close();
    await time.pass(10_000);
    assert.equal(seen().at(-1), "close 1006 not closed within 10 s");
  });

  test("a Close whose answer is lost: the session is gone, as it was asked for", async () => {
    const { socket, seen, transport } = await live();
    socket.close(1000, "bye");
    transport.end(1006);
    await time.pass(0);
    FakeSocket.last.open();
    FakeSocket.last.end(4001);
    assert.equal(seen().at(-1), "close 1000 bye");
    assert.equal(socket.state, "closed");
    const other = await live();
    other.socket.close(1000, "bye");
    other.transport.end(1006);
    await time.pass(0);
    FakeSocket.last.open();
    FakeSocket.last.receive(error(4001, "session or token not accepted")); // before its Close, as the protocol has it
    assert.deepEqual([other.seen().at(-1), other.socket.state], ["close 1000 bye", "closed"]);
  });

  test("so it is with other codes, whose Close does not wait for the last ACK", async () => {
    const { socket, seen, transport } = await live();
    socket.send("abc");
    socket.close(3001, "enough");
    assert.deepEqual(transport.closed, [3001, "enough"]);
    transport.end(1006);
    await time.pass(0);
    FakeSocket.last.open();
    FakeSocket.last.receive(error(4001));
    assert.equal(seen().at(-1), "close 3001 enough");
    assert.equal(socket.state, "closed");
  });

  test("a violation ends it with 4008, and the server hears of it", async () => {
    const { seen, transport } = await live({ terms: { window: 4096 } });
    transport.receive(data("x".repeat(5000)));
    assert.deepEqual(transport.frames(), ["ERROR 4008 DATA exceeds the window"]);
    assert.equal(transport.closed[0], 4008);
    assert.deepEqual(seen(), ["error", "close 4008 DATA exceeds the window"]);
    const other = await live();
    other.transport.receive("text");
    assert.equal(other.transport.closed[0], 4008);
  });

  test("a handler that throws does not break it", async () => {
    const { socket, seen, transport } = await live();
    const thrown = [];
    const before = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.once("uncaughtException", (found) => thrown.push(found.message));
    socket.addEventListener("message", () => {
      throw new Error("of the page");
    }, { once: true });
    transport.receive(data("a"), data("b"));
    await settle();
    for (const listener of before) process.on("uncaughtException", listener);
    assert.deepEqual(seen(), ["a", "b"]);
    assert.deepEqual(thrown, ["of the page"]);
  });
});

describe("acknowledging", () => {
  test("many bytes at once, few after a while", async () => {
    const { transport } = await live({ terms: { ackBytes: 10 } });
    transport.receive(data("0123456"));
    assert.deepEqual(transport.frames(), []);
    transport.receive(data("789"));
    assert.deepEqual(transport.frames(), ["ACK 10"]);
    transport.receive(data("a"));
    await time.pass(249);
    assert.deepEqual(transport.frames(), []);
    await time.pass(1);
    assert.deepEqual(transport.frames(), ["ACK 11"]);
  });

  test("a lost transport takes its timer with it", async () => {
    const { transport } = await live();
    transport.receive(data("abc"));
    transport.end();
    const next = await resume(0);
    assert.deepEqual(next.transport.frames(), ["ACK 3"]);
    await time.pass(1000);
    assert.deepEqual(next.transport.frames(), []);
  });
});

describe("the end of a stream", () => {
  test("a page without streams answers a FIN with its own, and closes", async () => {
    const { socket, seen, transport } = await live({ terms: { window: 3 } });
    socket.send("abcde");
    transport.receive(data("end"), fin(3));
    assert.equal(socket.readyState, 2);
    assert.deepEqual(transport.frames(), ["DATA abc", "ACK 4"]);
    transport.receive(ack(3));
    assert.deepEqual(transport.frames(), ["DATA de", "FIN 5"]);
    assert.equal(transport.closed, null);
    transport.receive(ack(6));
    assert.deepEqual(transport.closed, [1000, ""]);
    transport.end(1000);
    assert.deepEqual(seen(), ["end", "close 1000 backend_closed"]);
  });

  test("it can come while the page is away, and be lost once more", async () => {
    const { seen, transport } = await live();
    transport.receive(data("abc"));
    transport.end();
    const next = await resume(0);
    next.transport.receive(data("def"), fin(6));
    assert.deepEqual(next.transport.frames(), ["ACK 3", "ACK 7", "FIN 0"]);
    await time.pass(1000);
    next.transport.end();
    const third = await resume(0);
    assert.match(third.frame, /received=7 first=0/);
    assert.deepEqual(third.transport.frames(), ["ACK 7", "FIN 0"]);
    third.transport.receive(ack(1));
    assert.deepEqual(third.transport.closed, [1000, ""]);
    third.transport.end(1006); // complete: nothing is left to be resumed
    assert.equal(seen().at(-1), "close 1000 backend_closed");
  });
});

describe("the URL", () => {
  test("a function gives one for each transport, with subprotocols", async () => {
    const asked = [];
    const url = async (how) => {
      asked.push(how);
      await null;
      return { url: `ws://gw.example.org/?ticket=${asked.length}`, protocols: ["binary", `wsbridge.token.${asked.length}`] };
    };
    const { socket, transport } = await live({ url, terms: { node: "web2" } });
    assert.deepEqual(transport.protocols, ["binary", "wsbridge.token.1", SUBPROTOCOL]);
    assert.equal(transport.url, "ws://gw.example.org/?ticket=1");
    assert.equal(socket.protocol, "binary");
    transport.end();
    const next = await resume(0);
    assert.deepEqual(next.transport.protocols, ["wsbridge.token.2", SUBPROTOCOL]);
    assert.equal(next.transport.url, "ws://gw.example.org/?ticket=2&n=web2");
    assert.equal(socket.url, "ws://gw.example.org/?ticket=2");
    assert.deepEqual(asked, [{ resuming: false, attempt: 0, node: "" }, { resuming: true, attempt: 1, node: "web2" }]);
  });

  test("one that fails is a failed attempt, one that gives nothing gives up", async () => {
    let answer = () => "ws://x/";
    const { socket, seen, transport } = await live({ url: () => answer() });
    answer = () => {
      throw new Error("no ticket");
    };
    transport.end();
    await time.pass(0);
    assert.equal(seen().at(-1), "reconnecting 2 in 500: no transport: no ticket");
    answer = () => null;
    await time.pass(500);
    assert.deepEqual(seen(), ["error", "close 1006 no URL was given"]);
    assert.equal(socket.state, "lost");
    assert.equal(FakeSocket.all.length, 1);
  });

  test("one that fails at first is a failed connection", async () => {
    const { seen } = make({
      url: () => {
        throw new Error("logged out");
      },
    });
    await settle();
    assert.deepEqual(seen(), ["error", "close 1006 no transport: logged out"]);
  });

  test("one that is slow is not waited for", async () => {
    const { seen } = make({ url: () => new Promise(() => {}), connectTimeout: 3000 });
    await time.pass(3000);
    assert.deepEqual(seen(), ["error", "close 1006 no answer within 3 s"]);
  });
});

describe("what the browser says", () => {
  let window;
  beforeEach(() => {
    window = new EventTarget();
    globalThis.addEventListener = window.addEventListener.bind(window);
    globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible", baseURI: "http://gw.example.org/page" });
  });
  afterEach(() => {
    delete globalThis.addEventListener;
    delete globalThis.document;
  });

  test("a relative URL is one of the page", async () => {
    assert.equal((await live({ url: "/shell" })).socket.url, URL_OF_TEST);
  });

  test("offline is an outage, online ends the waiting", async () => {
    const { seen, transport } = await live();
    window.dispatchEvent(new Event("offline"));
    assert.deepEqual(seen(), ["reconnecting 1 in 0: the browser is offline"]);
    assert.deepEqual(transport.closed, [4003, ""]);
    await time.pass(0);
    FakeSocket.last.end();
    await time.pass(100);
    assert.equal(FakeSocket.all.length, 2);
    window.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(FakeSocket.all.length, 3);
    window.dispatchEvent(new Event("online")); // another network: an attempt over the old one may hang
    await settle();
    assert.equal(FakeSocket.all.length, 4);
    FakeSocket.last.open();
    FakeSocket.last.receive(resumed(0));
    window.dispatchEvent(new Event("online"));
    await settle();
    assert.equal(FakeSocket.all.length, 4);
  });

  for (const [target, type] of [["document", "visibilitychange"], ["document", "resume"], ["window", "pageshow"]]) {
    test(`${type} ends the waiting`, async () => {
      const { transport } = await live();
      transport.end();
      await time.pass(0);
      FakeSocket.last.end();
      (target === "document" ? document : window).dispatchEvent(new Event(type));
      await settle();
      assert.equal(FakeSocket.all.length, 3);
    });
  }

  test("a page that is frozen, or a computer that sleeps, reads first what has come meanwhile", async () => {
    const { seen, transport } = await live({ terms: { keepalive: 4 } });
    time.sleep(30_000);
    await time.pass(1000);
    assert.deepEqual(seen(), []);
    transport.receive(keepalive());
    await time.pass(2000);
    assert.deepEqual(seen(), []);
    time.sleep(60_000);
    await time.pass(1999);
    assert.deepEqual(seen(), []);
    await time.pass(1);
    assert.match(seen()[0], /^reconnecting 1 in 0: nothing came for 6\d s/);
  });

  test("a page that is left ends its session, one that is kept does not", async () => {
    const { transport, seen } = await live();
    window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: true }));
    assert.equal(transport.closed, null);
    window.dispatchEvent(Object.assign(new Event("pagehide"), { persisted: false }));
    assert.deepEqual(transport.closed, [1000, ""]);
    assert.deepEqual(seen(), ["close 1001 the page was left"]);
  });
});
