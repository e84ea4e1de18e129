/** Named models side by side. */

import { Unreachable, stream } from "./api.js";
import { Board } from "./board.js";
import { Composer } from "./composer.js";
import { el } from "./dom.js";
import { Choice } from "./models.js";
import { Trouble, announce, explained } from "./notice.js";
import { letter } from "./words.js";
import { welcome } from "./welcome.js";

const ROUTE = "v1/arena/compare";
const LETTERS = ["a", "b", "c", "d"];
const LABELS = ["First model", "Second model", "Third model", "Fourth model"];
const ASK = "Ask the models something";
const GO_ON = "Go on with each of them";

/** The view of it. Every side goes on with its own answers. */
export class Compare {
  #abort = null; // while a turn runs
  #talks = null; // a side's messages so far, while there is a conversation
  #models = [];
  #known = 0; // models there are

  /** @param {Settings} settings */
  constructor(settings) {
    this.settings = settings;
    this.trouble = new Trouble();
    this.choice = new Choice(LABELS.slice(0, 2), () => this.#offer());
    this.more = el("button", { type: "button", "aria-label": "One model more", click: () => this.choice.add(LABELS[this.choice.chosen.length]) }, "+");
    this.less = el("button", { type: "button", "aria-label": "One model less", click: () => this.choice.remove() }, "−");
    this.anew = el("button", { type: "button", hidden: true, click: () => this.#leave() }, "New comparison");
    this.composer = new Composer(ASK, (prompt) => this.#send(prompt), () => this.#abort?.abort());
    this.board = new Board(welcome("Two to four models answer side by side, each under its own name.", (p) => this.#suggest(p)));
    const setup = el("div", { class: "setup" }, this.choice.element, el("div", { class: "row" }, this.less, this.more), this.anew);
    const dock = el("div", { class: "dock" }, this.trouble.element, this.composer.element, settings.panel("They hold from the next prompt on."));
    this.element = el("div", { class: "view" }, setup, this.board.element, dock);
    this.#offer();
  }

  /** What can be chosen. @param {string[]} names */
  set names(names) {
    this.#known = names.length;
    this.choice.names = names;
  }

  async #send(prompt) {
    const abort = (this.#abort = new AbortController());
    this.#begin();
    const turn = this.board.begin(prompt, this.#models.map((model, i) => ({ side: LETTERS[i], model })));
    const problem = await this.#follow(turn).then(() => null, (error) => error);
    turn.stop();
    if (this.#abort !== abort) return; // somebody has left this conversation
    this.#abort = null;
    if (this.composer.end()) this.composer.focus();
    if (problem && !turn.begun) this.#refused(problem, prompt);
    else this.#ended(turn, problem);
  }

  #begin() {
    this.trouble.clear();
    this.composer.begin();
    this.#models = this.#talks ? this.#models : this.choice.chosen;
    this.#talks ??= Object.fromEntries(this.#models.map((_, i) => [LETTERS[i], []]));
    this.anew.hidden = false;
    this.#offer();
    announce("Sent. Waiting for the models.");
  }

  async #follow(turn) {
    const said = { role: "user", content: turn.prompt };
    const talks = Object.entries(this.#talks).map(([side, talk]) => [side, [...this.settings.preface(), ...talk, said]]);
    const body = { models: this.#models, messages: Object.fromEntries(talks), ...this.settings.sampling() };
    let ended = false;
    for await (const { event, data } of stream(ROUTE, body, this.#abort.signal)) {
      turn.begun = true;
      if (event === "start") tellOrder(turn, data);
      else if (event === "end") ended = true;
      else turn.take(event, data);
    }
    if (!ended) throw new Unreachable("The connection to the server broke off.");
  }

  #ended(turn, problem) {
    for (const [side, { text }] of turn.answers) {
      // Two prompts in a row are more than many chat templates take: a side without an answer was never asked.
      if (text) this.#talks[side].push({ role: "user", content: turn.prompt }, { role: "assistant", content: text });
    }
    this.composer.hint = GO_ON;
    if (!problem) announce("All answers are complete.");
    else if (problem.name === "AbortError") announce("Stopped");
    else this.trouble.show(explained(problem).text, { label: "Ask once more", act: () => this.#send(turn.prompt) });
  }

  /** The turn never began: the prompt goes back to where it was written. */
  #refused(problem, prompt) {
    this.board.withdraw();
    this.composer.fill(prompt);
    if (!this.board.turns.length) this.#clear();
    if (problem.name === "AbortError") return;
    const { text, after_s } = explained(problem);
    const act = () => {
      this.composer.fill("");
      this.#send(prompt);
    };
    this.trouble.show(text, { label: "Try again", after_s, act });
  }

  /** Let be chosen what can be. */
  #offer() {
    const chosen = this.choice?.chosen.length ?? 0;
    if (!this.more) return;
    this.choice.fixed = this.#talks !== null;
    this.less.disabled = this.#talks !== null || chosen <= 2;
    this.more.disabled = this.#talks !== null || chosen >= Math.min(LETTERS.length, this.#known);
  }

  #leave() {
    this.#abort?.abort();
    this.#abort = null;
    this.composer.end();
    this.#clear();
    this.composer.focus();
  }

  #clear() {
    this.#talks = null;
    this.board.clear();
    this.trouble.clear();
    this.composer.hint = ASK;
    this.anew.hidden = true;
    this.#offer();
  }

  #suggest(prompt) {
    this.composer.fill(prompt);
    this.composer.focus();
  }
}

function tellOrder(turn, { co_residency: together, order }) {
  if (together !== "one_after_another") return;
  const text = `These models do not fit into memory together: they answer one after the other, ${order.map(letter).join(", then ")}.`;
  turn.columns.before(el("p", { class: "note" }, text));
  announce(text);
}
