/** A conversation with several models: turns of one prompt and an answer a side. */

import { Answer } from "./answer.js";
import { el } from "./dom.js";
import { announce } from "./notice.js";
import { followingTheEnd } from "./place.js";
import { capital, joined, letter } from "./words.js";

const PHASES = { queued: "Waiting for a place", loading: "Coming up", ready: "About to answer…" };

/** The turns so far. */
export class Board {
  /** @param {HTMLElement} welcome shown while there are none */
  constructor(welcome) {
    this.turns = [];
    this.list = el("ol", { class: "turns", "aria-label": "Conversation" });
    this.welcome = welcome;
    this.element = el("div", { class: "board" }, welcome, this.list);
  }

  /** Begin a turn. @param {string} prompt @param {Array<{side: string, model?: string}>} sides @returns {Turn} */
  begin(prompt, sides) {
    const turn = new Turn(this.turns.length + 1, prompt, sides);
    this.turns.push(turn);
    followingTheEnd(() => {
      this.welcome.hidden = true;
      this.list.append(turn.element);
    });
    turn.element.scrollIntoView({ block: "nearest" });
    return turn;
  }

  /** Take back the last turn: it was never begun. */
  withdraw() {
    this.turns.pop()?.element.remove();
    this.welcome.hidden = this.turns.length > 0;
  }

  /** Begin anew. */
  clear() {
    for (const turn of this.turns) turn.stop();
    this.turns = [];
    this.list.replaceChildren();
    this.welcome.hidden = false;
  }

  /** Show which model each side is. @param {Record<string, string>} models by side */
  reveal(models) {
    for (const turn of this.turns) for (const [side, answer] of turn.answers) answer.nameElement.textContent = models[side];
  }
}

/** One turn. */
export class Turn {
  #phases = "";

  constructor(number, prompt, sides) {
    this.prompt = prompt;
    this.answers = new Map(sides.map(({ side, model }) => [side, new Answer(side, model ?? "")]));
    const asked = el("div", { class: "prompt" }, el("h3", { class: "unseen" }, `Turn ${number}: you asked`), el("p", { class: "raw" }, prompt));
    this.columns = el("div", { class: "columns" }, ...[...this.answers.values()].map((a) => a.element));
    this.columns.dataset.sides = String(sides.length);
    this.element = el("li", { class: "turn" }, asked, this.columns);
  }

  /** Take an event of the stream that is for the sides. @param {string} event @param {object} data */
  take(event, data) {
    if (event === "error" && !data.side) return; // of all of it: whoever reads the stream tells it
    const answers = data.side ? [this.answers.get(data.side)].filter(Boolean) : [...this.answers.values()];
    for (const answer of answers) TAKE[event]?.(answer, data);
    if (event === "status") this.#tell(data);
  }

  /** It ended before its end. */
  stop() {
    for (const answer of this.answers.values()) answer.stop();
  }

  #tell({ side, phase }) {
    const words = joined(side ? letter(side) : "", PHASES[phase] ?? phase);
    if (words !== this.#phases) announce(words);
    this.#phases = words;
  }
}

const TAKE = {
  status: (answer, { phase, detail, place, eta_s }) => {
    if (answer.finished || answer.text) return;
    if (phase === "ready" && eta_s == null) answer.say(PHASES.ready);
    else if (phase === "ready") answer.wait(joined("Awake", detail), eta_s);
    else answer.wait(joined(detail ? capital(detail) : (PHASES[phase] ?? phase), phase === "queued" && place > 1 ? `place ${place}` : ""), eta_s);
  },
  delta: (answer, { text, reasoning }) => {
    if (reasoning) answer.think(reasoning);
    if (text) answer.add(text);
  },
  done: (answer, data) => answer.finish(data),
  error: (answer, { error }) => answer.fail(error?.message ?? "It failed."),
};
