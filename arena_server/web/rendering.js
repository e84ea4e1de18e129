/** A text that grows, shown as markdown while it grows. */

import { el } from "./dom.js";
import { block, lexed } from "./markdown.js";

// As often as an eye needs it, and never more than a fifth of the time: a long answer must not stop the page.
const LEAST_PAUSE_MS = 60;
const PAUSE_PER_COST = 4;
// Some texts take marked for ever (`_a*` a few thousand times): they are shown as they are from there on. One long take is
// no sign of it, as anything may have held up the page.
const LONG_TAKE_MS = 150;
const MOST_LONG_TAKES = 3;
const SLICE = 1000; // characters taken up between two looks at the cost
// A block may still change its kind or take up the next one (a setext heading, a list after an empty line).
const OPEN_TOKENS = 2;

/** Shows a text in an element; only the last blocks are made anew as it grows. */
export class Rendering {
  #root;
  #around;
  #text = "";
  #held = ""; // a \r whose \n may come yet
  #taken = 0; // characters that are shown
  #settled = 0; // characters whose blocks stay
  #kept = 0; // how many blocks stay
  #blocks = []; // of all that is shown: {type, raw, lang, text, node}
  #plain = null; // holds what stands behind `settled`, if markdown takes too long for it
  #longTakes = 0;
  #hasDefinitions = false;
  #timer = 0;

  /**
   * @param {HTMLElement} root
   * @param {(change: () => void) => void} around runs each change, so that it can keep the page's place
   */
  constructor(root, around) {
    this.#root = root;
    this.#around = around;
  }

  /** The whole text so far. */
  get text() {
    return this.#text;
  }

  /** More text has come; it is shown soon. */
  append(text) {
    const more = this.#held + text;
    this.#held = more.endsWith("\r") ? "\r" : "";
    this.#text += more.slice(0, more.length - this.#held.length).replace(/\r\n?/g, "\n");
    this.#timer ||= setTimeout(() => this.#showMore(), LEAST_PAUSE_MS);
  }

  /** No more comes: show all now. */
  finish() {
    clearTimeout(this.#timer);
    this.#around(() => {
      this.#takeAll();
      if (this.#hasDefinitions && !this.#plain) this.#again();
    });
  }

  #showMore() {
    const began = performance.now();
    this.#around(() => this.#takeAll());
    const pause = Math.max(LEAST_PAUSE_MS, PAUSE_PER_COST * (performance.now() - began));
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      if (this.#taken < this.#text.length) this.#showMore();
    }, pause);
  }

  #takeAll() {
    while (this.#taken < this.#text.length) {
      this.#taken = Math.min(this.#taken + SLICE, this.#text.length);
      const began = performance.now();
      this.#take();
      this.#longTakes = performance.now() - began > LONG_TAKE_MS ? this.#longTakes + 1 : 0;
      if (this.#longTakes === MOST_LONG_TAKES) this.#giveUp();
    }
  }

  #take() {
    const tail = this.#text.slice(this.#settled, this.#taken);
    if (this.#plain) {
      this.#plain.textContent = tail;
      return;
    }
    try {
      const tokens = lexed(tail);
      this.#show(tokens);
      this.#settle(tokens, tail);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#giveUp(); // nested too deeply for the lexer's stack
    }
  }

  /** Put the tokens' blocks behind those that stay. */
  #show(tokens) {
    const shown = tokens.filter(isShown);
    this.#hasDefinitions ||= tokens.some((t) => t.type === "def");
    shown.forEach((token, i) => this.#put(this.#kept + i, token));
    for (const surplus of this.#blocks.splice(this.#kept + shown.length)) surplus.node.remove();
  }

  #put(place, token) {
    const { type, raw, lang, text } = token;
    const old = this.#blocks[place];
    if (old?.raw === raw && old.type === type) return;
    if (old?.type === "code" && type === "code" && old.lang === lang && text.startsWith(old.text)) {
      // In place: what is selected in a long listing stays selected, and its button stays the same one.
      old.node.querySelector("pre > code").append(text.slice(old.text.length));
      Object.assign(old, { raw, text });
      return;
    }
    const node = block(token);
    if (old) old.node.replaceWith(node);
    else this.#root.append(node);
    this.#blocks[place] = { type, raw, lang, text, node };
  }

  /** Let all but the last blocks stay. */
  #settle(tokens, tail) {
    const stay = tokens.slice(0, -OPEN_TOKENS);
    if (!stay.length || tokens.map((t) => t.raw).join("") !== tail) return;
    this.#settled += stay.reduce((n, t) => n + t.raw.length, 0);
    this.#kept += stay.filter(isShown).length;
  }

  /** Definitions of links are for all of the text, also for what stands before them. */
  #again() {
    this.#kept = this.#settled = 0;
    for (const entry of this.#blocks) entry.raw = "";
    this.#take();
  }

  #giveUp() {
    for (const open of this.#blocks.splice(this.#kept)) open.node.remove();
    this.#plain = el("p", { class: "raw" }, this.#text.slice(this.#settled, this.#taken));
    this.#root.append(this.#plain);
  }
}

function isShown(token) {
  return token.type !== "space" && token.type !== "def";
}
