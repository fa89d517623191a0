// What a program in TypeScript writes: it must compile, and what is wrong must not.

import { type ReconnectingDetail, ResumableWebSocket, type SessionState, type TransportSource } from "../resume.js";

const tickets: TransportSource = async ({ resuming, attempt, node }) => {
  if (attempt > 9) return null;
  return { url: `wss://gw.example.org/shell?ticket=${resuming}${node}`, protocols: ["binary"] };
};

const socket = new ResumableWebSocket(tickets, ["binary"], { window: 65536, maxDelay: 5000 });
socket.binaryType = "arraybuffer";
socket.onmessage = (event) => socket.send(event.data);
socket.onreconnecting = ({ detail }: { detail: ReconnectingDetail }) => console.log(detail.attempt, detail.reason);
socket.addEventListener("resumed", (event) => console.log(event.detail.replayed.toFixed()));
socket.addEventListener("close", (event) => console.log(event.code, event.wasClean));
const state: SessionState = socket.state;
const open: boolean = socket.readyState === ResumableWebSocket.OPEN && state === "open" && socket.resumable;
if (open) socket.close(1000, "done");

// Libraries take it as the WebSocket that it stands for.
const standIn: WebSocket = new ResumableWebSocket("wss://gw.example.org/shell");
standIn.onclose = (event) => console.log(event.reason);

async function copy(from: ReadableStream<Uint8Array>): Promise<void> {
  await from.pipeTo(socket.writable);
  for await (const bytes of socket.readable) console.log(bytes.byteLength);
}
void copy;

// @ts-expect-error: no such option
new ResumableWebSocket("wss://gw.example.org/", [], { retries: 3 });
// @ts-expect-error: it cannot be set
socket.state = "open";
