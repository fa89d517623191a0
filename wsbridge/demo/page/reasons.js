// Why a connection ended, in plain words. The names are those of wsbridge's Close frames and log.

export const REASONS = {
  backend_closed: "The service ended the connection. All that it had sent has arrived.",
  client_closed: "This page closed the connection.",
  client_lost: "The connection to this page was lost: the network failed, or a ping was not answered.",
  backend_refused: "The service refused the connection: nothing listens at its address.",
  backend_unreachable: "The bridge cannot reach the service's address.",
  backend_rejected: "The service rejected the upgrade: see the log of the bridge.",
  backend_denied: "The bridge may not connect to the service: see its log.",
  backend_dns: "The service's host name could not be resolved.",
  backend_tls: "TLS with the service failed: look at its certificate.",
  backend_timeout: "The service did not answer in time.",
  backend_reset: "The service reset the TCP connection. The end of its data may be missing.",
  idle_timeout: "Nothing was sent within the idle timeout of the route.",
  max_lifetime: "The connection reached the maximum lifetime of the route.",
  write_stalled: "One side accepted no data for too long.",
  protocol_error: "A peer violated the WebSocket protocol.",
  invalid_utf8: "A text message was not UTF-8.",
  request_too_large: "The request or a message was larger than allowed.",
  unsupported_data: "This route accepts only binary messages.",
  control_flood: "Too many control or empty frames came in a short time.",
  bad_request: "The bridge did not understand the request.",
  handshake_timeout: "The handshake took too long.",
  tls_failed: "TLS with the bridge failed.",
  bad_proxy_header: "The proxy in front of the bridge did not report the client's address.",
  origin_not_allowed: "The bridge does not accept connections from pages of this origin: see allowed_origins.",
  host_not_allowed: "The bridge does not accept requests for this host name: start it with --host-name NAME.",
  forbidden: "This is not allowed.",
  unauthenticated: "Authentication is required.",
  auth_unavailable: "Authentication is temporarily unavailable. Try again soon.",
  auth_expired: "The authentication has expired.",
  no_route: "The bridge has no route for this address.",
  loop_detected: "The backend of this route leads back to the bridge.",
  rate_limited: "Too many connections came in a short time. Wait a little.",
  banned: "Too many logins from this address failed; it is banned for a while.",
  overload: "The bridge is overloaded. Try again in a moment.",
  draining: "The bridge is about to be restarted. Reconnect in a moment.",
  shutdown: "The bridge was shut down.",
  route_removed: "The route of this connection was removed from the configuration.",
  closed_by_operator: "An operator closed this connection.",
  access_revoked: "The access of this user or token was revoked.",
  resume_rejected: "The session cannot be resumed: the bridge does not know it (any more).",
  resume_gap: "The session cannot be resumed without a gap.",
  superseded: "Another connection has resumed the session.",
  session_lost: "The bridge was restarted, and the session is lost.",
  session_expired: "The page was away for too long: the session has expired.",
  session_displaced: "Too many sessions wait for their pages; this one was ended for a newer one.",
  handed_over: "Another process has taken over, and goes on with the session.",
  internal_error: "An error in the bridge; see its log.",
  served: "The request was answered.",
};

const CODES = {
  1000: "The connection was closed cleanly.",
  1001: "The other side is going away.",
  1002: "A peer violated the WebSocket protocol.",
  1003: "The other side does not accept this kind of message.",
  1005: "The connection was closed cleanly, without a code.",
  1007: "A text message was not UTF-8.",
  1008: "The other side does not allow this.",
  1009: "A message was too big.",
  1011: "The other side failed.",
  1012: "The bridge is being restarted.",
  1013: "The bridge is overloaded. Try again in a moment.",
  1014: "The bridge could not reach the service.",
  4001: "The session cannot be resumed: it has expired.",
  4002: "The session cannot be resumed without a gap.",
  4003: "Another connection has resumed the session.",
  4004: "The bridge was restarted, and the session is lost.",
  4008: "A peer violated the protocol of sessions.",
  4009: "A rule of the bridge ended the session.",
  4010: "The service refused the connection: nothing listens at its address.",
  4011: "The bridge cannot reach the service's address.",
  4012: "The service reset the TCP connection.",
  4013: "The bridge has no room for another session. Try again in a moment.",
  4014: "The bridge is about to be restarted. Reconnect in a moment.",
};

const LOST = "The connection broke without a Close frame: the bridge was killed, or the network failed.";
const NEVER_OPEN = "The connection could not be opened. Browsers do not report the cause to pages; see the bridge's log.";

// Which of the two connections an ending belongs to: "client" (the WebSocket), "backend" (TCP), or "both".
function sideOf(name) {
  if (name.startsWith("backend_")) return "backend";
  return name.startsWith("client_") ? "client" : "both";
}

// Describe a close event by a short name, a sentence and a side. `opened`: whether it was open. `ours`: closed by the user.
// `lost`: the session could not be resumed.
export function explain({ code, reason }, { opened, ours, lost }) {
  if (ours) return { name: `${code} ${reason || "client_closed"}`, words: REASONS.client_closed, clean: true, side: "client" };
  if (code === 1006 && lost) return { name: "1006 lost", words: `The session is lost: ${reason}.`, clean: false, side: "client" };
  if (code === 1006) return { name: "1006", words: opened ? LOST : NEVER_OPEN, clean: false, side: "client" };
  const words = Object.hasOwn(REASONS, reason) ? REASONS[reason] : (CODES[code] ?? "The other side sent an application's own code.");
  const clean = code === 1000 || code === 1001 || code === 1012;
  return { name: reason ? `${code} ${reason}` : `${code}`, words, clean, side: sideOf(reason) };
}
