/** A button that copies a text. */

import { el } from "./dom.js";
import { announce } from "./notice.js";

const SHOWN_MS = 1500;

/** @param {() => string} text what to copy, asked for when it is pressed @returns {HTMLElement} */
export function copyButton(text) {
  const button = el("button", { type: "button", class: "copy", "aria-label": "Copy code" }, "Copy");
  button.addEventListener("click", async () => {
    const done = await copied(text());
    button.textContent = done ? "Copied" : "Not allowed";
    announce(done ? "Code copied" : "The browser does not allow copying");
    setTimeout(() => (button.textContent = "Copy"), SHOWN_MS);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedTheOldWay(text); // over plain HTTP there is no clipboard object
  }
}

function copiedTheOldWay(text) {
  const focused = document.activeElement;
  const area = el("textarea", { class: "aside", "aria-hidden": "true", tabindex: "-1" });
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return done;
}
