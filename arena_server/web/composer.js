/** Where a prompt is written, sent and stopped. */

import { el } from "./dom.js";

/** A text box with a button that sends, and stops while an answer comes. */
export class Composer {
  #box;
  #send = el("button", { type: "submit", class: "primary" }, "Send");
  #stop;
  #onSend;

  /**
   * @param {string} label of the text box
   * @param {(prompt: string) => void} onSend
   * @param {() => void} onStop
   */
  constructor(label, onSend, onStop) {
    this.#onSend = onSend;
    this.#box = el("textarea", { rows: 1, "aria-label": label, placeholder: label, enterkeyhint: "send", keydown: (e) => this.#key(e), input: () => this.#fit() });
    this.#stop = el("button", { type: "button", class: "stop", hidden: true, click: onStop }, "Stop");
    this.element = el("form", { class: "composer", submit: (e) => this.#submit(e) }, this.#box, this.#send, this.#stop);
  }

  /** An answer comes: it can be stopped, and nothing sent. */
  begin() {
    const held = this.element.contains(document.activeElement);
    this.#send.hidden = true;
    this.#stop.hidden = false;
    if (held) this.#stop.focus({ preventScroll: true });
  }

  /** No more comes. Returns whether the keyboard was at the button that goes with this: it must be brought somewhere. */
  end() {
    const held = document.activeElement === this.#stop;
    this.#send.hidden = false;
    this.#stop.hidden = true;
    return held;
  }

  /** What may be written here now. @param {string} text */
  set hint(text) {
    this.#box.placeholder = text;
  }

  /** Put a prompt there. */
  fill(text) {
    this.#box.value = text;
    this.#fit();
  }

  /** Go on typing. */
  focus() {
    this.#box.focus({ preventScroll: true });
  }

  #key(event) {
    // While an input method composes a word, Enter chooses it.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit(event);
  }

  #submit(event) {
    event.preventDefault();
    const prompt = this.#box.value.trim();
    if (!prompt || this.#send.hidden) return;
    this.fill("");
    this.#onSend(prompt);
  }

  #fit() {
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight + 2}px`;
  }
}
