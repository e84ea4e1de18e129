/** Server-sent events out of a fetch: `EventSource` can only GET. (https://html.spec.whatwg.org/multipage/server-sent-events.html) */

/**
 * The events of a response's body; what stands unfinished at its end is dropped, as the standard says.
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<{event: string, data: string}>}
 */
export async function* eventsOf(body) {
  let event = "", data = [], rest = "";
  for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
    // A \r at the end may be the first half of a \r\n: it waits for what follows.
    const lines = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line) {
        const [, field, value] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "event") event = value;
        else if (field === "data") data.push(value);
      } else {
        if (data.length) yield { event: event || "message", data: data.join("\n") };
        event = "";
        data = [];
      }
    }
  }
}

/** Not every browser can iterate over a stream; leaving early must end the request. */
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
