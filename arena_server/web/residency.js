/** Where every model is: a strip that keeps itself up to date. */

import { Refused, get, listen } from "./api.js";
import { el } from "./dom.js";
import { count, joined, left } from "./words.js";

const LOOK_MS = 2000;
const LOOK_IN_TRANSITION_MS = 700;
const AFTER_EVENT_MS = 100; // they come in bursts
const MARKS = { awake: "●", asleep: "◐", cold: "○", failed: "✕" };
const TELLING = new Set(["transition", "queue"]); // of the events
const MOVING = new Set(["loading", "waking", "falling asleep", "stopping"]);

/** Polls /health, and looks at once when /admin/events tells of something (where it may be read). */
export class Residency {
  #items = new Map();
  #secret = false;
  #timer = 0;
  #events = null; // what ends the listening
  #closed = false; // to this key, or to all of this page's visitors

  constructor() {
    this.summary = el("summary", {}, "Models");
    this.list = el("ul", { class: "models" });
    const open = !matchMedia("(max-width: 40rem)").matches;
    this.shown = el("details", { open }, this.summary, this.list);
    this.veil = el("p", { class: "veil", hidden: true }, "Models: hidden until you vote, so that it does not give the models away.");
    this.element = el("section", { class: "residency", "aria-label": "Where the models are" }, this.shown, this.veil);
    document.addEventListener("visibilitychange", () => this.#turn());
    this.#turn();
  }

  /** Whether a battle is undecided: what its models do would give them away. */
  set secret(secret) {
    if (this.#secret === secret) return;
    this.#secret = secret;
    this.shown.hidden = secret;
    this.veil.hidden = !secret;
    // What was seen before it must not be there to be compared with what is seen later.
    if (secret) this.#clear();
    this.#turn();
  }

  /** Look while somebody sees it, and else leave the daemon (and the browser's few connections) alone. */
  #turn() {
    clearTimeout(this.#timer);
    this.#events?.abort();
    this.#events = null;
    if (this.#secret || document.hidden) return;
    this.#look();
  }

  /** There is another key: what was closed to the one before may be open to it. */
  keyChanged() {
    this.#closed = false;
    this.#turn();
  }

  /** Only an operator's key opens it, and a proxy may keep it to itself: then looking every now and then has to do. */
  async #listen() {
    const events = (this.#events = new AbortController());
    try {
      for await (const { event } of listen("admin/events", events.signal)) if (TELLING.has(event)) this.#soon(AFTER_EVENT_MS);
    } catch (error) {
      if (error instanceof Refused) this.#closed = true;
    }
    if (this.#events === events) this.#events = null; // the next look that is answered begins anew
  }

  #soon(ms) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), ms);
  }

  async #look() {
    let pause_ms = LOOK_MS;
    try {
      const health = await get("health");
      if (this.#secret) return;
      this.#show(health);
      if (!this.#events && !this.#closed && !document.hidden) this.#listen();
      if (Object.values(health.models).some((m) => MOVING.has(m.residency))) pause_ms = LOOK_IN_TRANSITION_MS;
    } catch {
      this.summary.textContent = "Models: the server does not answer";
    }
    if (!this.#secret && !document.hidden) this.#soon(pause_ms);
  }

  #show({ models, queue }) {
    const all = Object.entries(models);
    const awake = all.filter(([, m]) => m.residency === "awake").length;
    const moving = all.filter(([, m]) => MOVING.has(m.residency)).map(([name, m]) => `${name} is ${m.residency}`);
    this.summary.textContent = `Models: ${joined(`${awake} of ${all.length} awake`, ...moving, queue.length ? `${queue.length} waiting` : "")}`;
    for (const name of this.#items.keys()) if (!(name in models)) this.#drop(name);
    for (const [name, model] of all) this.#item(name).show(model);
  }

  #item(name) {
    let item = this.#items.get(name);
    if (!item) {
      item = new Item(name);
      this.#items.set(name, item);
      this.list.append(item.element);
    }
    return item;
  }

  #drop(name) {
    this.#items.get(name).element.remove();
    this.#items.delete(name);
  }

  #clear() {
    for (const name of [...this.#items.keys()]) this.#drop(name);
    this.summary.textContent = "Models";
  }
}

class Item {
  constructor(name) {
    this.mark = el("span", { class: "mark", "aria-hidden": "true" });
    this.words = el("span", { class: "words" });
    this.progress = el("progress", { max: "1", "aria-label": `Loading ${name}` });
    this.element = el("li", {}, this.mark, el("span", { class: "name" }, name), this.words, this.progress);
  }

  show(model) {
    const { residency, loading, eta_s, error } = model;
    this.element.dataset.residency = residency;
    this.element.title = error ?? model.draining ?? "";
    this.mark.textContent = MARKS[residency] ?? "◌";
    this.words.textContent = told(model);
    this.progress.hidden = !(loading || residency === "waking");
    const part = fraction(loading, eta_s, residency === "waking" ? model.last_wake_s : model.last_load_s);
    if (part == null) this.progress.removeAttribute("value");
    else this.progress.value = part;
  }
}

function told({ residency, loading, running, waiting, eta_s, retry_in_s, draining }) {
  const phase = loading && loading.fraction != null ? `${loading.phase} ${Math.round(loading.fraction * 100)} %` : loading?.phase;
  const again = residency === "failed" && retry_in_s != null ? `again in ${Math.ceil(retry_in_s)} s` : "";
  const coming = MOVING.has(residency) ? left(eta_s) : "";
  return joined(residency, phase, coming, again, draining ? "draining" : "", running ? `${running} running` : "", waiting ? count(waiting, "request").concat(" waiting") : "");
}

/** How far it has come up, by what the last time took; or by what its engine says of its phase. */
function fraction(loading, eta_s, last_s) {
  if (eta_s != null && last_s) return Math.min(1, Math.max(0, 1 - eta_s / last_s));
  return loading?.fraction ?? null;
}
