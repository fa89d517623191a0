// The streams of ResumableWebSocket, over scripted transports.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";

import { ResumableWebSocket } from "../resume.js";
import { FakeSocket, ack, data, error, fin, opened, settle } from "./fake.js";
import { live, make, resume, scripted, time } from "./page.js";

scripted();

describe("of a session", () => {
  test("what is not read is not acknowledged", async () => {
    const { socket, transport, seen } = await live({ terms: { ackBytes: 1 } });
    const reader = socket.readable.getReader();
    transport.receive(data("one"), data("two"));
    await settle();
    assert.deepEqual(transport.frames(), []);
    assert.deepEqual(await reader.read(), { value: new Uint8Array(data("one").subarray(1)), done: false });
    assert.deepEqual(transport.frames(), ["ACK 3"]);
    transport.receive(fin(6));
    await reader.read();
    assert.deepEqual(transport.frames(), ["ACK 6"]);
    assert.deepEqual(await reader.read(), { value: undefined, done: true });
    assert.deepEqual(transport.frames(), ["ACK 7"]);
    assert.equal(socket.readyState, 1); // the other direction goes on
    assert.deepEqual(seen(), []);
  });

  test("writes wait for the window, closing waits for the last byte", async () => {
    const { socket, transport, seen } = await live({ terms: { window: 8 } });
    const writer = socket.writable.getWriter();
    const done = [];
    writer.write("1234567890ab").then(() => done.push("written"));
    await settle();
    assert.deepEqual([done, transport.frames()], [[], ["DATA 12345678"]]);
    transport.receive(ack(4));
    await settle();
    assert.deepEqual([done, transport.frames()], [[], ["DATA 90ab"]]);
    transport.receive(ack(5));
    await settle();
    assert.deepEqual(done, ["written"]);
    writer.close().then(() => done.push("closed"));
    await settle();
    assert.deepEqual(transport.frames(), ["FIN 12"]);
    transport.receive(ack(12));
    await settle();
    assert.deepEqual(done, ["written"]);
    transport.receive(ack(13));
    await settle();
    assert.deepEqual(done, ["written", "closed"]);
    assert.throws(() => socket.send("more"), { name: "InvalidStateError" });
    const reader = socket.readable.getReader();
    transport.receive(data("answer"), fin(6));
    assert.equal(new TextDecoder().decode((await reader.read()).value), "answer");
    assert.equal((await reader.read()).done, true);
    assert.deepEqual(transport.closed, [1000, ""]);
    transport.end(1000);
    assert.deepEqual(seen(), ["close 1000 backend_closed"]);
  });

  test("writes before it is open wait, and an end that is no good one is an error of both", async () => {
    const { socket, seen } = make();
    const writer = socket.writable.getWriter();
    const reader = socket.readable.getReader();
    const written = writer.write("early things");
    await settle();
    FakeSocket.last.open();
    FakeSocket.last.receive(opened({ window: 8 }));
    assert.deepEqual(seen(), ["open"]);
    await settle();
    assert.deepEqual(FakeSocket.last.frames(), ["OPEN 0", "DATA early th"]);
    FakeSocket.last.receive(data("before"), error(4012, "reset"));
    assert.equal(new TextDecoder().decode((await reader.read()).value), "before");
    await assert.rejects(reader.read(), /4012.*reset/);
    await assert.rejects(written, /ended/);
    await assert.rejects(writer.closed, /4012/);
  });

  test("cancel ends the session, abort ends it with an error", async () => {
    const first = await live();
    await first.socket.readable.cancel();
    assert.deepEqual(first.transport.closed, [1000, ""]);
    const second = await live();
    await second.socket.writable.abort();
    assert.deepEqual(second.transport.closed, [4012, "aborted"]);
  });

  test("as the documentation has them: what arrives during an upload is not lost", async () => {
    const page = readFileSync(new URL("../../../docs/resume-client.md", import.meta.url), "utf8");
    const [code] = [...page.matchAll(/^```js\n(.*?)^```$/gms)].map(([, block]) => block).filter((block) => block.includes("writable"));
    class Local extends ResumableWebSocket {
      constructor(path) {
        super(`ws://x${path}`, [], { WebSocket: FakeSocket });
      }
    }
    const shown = [];
    const show = (bytes) => shown.push(new TextDecoder().decode(bytes));
    const AsyncFunction = (async () => {}).constructor;
    const done = new AsyncFunction("ResumableWebSocket", "file", "show", code)(Local, new Blob(["abcdef"]), show);
    await settle();
    const transport = FakeSocket.last;
    transport.open();
    transport.receive(opened({ window: 5 }));
    await settle();
    assert.deepEqual(transport.frames(), ["OPEN 0", "DATA abcde"]);
    transport.receive(data("early"), ack(5));
    await settle();
    assert.deepEqual(transport.frames(), ["DATA f", "FIN 6"]);
    transport.receive(fin(5), ack(7));
    await done;
    assert.deepEqual(shown, ["early"]);
    assert.deepEqual(transport.closed, [1000, ""]);
  });

  test("of a plain WebSocket", async () => {
    const { socket } = make();
    const reader = socket.readable.getReader();
    await settle();
    const transport = FakeSocket.last;
    transport.open("binary");
    transport.receive(new TextEncoder().encode("bytes"), "text");
    assert.equal(new TextDecoder().decode((await reader.read()).value), "bytes");
    assert.equal(new TextDecoder().decode((await reader.read()).value), "text");
    await socket.writable.getWriter().write("out");
    assert.deepEqual(transport.sent, ["out"]);
    transport.end(1000);
    assert.equal((await reader.read()).done, true);
  });

  test("a page that only writes knows of half-closes: the backend's leaves its own stream open", async () => {
    const { socket, transport, seen } = await live({ terms: { window: 4 } });
    const writer = socket.writable.getWriter();
    transport.receive(data("no"), fin(2));
    assert.deepEqual([socket.readyState, transport.frames()], [1, ["ACK 3"]]);
    const written = writer.write("abcdef");
    await settle();
    assert.deepEqual(transport.frames(), ["DATA abcd"]);
    transport.receive(ack(4));
    await written;
    const closed = writer.close();
    await settle();
    assert.deepEqual(transport.frames(), ["DATA ef", "FIN 6"]);
    transport.receive(ack(7));
    await closed;
    assert.deepEqual(transport.closed, [1000, ""]);
    transport.end(1000);
    assert.deepEqual(seen(), ["no", "close 1000 backend_closed"]);
    assert.deepEqual(await socket.readable.getReader().read(), { value: undefined, done: true });
  });

  test("a stream that is asked for after the backend's has ended has ended, too", async () => {
    const { socket, transport } = await live();
    const writer = socket.writable.getWriter();
    transport.receive(fin(0));
    assert.equal((await socket.readable.getReader().read()).done, true);
    await writer.write("still");
    assert.deepEqual(transport.frames(), ["ACK 1", "DATA still"]);
  });

  test("streams that are asked for after the end tell of it", async () => {
    const { socket, transport } = await live();
    transport.end(4009, "max_lifetime");
    await assert.rejects(socket.readable.getReader().read(), /4009.*max_lifetime/);
    await assert.rejects(socket.writable.getWriter().write("x"), /4009.*max_lifetime/);
    const clean = await live();
    clean.socket.close();
    clean.transport.end(1000);
    assert.equal((await clean.socket.readable.getReader().read()).done, true);
    await assert.rejects(clean.socket.writable.getWriter().write("x"), /closed/);
  });

  test("what is written after close() has not been written", async () => {
    const { socket, transport } = await live();
    const writer = socket.writable.getWriter();
    socket.send("unacknowledged");
    socket.close();
    await assert.rejects(writer.write("lost"), /closing/);
    assert.deepEqual(transport.frames(), ["DATA unacknowledged"]);
    const plain = make();
    await settle();
    FakeSocket.last.open("binary");
    plain.socket.close();
    await assert.rejects(plain.socket.writable.getWriter().write("lost"), /closing/);
  });

  test("closing a writable after close() waits for what was written, and for no FIN", async () => {
    const { socket, transport, seen } = await live();
    const writer = socket.writable.getWriter();
    await writer.write("abc");
    socket.close();
    const closed = writer.close();
    await settle();
    assert.deepEqual(transport.frames(), ["DATA abc"]);
    transport.receive(ack(3));
    await closed;
    assert.deepEqual(transport.closed, [1000, ""]);
    transport.end(1000);
    assert.deepEqual(seen(), ["close 1000 "]);
  });

  test("abort does not wait for a server that takes nothing", async () => {
    const { socket, transport } = await live({ terms: { window: 4 } });
    const writer = socket.writable.getWriter();
    const written = writer.write("abcdef"); // waits for an ACK
    await settle();
    const aborted = writer.abort(new Error("enough"));
    await assert.rejects(written);
    await aborted;
    assert.deepEqual(transport.frames(), ["DATA abcd"]);
    assert.deepEqual(transport.closed, [4012, "aborted"]);
  });

  test("abort while reconnecting resets the backend on the next transport", async () => {
    const { socket, transport } = await live({ terms: { window: 4 } });
    const writer = socket.writable.getWriter();
    writer.write("abcdef").catch(() => {});
    await settle();
    transport.end();
    await writer.abort();
    const next = await resume(2);
    assert.deepEqual([next.transport.frames(), next.transport.closed], [["ACK 0"], [4012, "aborted"]]);
  });

  test("cancel takes a FIN that nobody has read", async () => {
    const { socket, transport } = await live();
    const { readable } = socket;
    transport.receive(data("unread"), fin(6));
    assert.deepEqual(transport.frames(), []);
    await readable.cancel();
    assert.deepEqual(transport.frames(), ["ACK 7"]);
    assert.deepEqual(transport.closed, [1000, ""]);
  });

  test("a FIN after cancel is taken, and closing waits for what was sent", async () => {
    const { socket, transport } = await live({ terms: { ackBytes: 1 } });
    const reader = socket.readable.getReader();
    const pending = reader.read();
    socket.send("abc");
    await reader.cancel();
    assert.equal((await pending).done, true);
    transport.receive(data("unread"), fin(6));
    await settle();
    assert.deepEqual(transport.frames(), ["DATA abc", "ACK 6", "ACK 7"]);
    assert.equal(transport.closed, null);
    transport.receive(ack(3));
    assert.deepEqual(transport.closed, [1000, ""]);
  });

  test("a slow reader holds the server back over transports", async () => {
    const { socket, transport } = await live({ window: 4096, terms: { ackBytes: 1 } });
    const { readable } = socket;
    transport.receive(data("x".repeat(4096)));
    await time.pass(10_000);
    assert.deepEqual(transport.frames(), []);
    transport.end();
    const next = await resume(0);
    assert.match(next.frame, /received=4096/);
    assert.deepEqual(next.transport.frames(), ["ACK 0"]);
    next.transport.receive(data("y")); // more than the window
    assert.match(next.transport.frames()[0], /^ERROR 4008/);
    const reader = readable.getReader();
    assert.equal((await reader.read()).value.length, 4096);
    await assert.rejects(reader.read(), /4008/);
  });

  test("small chunks that wait for a slow reader are joined", async () => {
    const { socket, transport } = await live();
    const reader = socket.readable.getReader();
    for (let count = 0; count < 10_000; count += 1) transport.receive(data(`${count % 10}`));
    const chunks = [];
    for (let length = 0; length < 10_000; length += chunks.at(-1).length) chunks.push((await reader.read()).value);
    assert.ok(chunks.length < 70, `${chunks.length} chunks`);
    assert.equal(Buffer.concat(chunks).toString(), "0123456789".repeat(1000));
  });

  test("no rejection is left unhandled, however it ends", async () => {
    const unhandled = [];
    const note = (reason) => unhandled.push(reason);
    process.on("unhandledRejection", note);
    try {
      for (const end of [
        ({ transport }) => transport.end(4009),
        ({ socket }) => socket.close(3001),
        ({ transport }) => transport.receive(new Uint8Array([0])),
      ]) {
        const made = await live({ terms: { window: 4 } });
        const writer = made.socket.writable.getWriter();
        made.socket.readable.getReader();
        writer.write("abcdef").catch(() => {});
        await settle();
        end(made);
        await time.pass(20_000);
        assert.equal(made.socket.readyState, 3);
      }
      await settle();
      assert.deepEqual(unhandled, []);
    } finally {
      process.removeListener("unhandledRejection", note);
    }
  });
});
