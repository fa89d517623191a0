// Curves of the last minutes, as SVG polylines.

export const SPAN = 300_000; // milliseconds that a curve shows

// A list of {at, values} of the last minutes; the oldest first.
export class History {
  #samples = [];

  add(at, values) {
    this.#samples.push({ at, values });
    while (this.#samples[0].at < at - SPAN) this.#samples.shift();
  }

  clear() {
    this.#samples = [];
  }

  get largest() {
    return this.#samples.reduce((most, sample) => Math.max(most, ...sample.values), 0);
  }

  // The points of one value, for a polyline with an area of this size.
  points(index, width, height, top) {
    const last = this.#samples.at(-1)?.at ?? 0;
    return this.#samples
      .map(({ at, values }) => {
        const x = width - ((last - at) / SPAN) * width;
        const y = height - 2 - (values[index] / (top || 1)) * (height - 6);
        return `${x.toFixed(1)},${y.toFixed(1)}`;
      })
      .join(" ");
  }
}

export function draw(svg, history, top) {
  const { width, height } = svg.viewBox.baseVal;
  svg.querySelectorAll("polyline").forEach((line, index) => {
    line.setAttribute("points", history.points(index, width, height, top));
  });
}

const NAMESPACE = "http://www.w3.org/2000/svg";

export function newSpark() {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", "0 0 90 22");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["backend", "client"]) {
    const line = document.createElementNS(NAMESPACE, "polyline");
    line.setAttribute("class", name);
    svg.append(line);
  }
  return svg;
}
