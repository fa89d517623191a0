// A session over the WebSocket of Node.js: what another program says on standard input is sent, and what happens is told
// on standard output, a line each.

import { createInterface } from "node:readline";

import { ResumableWebSocket } from "../resume.js";

const say = (...words) => console.log(words.join(" "));
const socket = new ResumableWebSocket(process.argv[2], [], { maxDelay: 50 });
socket.onreconnecting = ({ detail }) => say(`reconnecting ${Math.min(detail.attempt, 3)}: ${detail.reason}`);
socket.onresumed = () => say("resumed");
socket.onclose = ({ code, reason }) => say("closed", code, reason);
await new Promise((resolve) => (socket.onopen = resolve));
// Only now: what has come in one read with OPENED is not lost.
socket.binaryType = "arraybuffer";
socket.onmessage = ({ data }) => say("heard", new TextDecoder().decode(data));
for await (const line of createInterface({ input: process.stdin })) socket.send(line);
socket.close();
