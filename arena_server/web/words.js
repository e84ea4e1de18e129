/** Figures as short text. */

/** What something took: "0.42 s", "12 s", "3 min". @param {number|null} s seconds */
export function seconds(s) {
  if (s == null) return "–";
  if (s < 0.995) return `${Math.max(s, 0).toFixed(2)} s`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 99.5) return `${Math.round(s)} s`;
  return `${Math.round(s / 60)} min`;
}

/** How long something will still take. @param {number|null} s seconds */
export function left(s) {
  if (s == null) return "";
  return s < 1 ? "any moment now" : `about ${s < 99.5 ? `${Math.ceil(s)} s` : `${Math.round(s / 60)} min`} left`;
}

/** How long to wait until it is worth another try. @param {number} s whole seconds */
export function span(s) {
  if (s < 100) return `${s} s`;
  return s < 6000 ? `${Math.ceil(s / 60)} min` : `${Math.ceil(s / 3600)} h`;
}

/** How fast a model wrote. @param {number|null} rate tokens a second */
export function speed(rate) {
  return rate == null ? "" : `${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString("en")} tokens/s`;
}

/** "1 vote", "2 votes". */
export function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

/** Those of the parts that say something, joined. */
export function joined(...parts) {
  return parts.filter(Boolean).join(", ");
}

/** A side's letter as people see it. */
export function letter(side) {
  return side.toUpperCase();
}

/** With a capital letter at its beginning. */
export function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
