// What the admin API answered, with rates; sorted, filtered and as text. Nothing here touches the page.

export const MAX_ROWS = 200; // rows of a table that are shown
export const MAX_NARROW_ROWS = 40; // on a narrow screen, where each is a block of lines

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NONE = "–";

export function size(count) {
  if (!Number.isFinite(count)) return NONE;
  let unit = 0;
  while (Math.round(count) >= 1000 && unit < UNITS.length - 1) {
    count /= 1024;
    unit += 1;
  }
  return `${unit && count < 99.95 ? count.toFixed(1) : Math.round(count)} ${UNITS[unit]}`;
}

export function rate(count) {
  return Number.isFinite(count) ? `${size(count)}/s` : NONE;
}

export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m${two(whole % 60)}s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)}h${two(Math.floor(whole / 60) % 60)}m`;
  return `${Math.floor(whole / 86400)}d${two(Math.floor(whole / 3600) % 24)}h`;
}

export function shortTime(seconds) {
  if (!Number.isFinite(seconds)) return NONE;
  if (seconds >= 0.9995) return `${seconds.toFixed(1)} s`;
  return `${seconds < 0.00995 ? (seconds * 1000).toFixed(1) : Math.round(seconds * 1000)} ms`;
}

export function timeOfDay(timestamp) {
  const date = new Date(timestamp);
  return Number.isNaN(date.getTime()) ? NONE : date.toLocaleTimeString([], { hour12: false });
}

const count = (number) => (Number.isFinite(number) ? String(number) : NONE);

function text(value) {
  if (value === null || value === undefined || value === "") return NONE;
  if (Array.isArray(value)) return value.join(", ");
  if (typeof value === "object") return Object.entries(value).map(([key, item]) => `${key} ${item}`).join(", ") || NONE;
  return String(value);
}

function blocked(row) {
  const found = [row.blocked_to_client_seconds, row.blocked_to_backend_seconds].filter((seconds) => seconds > 0);
  return found.length ? Math.max(...found) : null;
}

function blockedSide(row) {
  return ["client", "backend"].filter((side) => row[`blocked_to_${side}_seconds`] > 0).join(" + ");
}

function peer(row) {
  return row.via ? `${text(row.peer)} via ${text(row.via)}` : row.peer;
}

function expiry(row) {
  const dates = (row.certificates ?? []).map((one) => String(one.expires ?? "").slice(0, 10)).filter(Boolean);
  return dates.sort()[0] ?? null;
}

const words = (label, key) => ({ label, value: typeof key === "function" ? key : (row) => row[key], text });
const number = (label, key, format) => ({ ...words(label, key), text: format, number: true });

const RATES = [
  number("backend/s", "rate_to_backend", rate),
  number("client/s", "rate_to_client", rate),
];
const TOTALS = [
  number("to backend", "bytes_to_backend", size),
  number("to client", "bytes_to_client", size),
];

export const VIEWS = {
  routes: {
    title: "Routes",
    key: (row) => row.route,
    columns: [
      words("route", "route"),
      { label: "rates", value: () => null, text: () => "", spark: true },
      number("active", "active", count),
      ...RATES,
      ...TOTALS,
      number("relayed", "relayed", count),
      number("rejected", "rejected", count),
      words("last ending", "last_reason"),
      words("reasons", "reasons"),
      words("backend", "backend"),
    ],
    sort: "client/s",
  },
  connections: {
    title: "Connections",
    key: (row) => row.id,
    columns: [
      number("id", "id", count),
      words("peer", peer),
      words("identity", "identity"),
      words("route", "route"),
      ...RATES,
      ...TOTALS,
      number("age", "duration_seconds", duration),
      number("rtt", "round_trip_seconds", shortTime),
      number("blocked", blocked, duration),
      words("side", blockedSide),
      words("state", "state"),
      words("backend", "backend_address"),
      words("path", "path"),
      words("user agent", "user_agent"),
    ],
    sort: "client/s",
  },
  endings: {
    title: "Endings",
    key: (row) => `${row.time} ${row.id}`,
    columns: [
      { ...words("time", "time"), text: timeOfDay },
      number("id", "id", count),
      words("reason", "reason"),
      words("by", "initiator"),
      words("route", "route"),
      words("peer", "peer"),
      words("identity", "identity"),
      number("age", "duration_seconds", duration),
      ...TOTALS,
      number("status", "status", count),
      number("code", "close_code", count),
      words("detail", "detail"),
    ],
    sort: "",
  },
  listeners: {
    title: "Listeners",
    key: (row) => row.listener,
    columns: [
      words("listener", "listener"),
      words("address", "listen_address"),
      words("protocol", "protocol"),
      number("connections", "connections", count),
      words("limit", "connections_limit"),
      words("certificate expires", expiry),
    ],
    sort: "",
  },
};

function rated(rows, before, key, seconds) {
  const older = new Map(before.map((row) => [key(row), row]));
  return rows.map((row) => {
    const old = older.get(key(row));
    const time = old ? seconds : Math.min(row.duration_seconds || seconds, seconds);
    const moved = (name) => (row[name] ?? 0) - (old?.[name] ?? 0);
    const per = (name) => (moved(name) >= 0 ? moved(name) / time : null);
    return { ...row, rate_to_backend: per("bytes_to_backend"), rate_to_client: per("bytes_to_client") };
  });
}

// Adds rates to a snapshot {at, status, routes, listeners, connections, ended, total}; `at` in milliseconds. Nothing is
// compared across a restart of the daemon.
export function withRates(now, before) {
  const same = before && before.status.pid === now.status.pid && before.status.started === now.status.started;
  const seconds = same ? (now.at - before.at) / 1000 : 0;
  if (seconds <= 0) return now;
  const routes = rated(now.routes, before.routes, VIEWS.routes.key, seconds);
  return { ...now, routes, connections: rated(now.connections, before.connections, VIEWS.connections.key, seconds) };
}

export function sumOf(rows, name) {
  return rows.reduce((sum, row) => sum + (row[name] ?? 0), 0);
}

export function rowsOf(snapshot, view) {
  return view === "endings" ? snapshot.ended : snapshot[view];
}

export function sorted(rows, view, label, reversed) {
  const column = VIEWS[view].columns.find((one) => one.label === label);
  if (!column) return reversed ? [...rows].reverse() : rows;
  const keyed = rows.map((row) => {
    const value = column.value(row);
    return { row, value: column.number ? value : value ? text(value).toLowerCase() : null };
  });
  const known = keyed.filter((one) => one.value !== null && one.value !== undefined);
  const unknown = keyed.filter((one) => one.value === null || one.value === undefined);
  const direction = Boolean(column.number) === Boolean(reversed) ? 1 : -1;
  known.sort((a, b) => (a.value < b.value ? -direction : a.value > b.value ? direction : 0));
  return [...known, ...unknown].map((one) => one.row);
}

export function filtered(rows, wanted) {
  const low = wanted.toLowerCase();
  if (!low) return rows;
  const has = (value) => (typeof value === "string" || Number.isInteger(value) || Array.isArray(value)) && text(value).toLowerCase().includes(low);
  return rows.filter((row) => Object.values(row).some(has));
}

// The state of the daemon in words, and whether it is good, doubtful or bad.
export function stateOf(status) {
  if (status.ready) return [`${status.state}, ready`, "good"];
  if (status.state !== "serving") return [String(status.state), "wait"];
  return [`not ready: ${status.memory?.pressure ? "memory is short" : "connection limit reached"}`, "bad"];
}
