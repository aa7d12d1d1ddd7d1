// The API as the page uses it. Addresses are relative to the page, so that any prefix in front of it stays.

const BASE = new URL(".", location);
const RECONNECT_MS = 2000;
const LONGEST_WAIT_MS = 30000;
// What the service says of itself while it is busy or stops, and proxies say of it.
export const UNAVAILABLE = [502, 503, 504];

export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? "The service gave no reason");
    this.status = status;
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

export class Client {
  #token;
  #signal;

  /** What is under way when `signal` aborts ends in an AbortError: nothing comes late, to whoever signs in next. */
  constructor(token, signal) {
    this.#token = token.replace(/[^\x21-\x7e]/g, ""); // line breaks of a mail, quotes: no header could carry them
    this.#signal = signal;
  }

  /** The JSON answer, or null for an empty one. Throws ApiError, and TypeError if nothing answers. */
  async call(method, path, body) {
    const response = await this.#fetch(method, path, {
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
    return response.status === 204 ? null : response.json();
  }

  /** Calls `show` with the export whenever it changes, until it has ended or the signal aborts. Throws what no waiting mends. */
  async watch(jobId, show) {
    let wait = RECONNECT_MS;
    while (!this.#signal.aborted) {
      try {
        if (await this.#follow(jobId, show)) return;
        wait = RECONNECT_MS;
      } catch (error) {
        if (this.#signal.aborted) return;
        if (error instanceof ApiError && ![429, ...UNAVAILABLE].includes(error.status)) throw error;
        wait = Math.min(error.retryAfter ? error.retryAfter * 1000 : wait * 2, LONGEST_WAIT_MS);
      }
      await pause(wait, this.#signal);
    }
  }

  /** One stream of events. True if it said that the export has ended. EventSource can't send a token. */
  async #follow(jobId, show) {
    const response = await this.#fetch("GET", `api/export/${jobId}/events`, {});
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return false;
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events.map(parse)) {
        if (event.event === "progress") show(JSON.parse(event.data));
        if (event.event === "end") return true;
      }
    }
  }

  async #fetch(method, path, options) {
    const headers = { ...options.headers, Authorization: `Bearer ${this.#token}` };
    const signal = this.#signal;
    const response = await fetch(new URL(path, BASE), { ...options, method, headers, signal, cache: "no-store" });
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw new ApiError(response.status, problem, Number(response.headers.get("Retry-After")));
    }
    return response;
  }
}

function parse(event) {
  return Object.fromEntries(event.split("\n").map((line) => [line.split(":", 1)[0], line.slice(line.indexOf(":") + 2)]));
}

function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
  });
}
