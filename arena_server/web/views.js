/** The views of the page, each under its own fragment of the address. */

import { byId, el } from "./dom.js";

/** Shows one at a time; the others go on with what they do. */
export class Views {
  #views;
  #onShow;

  /**
   * @param {Record<string, {element: HTMLElement}>} views by fragment, the default first
   * @param {(name: string) => void} onShow
   */
  constructor(views, onShow) {
    this.#views = views;
    this.#onShow = onShow;
    byId("main").append(...Object.values(views).map((v) => v.element));
    addEventListener("hashchange", () => this.#show());
    this.#show();
  }

  /** There is no such view here. */
  without(name) {
    this.#views[name].element.remove();
    delete this.#views[name];
    link(name).replaceWith(el("span", { class: "off", title: "This server has fewer than two models for it, or it is switched off" }, link(name).textContent));
    this.#show();
  }

  #show() {
    const asked = location.hash.slice(1);
    const name = Object.hasOwn(this.#views, asked) ? asked : Object.keys(this.#views)[0];
    for (const [other, view] of Object.entries(this.#views)) {
      view.element.hidden = other !== name;
      if (other === name) link(other).setAttribute("aria-current", "page");
      else link(other).removeAttribute("aria-current");
    }
    document.title = `${link(name).textContent} – Arena`;
    this.#onShow(name);
  }
}

function link(name) {
  return document.querySelector(`nav a[href="#${name}"]`);
}
