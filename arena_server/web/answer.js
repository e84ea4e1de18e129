/** One side's answer in one turn. */

import { el } from "./dom.js";
import { followingTheEnd } from "./place.js";
import { Rendering } from "./rendering.js";
import { count, joined, left, letter, seconds, speed } from "./words.js";

const TICK_MS = 500;
const ENDINGS = { length: "cut off at the token limit", stop: "" };

/** Shows that it waits, then its text as it comes, then how it ended. */
export class Answer {
  #state = el("p", { class: "state" });
  #progress = el("progress", { max: "1", "aria-label": "Until it answers" });
  #body = el("div", { class: "text" });
  #foot = el("p", { class: "foot" });
  #thoughts = null;
  #rendering = new Rendering(this.#body, followingTheEnd);
  #ticker = 0;
  #began = performance.now();

  /**
   * @param {string} side
   * @param {string} name the model's, or ""
   */
  constructor(side, name) {
    this.side = side;
    this.finished = false;
    this.#progress.hidden = true;
    this.element = el("article", { class: `answer side-${side}`, "aria-label": `Answer ${letter(side)}`, "aria-busy": "true" });
    this.nameElement = el("span", { class: "model" }, name);
    const head = el("h3", {}, el("span", { class: "badge" }, letter(side)), " ", this.nameElement);
    this.element.append(head, this.#state, this.#progress, this.#body, this.#foot);
  }

  /** The text so far. */
  get text() {
    return this.#rendering.text;
  }

  /** It waits. @param {string} words for what @param {number|null} eta_s how long still */
  wait(words, eta_s) {
    const due = eta_s == null ? null : performance.now() + eta_s * 1000;
    const tick = () => {
      const rest_s = due == null ? null : Math.max(0, (due - performance.now()) / 1000);
      const gone_s = (performance.now() - this.#began) / 1000;
      this.#state.textContent = joined(words, left(rest_s));
      this.#progress.hidden = false;
      if (rest_s == null) this.#progress.removeAttribute("value");
      else this.#progress.value = gone_s / (gone_s + rest_s || 1);
    };
    clearInterval(this.#ticker);
    this.#ticker = setInterval(tick, TICK_MS);
    tick();
  }

  /** It is about to write, or writes. */
  say(words) {
    clearInterval(this.#ticker);
    this.#progress.hidden = true;
    this.#state.textContent = words;
  }

  /** Text has come. */
  add(text) {
    if (!this.#rendering.text) this.say("");
    this.#rendering.append(text);
  }

  /** Thoughts have come. */
  think(text) {
    if (!this.#thoughts) {
      this.say("Thinking…");
      this.#thoughts = el("p", { class: "raw" });
      this.#body.before(el("details", { class: "thoughts" }, el("summary", {}, "Thoughts"), this.#thoughts));
    }
    followingTheEnd(() => this.#thoughts.append(text));
  }

  /** It is complete. @param {object} facts of the event `done` */
  finish(facts) {
    this.#end();
    const { finish_reason: reason, usage, waited_s, ttft_s, tokens_per_s: rate } = facts;
    const figures = [
      waited_s >= 0.05 ? `waited ${seconds(waited_s)}` : "",
      ttft_s == null ? "" : `first text after ${seconds(ttft_s)}`,
      speed(rate),
      usage?.completion_tokens == null ? "" : count(usage.completion_tokens, "token"),
    ];
    this.#foot.textContent = joined(...figures, ENDINGS[reason] ?? (reason ? `ended: ${reason}` : ""));
    if (!this.text && !this.#body.hasChildNodes()) this.#state.textContent = "(an empty answer)";
  }

  /** It has come so far, as the daemon says later. */
  catchUp(text) {
    const more = text.replace(/\r\n?/g, "\n").slice(this.text.length);
    if (more) this.add(more);
  }

  /** It was cut short where it is. */
  stop() {
    if (this.finished) return;
    this.#end();
    this.#foot.textContent = "cut short";
  }

  /** It failed. @param {string} message */
  fail(message) {
    this.#end();
    this.#foot.replaceChildren(el("span", { class: "failure" }, message));
  }

  #end() {
    this.finished = true;
    this.say("");
    this.#rendering.finish();
    this.element.setAttribute("aria-busy", "false");
  }
}
