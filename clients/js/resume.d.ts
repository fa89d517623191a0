/** Name of the subprotocol: docs/resume-protocol.md of wsbridge. */
export declare const SUBPROTOCOL: "wsbridge.resume.v1";

/** What a function that gives URLs is told about the transport that its URL is for. */
export interface TransportRequest {
  /** Whether a session is to be resumed; false for the first transport. */
  resuming: boolean;
  /** Number of the attempt in this outage, from 1; 0 for the first transport. */
  attempt: number;
  /** Name of the server that has the session, if it gives one: for load balancers. */
  node: string;
}

/** A URL; `protocols` are offered in place of those of the constructor. */
export type TransportTarget = string | URL | { url: string | URL; protocols?: string | string[] };

/** Called for each transport; null gives up. */
export type TransportSource = (
  request: TransportRequest,
) => TransportTarget | null | undefined | Promise<TransportTarget | null | undefined>;

/** What it needs of a WebSocket that carries a session: that of a browser, of Node.js, or of the library ws. */
export interface Transport {
  binaryType: string;
  readonly readyState: number;
  readonly protocol: string;
  readonly extensions: string;
  readonly bufferedAmount: number;
  onopen: ((event: any) => any) | null;
  onmessage: ((event: any) => any) | null;
  onerror: ((event: any) => any) | null;
  onclose: ((event: any) => any) | null;
  send(data: any): void;
  close(code?: number, reason?: string): void;
}

export interface ResumeOptions {
  /** Bytes that the server may send ahead of the page, below 2^32; 0, the default, for as many as it would. */
  window?: number;
  /** Milliseconds for an attempt to connect or to resume. Default: 10000. */
  connectTimeout?: number;
  /** Milliseconds that close() waits without progress. Default: 10000. */
  closeTimeout?: number;
  /** Longest time between two attempts in milliseconds. Default: 10000. */
  maxDelay?: number;
  /** Parameter of the URL that gets the node hint of the server, "" for none. Default: "n". */
  nodeParameter?: string;
  /** What makes a transport. Default: the global WebSocket. */
  WebSocket?: new (url: string, protocols: string[]) => Transport;
}

export interface ReconnectingDetail {
  /** Number of the attempt in this outage, from 1. */
  attempt: number;
  /** Milliseconds until it. */
  delay: number;
  /** When the outage began, and until when the session can be resumed (as of Date.now). */
  since: number;
  until: number;
  /** In words. */
  reason: string;
}

export interface ResumedDetail {
  /** Attempts that it took, and milliseconds without a transport. */
  attempts: number;
  outage: number;
  /** Bytes that are sent to the server again. */
  replayed: number;
}

export interface ReconnectingEvent extends Event {
  readonly detail: ReconnectingDetail;
}

export interface ResumedEvent extends Event {
  readonly detail: ResumedDetail;
}

export interface ResumableWebSocketEventMap extends WebSocketEventMap {
  reconnecting: ReconnectingEvent;
  resumed: ResumedEvent;
}

/** `lost`: closed, as the session could not be resumed. */
export type SessionState = "connecting" | "open" | "reconnecting" | "closing" | "closed" | "lost";

/** A WebSocket whose session outlives its connections. */
export declare class ResumableWebSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;

  constructor(url: string | URL | TransportSource, protocols?: string | string[], options?: ResumeOptions);

  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;

  /** URL of the newest transport; "" before a function has given one. */
  readonly url: string;
  /** OPEN from the first connection to the end of the session. */
  readonly readyState: 0 | 1 | 2 | 3;
  /** What the page offered first, as if it had been selected; of a plain WebSocket, what the server selected. */
  readonly protocol: string;
  readonly extensions: string;
  /** Bytes that are not sent yet; without a connection, those that are not acknowledged. */
  readonly bufferedAmount: number;
  binaryType: BinaryType;

  send(data: string | ArrayBufferLike | Blob | ArrayBufferView): void;
  /** Ends the session; with 1000, which is the default, once all that was sent has arrived. */
  close(code?: number, reason?: string): void;

  readonly state: SessionState;
  /** Whether the server has agreed to resume; false for a plain WebSocket. */
  readonly resumable: boolean;
  /** What arrives, in place of message events; the server is at most a window ahead of the reader. */
  readonly readable: ReadableStream<Uint8Array>;
  /** A write waits while a window is unacknowledged; close() ends this direction alone, abort() resets the backend. */
  readonly writable: WritableStream<string | ArrayBufferLike | Blob | ArrayBufferView>;

  onopen: ((event: Event) => unknown) | null;
  onmessage: ((event: MessageEvent) => unknown) | null;
  onerror: ((event: Event) => unknown) | null;
  onclose: ((event: CloseEvent) => unknown) | null;
  /** Before each attempt to reconnect. */
  onreconnecting: ((event: ReconnectingEvent) => unknown) | null;
  onresumed: ((event: ResumedEvent) => unknown) | null;

  addEventListener<K extends keyof ResumableWebSocketEventMap>(
    type: K,
    listener: (event: ResumableWebSocketEventMap[K]) => unknown,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof ResumableWebSocketEventMap>(
    type: K,
    listener: (event: ResumableWebSocketEventMap[K]) => unknown,
    options?: boolean | EventListenerOptions,
  ): void;
  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | EventListenerOptions): void;
}

/** What ClientSession.receive() makes of a frame. */
export type SessionEvent =
  | { type: "opened" | "ack" | "fin" }
  | { type: "resumed"; replayed: number }
  | { type: "data"; bytes: Uint8Array }
  | { type: "error" | "later"; code: number; reason: string; ours?: boolean }
  | { type: "goaway"; after: number; jitter: number };

/** The client's half of the protocol without sockets and clocks, for other transports. */
export declare class ClientSession {
  constructor(window?: number);
  /** What the server granted, once `opened`. */
  readonly window: number;
  readonly ttl: number;
  readonly ackBytes: number;
  readonly ackMs: number;
  readonly keepalive: number;
  readonly hint: string;
  readonly opened: boolean;
  readonly attached: boolean;
  readonly finished: boolean;
  readonly finReceived: boolean;
  readonly progress: number;
  readonly complete: boolean;
  readonly unacknowledged: number;
  readonly unsent: number;
  readonly ackPending: number;
  readonly ackDue: boolean;
  /** The first frame of a transport. */
  greet(): Uint8Array;
  detach(): void;
  /** Whether a close code of the server ends the session. */
  endsBy(code: number): boolean;
  send(bytes: Uint8Array): void;
  finish(): void;
  /** The next frame to send; null if there is none. */
  next(): Uint8Array | null;
  consume(count: number): void;
  /** An ACK of all that was consumed; the first frame after RESUMED. */
  ack(): Uint8Array;
  receive(bytes: Uint8Array): SessionEvent | null;
}
