/** The four votes, as buttons and keys. */

import { el } from "./dom.js";

const VOTES = [
  { vote: "a", label: "A is better" },
  { vote: "b", label: "B is better" },
  { vote: "tie", label: "Tie" },
  { vote: "both_bad", label: "Both bad" },
];

/** What a vote says. */
export function said(vote) {
  return VOTES.find((v) => v.vote === vote)?.label ?? vote;
}

/** Buttons that are there while a vote can be given. */
export class VoteBar {
  #onVote;
  #buttons;
  #keys = true;

  /** @param {(vote: string) => void} onVote */
  constructor(onVote) {
    this.#onVote = onVote;
    this.#buttons = VOTES.map(({ vote, label }, i) =>
      el("button", { type: "button", class: `vote vote-${vote}`, "aria-keyshortcuts": i + 1, click: () => this.#give(vote) }, label, el("kbd", { "aria-hidden": "true" }, String(i + 1))),
    );
    // Keys without a modifier must be able to be turned off (WCAG 2.1.4): speech input types letters and digits.
    const box = el("input", { type: "checkbox", checked: true, change: (e) => (this.#keys = e.target.checked) });
    const keys = el("label", { class: "keys" }, box, "keys 1 to 4 vote");
    const title = el("p", { id: "vote-title" }, "Which answer is better?");
    this.element = el("section", { class: "votes", "aria-labelledby": "vote-title", tabindex: "-1", hidden: true }, el("div", { class: "vote-head" }, title, keys), el("div", { class: "vote-row" }, ...this.#buttons));
    document.addEventListener("keydown", (e) => this.#key(e));
  }

  /** Whether a vote can be given now. */
  set open(open) {
    this.element.hidden = !open;
    this.waiting = false;
  }

  /** A vote is under way. */
  set waiting(waiting) {
    for (const button of this.#buttons) button.disabled = waiting;
  }

  /** Bring the keyboard here: to the group, as a button might be pressed by a key that was meant for another. */
  focus() {
    this.element.focus({ preventScroll: true });
  }

  #give(vote) {
    this.waiting = true;
    this.#onVote(vote);
  }

  #key(event) {
    const i = ["1", "2", "3", "4"].indexOf(event.key);
    const typing = event.target instanceof Element && event.target.closest("input:not([type=checkbox]), textarea, select");
    if (i < 0 || typing || !this.#keys || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
    // Not shown (also where another view is): then it is no vote.
    if (!this.element.checkVisibility() || this.#buttons[i].disabled) return;
    event.preventDefault();
    this.#give(VOTES[i].vote);
  }
}
