/** The leaderboard: a picture, a table, and who won against whom. */

import { get } from "./api.js";
import { Chart } from "./chart.js";
import { el } from "./dom.js";
import { key } from "./key.js";
import { Trouble, explained } from "./notice.js";
import { count } from "./words.js";

const LOOK_MS = 15_000;
const COLUMNS = ["Rank", "Model", "Rating", "95% interval", "Votes", "Won", "Lost", "Tied", "Both bad", "Votes needed"];

/** The view of it. */
export class Leaderboard {
  #chart = new Chart();

  constructor() {
    this.trouble = new Trouble();
    this.about = el("p", { class: "note" });
    this.content = el("div", {});
    this.element = el("div", { class: "view" }, el("h2", {}, "Leaderboard"), this.trouble.element, this.about, this.content);
    setInterval(() => this.element.checkVisibility() && !document.hidden && !key.wanted && this.refresh(), LOOK_MS);
  }

  /** Read it again. */
  async refresh() {
    try {
      const board = await get("v1/arena/leaderboard");
      this.trouble.clear();
      this.#show(board);
    } catch (error) {
      const { text, after_s } = explained(error);
      this.trouble.show(text, { label: "Try again", after_s, act: () => this.refresh() });
    }
  }

  #show(board) {
    const at = new Date(board.updated_at);
    this.about.textContent = board.votes ? `${count(board.votes, "vote")}, as of ${at.toLocaleString("en-GB")}. ${board.scale}.` : "";
    if (!board.votes) {
      this.content.replaceChildren(el("p", { class: "empty" }, "No votes yet. ", el("a", { href: "#battle" }, "Begin with a blind battle.")));
      return;
    }
    this.#chart.draw(board.models);
    this.content.replaceChildren(this.#chart.element, wide(table(board.models)), matrix(board));
  }
}

function table(models) {
  const head = el("thead", {}, el("tr", {}, ...COLUMNS.map((c) => el("th", { scope: "col" }, c))));
  const body = el("tbody", {}, ...models.map(row));
  return el("table", { class: "ranking" }, el("caption", { class: "unseen" }, "The models, best first"), head, body);
}

function row(m) {
  const interval = m.lower == null ? "–" : `${rounded(m.lower)} to ${rounded(m.upper)}`;
  const rest = [rounded(m.rating), interval, m.votes, m.wins, m.losses, m.ties, m.both_bad, m.votes_needed ?? "–"];
  return el("tr", {}, el("td", {}, String(m.rank ?? "–")), el("th", { scope: "row" }, m.model), ...rest.map((c) => el("td", {}, String(c))));
}

/** Of each pair's votes, what part the model of the row won; ties count for half. */
function matrix({ models, pairs }) {
  const names = models.map((m) => m.model);
  const cells = new Map();
  for (const { a, b, a_wins, b_wins, ties, both_bad } of pairs) {
    const n = a_wins + b_wins + ties + both_bad;
    if (!n) continue;
    const even = (ties + both_bad) / 2;
    cells.set(`${a}\n${b}`, { part: (a_wins + even) / n, n });
    cells.set(`${b}\n${a}`, { part: (b_wins + even) / n, n });
  }
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "against"), ...names.map((n) => el("th", { scope: "col" }, n))));
  const rows = names.map((one) => el("tr", {}, el("th", { scope: "row" }, one), ...names.map((other) => matrixCell(cells.get(`${one}\n${other}`)))));
  const grid = el("table", { class: "matrix" }, el("caption", { class: "unseen" }, "What part of its votes each model won"), head, el("tbody", {}, ...rows));
  return el("details", {}, el("summary", {}, "Who won against whom"), el("p", { class: "note" }, "What part of the votes the model of the row won against that of the column; ties count for half."), wide(grid));
}

function matrixCell(cell) {
  if (!cell) return el("td", { class: "none" }, "–");
  return el("td", {}, `${Math.round(cell.part * 100)} %`, el("small", {}, ` of ${cell.n}`));
}

function wide(content) {
  return el("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Table, may be scrolled sideways" }, content);
}

function rounded(rating) {
  return rating == null ? "–" : String(Math.round(rating));
}
