/** Joins the parts of the page. */

import { get } from "./api.js";
import { Battle } from "./battle.js";
import { Compare } from "./compare.js";
import { byId } from "./dom.js";
import { key } from "./key.js";
import { KeyForm } from "./keyform.js";
import { Leaderboard } from "./leaderboard.js";
import { Residency } from "./residency.js";
import { Settings } from "./settings.js";
import { Views } from "./views.js";

const settings = new Settings();
const residency = new Residency();
const leaderboard = new Leaderboard();
const battle = new Battle(settings, (secret) => (residency.secret = secret), () => leaderboard.refresh());
const compare = new Compare(settings);
const form = new KeyForm(forget);
const views = new Views({ battle, compare, leaderboard }, (name) => name === "leaderboard" && leaderboard.refresh());

byId("main").prepend(form.element);
document.querySelector("header").append(form.forget);
key.onChange = () => {
  form.show();
  residency.keyChanged();
};
byId("residency").append(residency.element);
battle.restore();
get("v1/models").then(
  ({ data }) => {
    // Aliases have a parent: the same model twice in a list would be two choices of one.
    const ids = new Set(data.map((m) => m.id));
    compare.names = data.filter((m) => m.parent == null || !ids.has(m.parent)).map((m) => m.id);
  },
  () => {}, // the strip says that the server does not answer
);
get("v1/arena/settings").then((arena) => {
  battle.pair.names = arena.models;
  byId("texts").textContent = arena.store_texts
    ? "Prompts and answers of blind battles are kept on this server."
    : "Of blind battles, this server keeps votes and figures, and no texts.";
  if (!arena.battles) views.without("battle");
}, () => {});

/** Nothing that this key let be seen stays behind. */
function forget() {
  key.text = null;
  battle.forget();
  location.reload();
}
