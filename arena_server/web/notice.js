/** What the page says about itself: to screen readers, and when something went wrong. */

import { Refused, Unreachable } from "./api.js";
import { byId, el } from "./dom.js";
import { span } from "./words.js";

/** Let screen readers say it, politely. States, never each word of an answer. */
export function announce(text) {
  const region = byId("announcements");
  // The same words once more are no change, and would not be read.
  region.textContent = region.textContent === text ? `${text}\u00a0` : text;
}

/** A panel for what went wrong, with a way out of it. */
export class Trouble {
  #timer = 0;

  /** The panel; hidden while all is well. */
  constructor() {
    this.element = el("div", { class: "trouble", role: "alert", hidden: true });
  }

  /** All is well. */
  clear() {
    clearInterval(this.#timer);
    this.element.hidden = true;
    this.element.replaceChildren();
  }

  /**
   * @param {string} text
   * @param {{label: string, act: () => void, after_s?: number|null}} [way] a button; usable after so many seconds
   */
  show(text, way) {
    this.clear();
    const parts = [el("p", {}, text)];
    if (way) parts.push(this.#button(way));
    this.element.append(...parts);
    this.element.hidden = false;
  }

  #button({ label, act, after_s }) {
    const button = el("button", { type: "button", click: act }, label);
    let rest_s = after_s ?? 0;
    const tick = () => {
      button.disabled = rest_s > 0;
      // The countdown is no part of its name: an alert that changes each second would be read each second.
      button.replaceChildren(label, rest_s > 0 ? el("span", { "aria-hidden": "true" }, ` in ${span(rest_s)}`) : "");
      if (rest_s-- <= 0) clearInterval(this.#timer);
    };
    if (rest_s > 0) this.#timer = setInterval(tick, 1000);
    tick();
    return button;
  }
}

/** An error in words, and whether and when to try again. @returns {{text: string, after_s: number|null}} */
export function explained(error) {
  if (error instanceof Unreachable) return { text: `${error.message} Is it running?`, after_s: null };
  if (!(error instanceof Refused)) return { text: `Something went wrong on this page: ${error.message}`, after_s: null };
  return { text: `${lead(error)}${error.message}${again(error)}`, after_s: error.retryAfter_s };
}

/** A place that is taken, or a limit that is reached: which of them it is, is not the same to whom it hits. */
function lead({ status, code }) {
  if (status === 429) return code === "queue_full" ? "The server is busy. " : "You have asked for too much at once. ";
  return status === 503 ? "Not to be had right now. " : "";
}

function again({ status, retryAfter_s }) {
  return status === 429 && retryAfter_s != null ? ` It can be tried again in ${span(retryAfter_s)}.` : "";
}
