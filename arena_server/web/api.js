/** The daemon's HTTP interface (docs/arena.md), as the page uses it. */

import { key } from "./key.js";
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
  yield* events(await ask(path, { ...order(body), signal }));
}

/**
 * Listen to a stream of events, for as long as it lasts. Nobody is asked for a key for this: it can be done without.
 * @param {string} path
 * @param {AbortSignal} signal ends the request
 * @returns {AsyncGenerator<{event: string, data: any}>}
 */
export async function* listen(path, signal) {
  const response = await send(path, { signal }, key.text);
  if (!response.ok) throw await refusal(response);
  yield* events(response);
}

/** See whether the server takes a key. Throws Refused or Unreachable. @param {string} text */
export async function tryKey(text) {
  const response = await send("v1/arena/settings", {}, text);
  if (!response.ok) throw await refusal(response);
}

async function* events(response) {
  try {
    for await (const { event, data } of eventsOf(response.body)) yield { event, data: JSON.parse(data) };
  } catch (error) {
    throw broken(error, "The connection to the server broke off.");
  }
}

function order(body) {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

/** The answer; where the server wants a key, or another one, that of the request with it. */
async function ask(path, options) {
  for (;;) {
    const shown = key.text;
    const response = await send(path, options, shown);
    if (response.ok) return response;
    const refused = await refusal(response);
    if (refused.status !== 401) throw refused;
    if (key.text === shown) await key.want(refused, options.signal);
  }
}

async function send(path, { headers, ...options }, text) {
  const withKey = text === null ? headers : { ...headers, authorization: `Bearer ${text}` };
  try {
    // Relative to the page, which a proxy may serve below a path. Another host is not to be sent the key.
    return await fetch(new URL(path, document.baseURI), { cache: "no-store", redirect: "error", ...options, headers: withKey });
  } catch (error) {
    throw broken(error, "The server cannot be reached.");
  }
}

async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const wait_s = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  return new Refused(response.status, body?.error ?? {}, Number.isNaN(wait_s) ? null : wait_s);
}

function broken(error, message) {
  return error.name === "AbortError" ? error : new Unreachable(message, { cause: error });
}
