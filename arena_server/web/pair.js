/** Which two models fight: drawn by the daemon, or chosen (which is which is drawn in any case). */

import { el } from "./dom.js";
import { Choice } from "./models.js";

/** The choice of a pair. */
export class PairChoice {
  #how;
  #choice = new Choice(["First model", "Second model"]);

  constructor() {
    const options = [el("option", { value: "drawn" }, "Drawn for me"), el("option", { value: "chosen" }, "Two that I choose")];
    this.#how = el("select", { change: () => this.#show() }, ...options);
    this.element = el("div", { class: "choice" }, el("label", {}, "Pair ", this.#how), this.#choice.element);
    this.#show();
  }

  /** What can be chosen. @param {string[]} names */
  set names(names) {
    this.#choice.names = names;
  }

  /** Whether a battle runs. */
  set fixed(fixed) {
    this.#how.disabled = fixed;
    this.#choice.fixed = fixed;
  }

  /** Its part of the request. @returns {{models?: string[]}} */
  request() {
    return this.#how.value === "chosen" ? { models: this.#choice.chosen } : {};
  }

  #show() {
    this.#choice.element.hidden = this.#how.value !== "chosen";
  }
}
