/** The sampling settings, kept in this browser. */

import { el } from "./dom.js";
import { Kept } from "./kept.js";

const KEY = "arena.sampling";
const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.01 },
  { name: "top_p", label: "Top p", min: 0.01, max: 1, step: 0.01 },
  { name: "max_tokens", label: "Most tokens", min: 1, step: 1 },
  { name: "seed", label: "Seed", min: 0, step: 1 },
];
const SYSTEM = "system";

/** What is set: numbers as text, an empty one is the model's own default. All panels of the page share it. */
export class Settings {
  #kept = new Kept("localStorage", KEY);
  #values = read(this.#kept.text);
  #panels = [];

  /** The sampling fields of a request. @returns {Record<string, number>} */
  sampling() {
    const set = FIELDS.filter(({ name }) => this.#values[name] && Number.isFinite(Number(this.#values[name])));
    return Object.fromEntries(set.map(({ name }) => [name, Number(this.#values[name])]));
  }

  /** What comes before the first prompt. @returns {Array<{role: string, content: string}>} */
  preface() {
    const content = this.#values[SYSTEM]?.trim();
    return content ? [{ role: "system", content }] : [];
  }

  /** A panel to change them. @param {string} note when they take effect @returns {HTMLElement} */
  panel(note) {
    const inputs = FIELDS.map(({ name, label, ...limits }) => {
      const props = { type: "number", inputmode: "decimal", placeholder: "default", name, ...limits };
      return el("label", {}, label, el("input", { ...props, input: (e) => this.#set(name, e.target) }));
    });
    const system = el("textarea", { name: SYSTEM, rows: 2, placeholder: "none", input: (e) => this.#set(SYSTEM, e.target) });
    const reset = el("button", { type: "button", click: () => this.#reset() }, "Back to the defaults");
    const fields = el("div", { class: "fields" }, ...inputs, el("label", { class: "system" }, "System prompt", system));
    const mark = el("span", { class: "mark" });
    const panel = el("details", { class: "settings" }, el("summary", {}, "Sampling settings", mark), fields, el("p", { class: "note" }, note, " "), reset);
    this.#panels.push(panel);
    this.#show();
    return panel;
  }

  #set(name, input) {
    if (!input.validity.valid) return; // shown by the browser; what was valid last stays
    this.#values[name] = input.value;
    this.#keep(input);
  }

  #reset() {
    this.#values = {};
    this.#keep(null);
  }

  #keep(typedIn) {
    this.#kept.text = JSON.stringify(this.#values);
    this.#show(typedIn);
  }

  #show(typedIn = null) {
    const changed = Object.values(this.#values).filter(Boolean).length;
    for (const panel of this.#panels) {
      panel.querySelector(".mark").textContent = changed ? ` (${changed} changed)` : "";
      for (const input of panel.querySelectorAll("[name]")) if (input !== typedIn) input.value = this.#values[input.name] ?? "";
    }
  }
}

/** Settings that were kept; other versions of this page may have kept others. */
function read(text) {
  try {
    const found = JSON.parse(text ?? "{}");
    const known = [...FIELDS.map((f) => f.name), SYSTEM].filter((n) => typeof found?.[n] === "string");
    return Object.fromEntries(known.map((n) => [n, found[n]]));
  } catch {
    return {};
  }
}
