/** Who was who, and how fast. */

import { el } from "./dom.js";
import { said } from "./votes.js";
import { letter, seconds, speed } from "./words.js";

const COLUMNS = ["Turn", "Side", "Model", "Was", "Waited", "First text", "Speed", "Tokens"];

/** @param {object} battle as the daemon shows it after the vote @returns {HTMLElement} */
export function revealed(battle) {
  const { sides, drawn, probability } = battle.reveal;
  const name = (side) => el("strong", { class: `name-${side}` }, sides[side].model);
  const title = el("h2", { tabindex: "-1" }, "A was ", name("a"), ", B was ", name("b"));
  const chance = drawn && probability != null ? ` The pair was drawn, with a chance of ${percent(probability)}.` : "";
  const vote = el("p", {}, "You said: ", el("strong", {}, said(battle.vote)), `.${chance}`);
  return el("section", { class: "reveal", "aria-label": "Who was who" }, title, vote, figures(sides));
}

function figures(sides) {
  const turns = sides.a.turns.length;
  const rows = Array.from({ length: turns }, (_, i) => ["a", "b"].map((side) => row(i, side, sides[side]))).flat();
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map((c) => el("th", { scope: "col" }, c))));
  return el("div", { class: "wide" }, el("table", { class: "figures" }, el("caption", { class: "unseen" }, "Figures of both sides"), head, el("tbody", {}, ...rows)));
}

function row(i, side, { model, turns }) {
  const { residency, waited_s, ttft_s, tokens_per_s: rate, usage } = turns[i] ?? {};
  const cells = [i + 1, letter(side), model, residency ?? "–", seconds(waited_s), seconds(ttft_s), speed(rate) || "–", usage?.completion_tokens ?? "–"];
  return el("tr", {}, ...cells.map((c) => el("td", {}, String(c))));
}

function percent(p) {
  return `${(p * 100).toFixed(p < 0.1 ? 1 : 0)} %`;
}
