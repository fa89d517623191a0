// What a program in TypeScript writes: it must compile, and what is wrong must not.

import type { ReconnectingDetail, ReconnectingEvent, ResumedEvent, SessionState, TransportSource } from "../resume.js";
import { ResumableWebSocket } from "../resume.js";

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

// Listeners are removed as they are added: as functions and as objects.
const onResumed = (event: ResumedEvent): void => console.log(event.detail.outage);
socket.addEventListener("resumed", onResumed, { once: true, signal: new AbortController().signal });
socket.removeEventListener("resumed", onResumed);
const observer = { handleEvent: (event: ReconnectingEvent): void => console.log(event.detail.until) };
socket.addEventListener("reconnecting", observer);
socket.removeEventListener("reconnecting", observer, true);

// The shapes in which noVNC, xterm's AttachAddon and MQTT.js take it.
declare class RFB {
  constructor(target: Element, urlOrChannel: string | WebSocket | RTCDataChannel, options?: object);
}
declare class AttachAddon {
  constructor(socket: WebSocket, options?: { bidirectional?: boolean });
}
type CreateWebsocket = (url: string, protocols: string[], options: object) => WebSocket;
const createWebsocket: CreateWebsocket = (url, protocols) => new ResumableWebSocket(url, protocols);
void [new RFB(document.body, socket), new AttachAddon(socket, { bidirectional: true }), createWebsocket];

// Transports of Node.js: the library ws has other types than a browser.
declare class NodeWebSocket {
  constructor(address: string | URL, protocols?: string | string[], options?: object);
  binaryType: "nodebuffer" | "arraybuffer" | "fragments";
  readonly bufferedAmount: number;
  readonly extensions: string;
  readonly protocol: string;
  readonly readyState: 0 | 1 | 2 | 3;
  onopen: ((event: { type: string }) => void) | null;
  onerror: ((event: { error: unknown }) => void) | null;
  onclose: ((event: { wasClean: boolean; code: number; reason: string }) => void) | null;
  onmessage: ((event: { data: string | Buffer | ArrayBuffer | Buffer[] }) => void) | null;
  close(code?: number, data?: string | Uint8Array): void;
  send(data: string | Uint8Array, callback?: (error?: Error) => void): void;
}
declare class Buffer extends Uint8Array {}
new ResumableWebSocket("wss://gw.example.org/", undefined, { WebSocket: NodeWebSocket, window: undefined });
