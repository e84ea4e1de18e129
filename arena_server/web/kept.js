/** What the browser keeps for the page. */

/** One text under one key; where the browser keeps nothing (it may refuse to), it is there until the page is left. */
export class Kept {
  #where;
  #key;
  #text = null;

  /** @param {"localStorage"|"sessionStorage"} where @param {string} key */
  constructor(where, key) {
    this.#where = where;
    this.#key = key;
    this.#try((storage) => (this.#text = storage.getItem(key)));
  }

  /** The text, or null. */
  get text() {
    return this.#text;
  }

  set text(text) {
    this.#text = text;
    this.#try((storage) => (text === null ? storage.removeItem(this.#key) : storage.setItem(this.#key, text)));
  }

  #try(act) {
    try {
      act(window[this.#where]); // reading this alone throws where a person has blocked it
    } catch {
      // Then it is not kept.
    }
  }
}
