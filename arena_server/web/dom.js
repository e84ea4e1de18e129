/** Elements, made without any HTML: the page's Trusted Types policy lets no string become markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An element with attributes, listeners and children.
 * @param {string} tag
 * @param {Record<string, unknown>} [props] attributes by name; functions are listeners (`click: f`), `false` and null leave one out
 * @param {...(Node|string|null)} children
 * @returns {HTMLElement}
 */
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in SVG. @returns {SVGElement} */
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** The element of that id, which the page has. @returns {HTMLElement} */
export function byId(id) {
  return document.getElementById(id);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((c) => c != null));
  return node;
}
