/** Ratings and their intervals as a picture: a dot and whiskers for each model. */

import { el, svg } from "./dom.js";

const ROW_PX = 34;
const AXIS_PX = 30;
const CHARACTER_PX = 8;
const GAP_PX = 12; // between names and picture
const EDGE_PX = 16; // half a label is wider than what it labels
const LEAST_SPAN = 50; // points; less would blow up differences that mean nothing
const LABEL_EVERY_PX = 80;

/** Drawn for the width that there is, and again when that changes. */
export class Chart {
  #models = [];

  constructor() {
    this.element = el("figure", { class: "chart" });
    new ResizeObserver(() => this.#redraw()).observe(this.element);
  }

  /** @param {Array<{model: string, rating: number, lower: number, upper: number}>} models best first */
  draw(models) {
    this.#models = models.filter((m) => m.rating != null);
    this.#redraw();
  }

  #redraw() {
    const width = Math.floor(this.element.clientWidth);
    if (width && this.#models.length) this.element.replaceChildren(picture(this.#models, width));
  }
}

function picture(models, width) {
  const longest = Math.max(...models.map((m) => m.model.length));
  const names = Math.min(longest * CHARACTER_PX + GAP_PX + EDGE_PX, Math.floor(width * 0.38));
  const height = models.length * ROW_PX + AXIS_PX;
  const axis = axisOf(models, names, width - 2 * EDGE_PX);
  const label = `Ratings with 95% intervals. ${models.map((m) => `${m.model}: ${told(m)}`).join("; ")}`;
  const rows = models.map((m, i) => row(m, i * ROW_PX + ROW_PX / 2, names, axis.at));
  return svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, ...ticks(axis, height), ...rows);
}

function axisOf(models, from, to) {
  const ends = models.flatMap((m) => [m.lower ?? m.rating, m.upper ?? m.rating]);
  const middle = (Math.min(...ends) + Math.max(...ends)) / 2;
  const half = Math.max((Math.max(...ends) - Math.min(...ends)) / 2, LEAST_SPAN / 2) * 1.04;
  const at = (points) => from + ((points - middle + half) / (2 * half)) * (to - from);
  return { low: middle - half, high: middle + half, at, step: step((2 * half * LABEL_EVERY_PX) / (to - from)) };
}

/** The next of 1, 2 or 5 times a power of ten. */
function step(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((n) => n * power).find((s) => s >= least);
}

function ticks({ low, high, at, step }, height) {
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => {
    const points = (first + i) * step;
    const line = svg("line", { class: "grid", x1: at(points), x2: at(points), y1: 0, y2: height - AXIS_PX + 4 });
    return svg("g", {}, line, svg("text", { class: "tick", x: at(points), y: height - 10 }, String(Math.round(points))));
  });
}

function row(model, y, names, at) {
  const { rating, lower, upper } = model;
  const shown = shortened(model.model, Math.floor((names - GAP_PX - EDGE_PX) / CHARACTER_PX));
  const parts = [svg("title", {}, `${model.model}: ${told(model)}`), svg("text", { class: "name", x: names - GAP_PX, y: y + 4 }, shown)];
  if (lower != null && upper != null) {
    parts.push(svg("line", { class: "whisker", x1: at(lower), x2: at(upper), y1: y, y2: y }));
    for (const end of [lower, upper]) parts.push(svg("line", { class: "whisker", x1: at(end), x2: at(end), y1: y - 5, y2: y + 5 }));
  }
  parts.push(svg("circle", { class: "dot", cx: at(rating), cy: y, r: 6 }));
  return svg("g", { class: "rated" }, ...parts);
}

/** The middle goes: the ends of a model's name tell most. */
function shortened(name, most) {
  if (name.length <= most) return name;
  const head = Math.floor((most - 1) / 2);
  return `${name.slice(0, head)}…${name.slice(name.length - (most - 1 - head))}`;
}

function told({ rating, lower, upper }) {
  const interval = lower == null ? "" : ` (${Math.round(lower)} to ${Math.round(upper)})`;
  return `${Math.round(rating)}${interval}`;
}
