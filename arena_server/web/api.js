/** The daemon's HTTP interface (docs/arena.md), as the page uses it. */

import { eventsOf } from "./sse.js";

/** The daemon said no. */
export class Refused extends Error {
  /**
   * @param {number} status HTTP's
   * @param {{message?: string, code?: string|null}} error OpenAI's object
   * @param {number|null} retryAfter_s when it may be tried again
   */
  constructor(status, error, retryAfter_s) {
    super(error.message || `The server answered with status ${status}.`);
    this.status = status;
    this.code = error.code ?? null;
    this.retryAfter_s = retryAfter_s;
  }
}

/** The daemon did not answer, or the connection broke off. */
export class Unreachable extends Error {}

/** @returns {Promise<any>} */
export async function get(path) {
  return (await ask(path, {})).json();
}

/** @returns {Promise<any>} */
export async function post(path, body) {
  return (await ask(path, order(body))).json();
}

/**
 * Ask for a stream of events.
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal ends the request
 * @returns {AsyncGenerator<{event: string, data: any}>}
 */
export async function* stream(path, body, signal) {
  const response = await ask(path, { ...order(body), signal });
  try {
    for await (const { event, data } of eventsOf(response.body)) yield { event, data: JSON.parse(data) };
  } catch (error) {
    throw broken(error, "The connection to the server broke off.");
  }
}

function order(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function ask(path, options) {
  let response;
  try {
    // Relative to the page, which a proxy may serve below a path.
    response = await fetch(new URL(path, document.baseURI), { cache: "no-store", ...options });
  } catch (error) {
    throw broken(error, "The server cannot be reached.");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const wait_s = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  throw new Refused(response.status, body?.error ?? {}, Number.isNaN(wait_s) ? null : wait_s);
}

function broken(error, message) {
  return error.name === "AbortError" ? error : new Unreachable(message, { cause: error });
}
