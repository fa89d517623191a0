// Why a connection ended, in plain words. The names are those that wsbridge puts into its close frames and its log.

export const REASONS = {
  backend_closed: "The service ended the connection. All that it had sent has arrived.",
  client_closed: "This page closed the connection.",
  client_lost: "The bridge lost sight of this page: the network went away, or a ping was not answered.",
  backend_refused: "The service refused the connection: nothing listens at its address.",
  backend_unreachable: "The bridge found no way to the service's address.",
  backend_dns: "The name of the service could not be looked up.",
  backend_tls: "TLS with the service failed: look at its certificate.",
  backend_timeout: "The service did not answer in time.",
  backend_reset: "The service dropped the connection (TCP reset). The last that it sent may be missing.",
  idle_timeout: "Nothing was sent for as long as the route allows.",
  max_lifetime: "The connection reached the greatest age that the route allows.",
  write_stalled: "One side took no bytes for too long.",
  protocol_error: "Something broke the rules of WebSocket.",
  invalid_utf8: "A text message was not UTF-8.",
  request_too_large: "Something sent was bigger than allowed.",
  unsupported_data: "This route takes binary messages only.",
  control_flood: "Too many control or empty frames came in a short time.",
  bad_request: "The bridge did not understand the request.",
  handshake_timeout: "The handshake took too long.",
  tls_failed: "TLS with the bridge failed.",
  bad_proxy_header: "The bridge did not learn from the proxy in front of it who you are.",
  origin_not_allowed: "The bridge does not accept connections from pages of this origin.",
  forbidden: "This is not allowed.",
  unauthenticated: "The bridge wants to know who you are.",
  auth_unavailable: "The bridge cannot ask just now who you are; try again soon.",
  auth_expired: "The time for which the bridge let you in is over.",
  no_route: "The bridge has no route for this address.",
  rate_limited: "Too many connections came in a short time. Wait a little.",
  banned: "Too many logins from this address failed; it is banned for a while.",
  overload: "The bridge is full. Try again in a moment.",
  draining: "The bridge is about to be restarted. Reconnect in a moment.",
  shutdown: "The bridge was stopped.",
  internal_error: "The bridge made a mistake; its log tells more.",
  served: "The request was answered.",
};

const CODES = {
  1000: "The connection was closed in good order.",
  1001: "The other side is going away.",
  1002: "Something broke the rules of WebSocket.",
  1003: "The other side does not take this kind of message.",
  1005: "The connection was closed in good order, without a code.",
  1007: "A text message was not UTF-8.",
  1008: "The other side does not allow this.",
  1009: "A message was too big.",
  1011: "The other side met an error.",
  1012: "The bridge is being restarted.",
  1013: "The bridge is full. Try again in a moment.",
  1014: "The bridge could not reach the service.",
};

const LOST = "The connection broke without a goodbye: the bridge was killed, or the network between went away.";
const NEVER_OPEN = "The connection could not be opened. Browsers do not tell pages why; the bridge's log does.";

// What to tell of a close event: a short name and a sentence. `opened`: whether it had been open. `ours`: the user's wish.
export function explain({ code, reason }, { opened, ours }) {
  if (ours) return { name: `${code} ${reason || "client_closed"}`, words: REASONS.client_closed, clean: true };
  if (code === 1006) return { name: "1006", words: opened ? LOST : NEVER_OPEN, clean: false };
  const words = Object.hasOwn(REASONS, reason) ? REASONS[reason] : (CODES[code] ?? "The other side gave a code of its own.");
  return { name: reason ? `${code} ${reason}` : `${code}`, words, clean: code === 1000 || code === 1001 || code === 1012 };
}
