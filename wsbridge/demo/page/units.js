// Numbers for people.

const STEPS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function size(bytes) {
  let step = 0;
  while (bytes >= 1024 && step < STEPS.length - 1) {
    bytes /= 1024;
    step += 1;
  }
  return `${step && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${STEPS[step]}`;
}

export function seconds(time) {
  return `${(time / 1000).toFixed(1)} s`;
}

export function milliseconds(time) {
  if (time >= 1000) return seconds(time);
  return `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
}

export function clock(seconds) {
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60];
  return parts.map((part) => String(part).padStart(2, "0")).join(":").replace(/^00:/, "");
}
