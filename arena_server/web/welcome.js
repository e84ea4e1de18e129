/** What stands where no conversation is yet. */

import { el } from "./dom.js";

const SUGGESTIONS = ["What is the capital of France?", "Tell me a short story about a fox.", "Explain in a few words why the sky is blue."];

/** @param {string} text @param {(prompt: string) => void} onChoice @returns {HTMLElement} */
export function welcome(text, onChoice) {
  const buttons = SUGGESTIONS.map((s) => el("button", { type: "button", class: "suggestion", click: () => onChoice(s) }, s));
  return el("div", { class: "welcome" }, el("p", {}, text), el("div", { class: "row" }, ...buttons));
}
