/** Choosing models. */

import { el } from "./dom.js";

/** So many choices of different models. */
export class Choice {
  #selects = [];
  #names = [];
  #onChange;

  /** @param {string[]} labels one for each choice @param {() => void} onChange */
  constructor(labels, onChange = () => {}) {
    this.#onChange = onChange;
    this.element = el("div", { class: "choice" });
    labels.forEach((label) => this.add(label));
  }

  /** The names chosen. @returns {string[]} */
  get chosen() {
    return this.#selects.map((s) => s.value).filter(Boolean);
  }

  /** What can be chosen. @param {string[]} names */
  set names(names) {
    this.#names = names;
    for (const select of this.#selects) this.#offer(select);
    this.#keepApart(null);
  }

  /** Whether nothing can be changed now. */
  set fixed(fixed) {
    for (const select of this.#selects) select.disabled = fixed;
  }

  /** One choice more. */
  add(label) {
    const select = el("select", { "aria-label": label, change: () => this.#keepApart(select) });
    this.#selects.push(select);
    this.#offer(select);
    this.#keepApart(null);
    this.element.append(select);
  }

  /** One choice less. */
  remove() {
    this.#selects.pop().remove();
    this.#keepApart(null);
  }

  #offer(select) {
    const was = select.value;
    select.replaceChildren(...this.#names.map((name) => el("option", { value: name }, name)));
    if (this.#names.includes(was)) select.value = was;
  }

  /** Nobody is compared with itself: whoever else has the model that was chosen takes another one. */
  #keepApart(chosen) {
    const taken = new Set(chosen ? [chosen.value] : []);
    for (const select of this.#selects) {
      if (select === chosen) continue;
      if (taken.has(select.value) || !select.value) select.value = this.#names.find((n) => !taken.has(n)) ?? "";
      taken.add(select.value);
    }
    this.#onChange();
  }
}
