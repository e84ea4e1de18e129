/** The API key that this tab shows the server, where it asks for one. */

import { Kept } from "./kept.js";

/** A tab's own: it is gone when the tab is closed, and no other page of this browser is given it. */
class Key {
  #kept = new Kept("sessionStorage", "arena.key");
  #wanted = null;

  /** Asks a person for it: is called with the server's refusal, or null where no key was shown. */
  onWanted = () => {};
  /** Is called when there is another one, or none any more. */
  onChange = () => {};

  /** The key, or null. */
  get text() {
    return this.#kept.text;
  }

  set text(text) {
    this.#kept.text = text;
    this.onChange();
    if (text === null) return;
    this.#wanted?.resolve();
    this.#wanted = null;
  }

  /** Whether a person is being asked for it. */
  get wanted() {
    return this.#wanted !== null;
  }

  /**
   * Have a person asked for it, once for all who want it, and wait until it is there.
   * @param {Refused} refusal
   * @param {AbortSignal} [signal] ends the wait
   */
  async want(refusal, signal) {
    if (!this.#wanted) {
      this.#wanted = deferred();
      this.onWanted(this.text === null ? null : refusal);
    }
    await Promise.race([this.#wanted.promise, aborted(signal)]);
  }
}

export const key = new Key();

function deferred() {
  let resolve;
  const promise = new Promise((r) => (resolve = r));
  return { promise, resolve };
}

function aborted(signal) {
  return new Promise((_, reject) => {
    const leave = () => reject(signal.reason);
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave, { once: true });
  });
}
