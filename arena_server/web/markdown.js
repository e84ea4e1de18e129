/**
 * Markdown as elements.
 *
 * A model's output is never HTML here, at no stage: marked's lexer splits it into tokens, and each token becomes one of the
 * elements below, filled by `createTextNode` and `textContent`. What is no known token, HTML among it, is shown as the text
 * it is. So there is no sanitiser that could be fooled, and the page's Trusted Types policy forbids every other way.
 */

import { copyButton } from "./copy.js";
import { el } from "./dom.js";
import { decoded } from "./entities.js";
import { Lexer } from "./vendor/marked.esm.js";

const OPTIONS = { gfm: true, breaks: true };
// Deeper ones are text: thousands of `>` would overflow the stack, and nobody reads them.
const MOST_LEVELS = 24;
const LINKS = new Set(["http:", "https:", "mailto:"]);

/** The tokens of a text. May throw RangeError on absurd nesting. */
export function lexed(text) {
  return new Lexer(OPTIONS).lex(text);
}

/** A block-level token as an element. @returns {HTMLElement} */
export function block(token, level = 0) {
  const make = level < MOST_LEVELS && Object.hasOwn(BLOCKS, token.type) ? BLOCKS[token.type] : raw;
  return make(token, level + 1);
}

const BLOCKS = {
  paragraph: (token, level) => el("p", {}, ...inlines(token.tokens, level)),
  // Items of tight lists.
  text: (token, level) => el("span", {}, ...(token.tokens ? inlines(token.tokens, level) : [decoded(token.text)])),
  // The page's own headings end at the third level.
  heading: (token, level) => el(`h${Math.min(token.depth + 3, 6)}`, {}, ...inlines(token.tokens, level)),
  blockquote: (token, level) => el("blockquote", {}, ...blocks(token.tokens, level)),
  code: (token) => code(token),
  hr: () => el("hr"),
  list: (token, level) => list(token, level),
  table: (token, level) => table(token, level),
};

function blocks(tokens, level) {
  return tokens.filter((t) => t.type !== "space" && t.type !== "def").map((t) => block(t, level));
}

function raw(token) {
  return el("p", { class: "raw" }, token.raw);
}

function code(token) {
  const text = el("code", {}, token.text);
  const language = /^[\w+#.-]{1,20}/.exec(token.lang ?? "")?.[0] ?? "";
  const head = el("div", { class: "code-head" }, el("span", {}, language), copyButton(() => text.textContent));
  return el("div", { class: "code" }, head, el("pre", {}, text));
}

function list(token, level) {
  const start = token.ordered && token.start !== 1 ? { start: token.start } : {};
  return el(token.ordered ? "ol" : "ul", start, ...token.items.map((item) => listItem(item, level)));
}

function listItem(item, level) {
  const parts = item.tokens.filter((t) => t.type !== "space" && t.type !== "def");
  return el("li", item.task ? { class: "task" } : {}, ...parts.map((t) => (t.type === "checkbox" ? tick(t) : block(t, level))));
}

function tick(token) {
  return token.checked ? "☑ " : "☐ ";
}

function table(token, level) {
  const cell = (tag) => (c) => el(tag, c.align ? { class: `to-${c.align}` } : {}, ...inlines(c.tokens, level));
  const head = el("thead", {}, el("tr", {}, ...token.header.map(cell("th"))));
  const body = el("tbody", {}, ...token.rows.map((row) => el("tr", {}, ...row.map(cell("td")))));
  return el("div", { class: "wide" }, el("table", {}, head, body));
}

function inlines(tokens, level) {
  return tokens.map((token) => {
    const make = level < MOST_LEVELS && Object.hasOwn(INLINES, token.type) ? INLINES[token.type] : (t) => t.raw;
    return make(token, level + 1);
  });
}

const INLINES = {
  text: (token, level) => (token.tokens ? el("span", {}, ...inlines(token.tokens, level)) : decoded(token.text)),
  escape: (token) => token.text,
  strong: (token, level) => el("strong", {}, ...inlines(token.tokens, level)),
  em: (token, level) => el("em", {}, ...inlines(token.tokens, level)),
  del: (token, level) => el("del", {}, ...inlines(token.tokens, level)),
  codespan: (token) => el("code", {}, token.text),
  br: () => el("br"),
  checkbox: (token) => tick(token),
  // Line breaks are the only HTML that models write all the time: table cells have no other.
  html: (token) => (/^<br *\/?>$/i.test(token.raw) ? el("br") : token.raw),
  link: (token, level) => link(token.href, inlines(token.tokens, level)),
  // Loading it would tell its host who reads here, and when.
  image: (token) => link(token.href, [`[image: ${decoded(token.text) || "without a name"}]`]),
};

function link(href, children) {
  const url = address(href);
  if (url === null) return el("span", { class: "no-link" }, ...children);
  return el("a", { href: url, title: url, target: "_blank", rel: "noopener noreferrer nofollow" }, ...children);
}

/** Where a link may lead, or null. Relative ones would lead into the daemon's own routes. */
function address(href) {
  try {
    const url = new URL(decoded(href));
    return LINKS.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}
