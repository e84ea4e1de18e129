/** Asking a person for the API key. */

import { Refused, tryKey } from "./api.js";
import { el } from "./dom.js";
import { key } from "./key.js";
import { announce, explained } from "./notice.js";

const KEPT = "It is kept in this tab until you close it or forget it, and sent to this server only. Whoever runs the server makes keys.";

/** A form at the top of the page, there while a key is wanted; and a button that forgets the one there is. */
export class KeyForm {
  #input = el("input", { type: "password", id: "key", name: "key", required: true, autocomplete: "current-password", spellcheck: "false", "aria-describedby": "key-note key-wrong" });
  #use = el("button", { type: "submit", class: "primary" }, "Use it");
  #wrong = el("p", { class: "wrong", id: "key-wrong", role: "alert" });
  #before = null; // what had the keyboard

  /** @param {() => void} onForget */
  constructor(onForget) {
    this.forget = el("button", { type: "button", class: "forget", click: onForget }, "Forget key");
    const row = el("div", { class: "row" }, this.#input, this.#use);
    const note = el("p", { class: "note", id: "key-note" }, KEPT);
    const parts = [el("h2", { id: "key-title" }, "This server asks for an API key"), el("label", { for: "key" }, "API key"), row, this.#wrong, note];
    this.element = el("form", { class: "key", "aria-labelledby": "key-title", novalidate: true, hidden: true, submit: (e) => this.#submit(e) }, ...parts);
    key.onWanted = (refusal) => this.#open(refusal);
    this.show();
  }

  /** Have the button there while there is something to forget. */
  show() {
    this.forget.hidden = key.text === null;
  }

  #open(refusal) {
    this.#before = document.activeElement;
    this.element.hidden = false;
    this.#say(refusal ? `The server no longer takes the key it was shown: ${refusal.message}` : "");
    this.#input.focus();
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#use.disabled) return;
    const text = this.#input.value.trim();
    if (!/^[!-~]+$/.test(text)) {
      this.#say(text ? "That is no API key: it has letters, digits and signs, and no spaces." : "Paste or type your API key.");
      return;
    }
    this.#use.disabled = true;
    try {
      await tryKey(text);
      this.#close(text);
    } catch (error) {
      this.#say(why(error));
    } finally {
      this.#use.disabled = false;
    }
  }

  #close(text) {
    this.#input.value = "";
    this.#say("");
    const held = this.element.contains(document.activeElement);
    this.element.hidden = true;
    if (held && this.#before?.isConnected) this.#before.focus({ preventScroll: true });
    announce("The server takes this key.");
    key.text = text;
  }

  #say(text) {
    this.#wrong.textContent = text;
    this.#wrong.hidden = !text;
    this.#input.setAttribute("aria-invalid", String(Boolean(text)));
    if (!text) return;
    this.#input.focus();
    this.#input.select();
  }
}

function why(error) {
  const lead = error instanceof Refused && error.status === 401 ? "The server does not know this key: " : "";
  return `${lead}${explained(error).text}`;
}
