// The page's client of the API. URLs are relative to the page, so that a proxy's prefix is kept.

import { gettext, LANGUAGE } from "./language.js";

const BASE = new URL(".", location);
const RECONNECT_MS = 2000;
const LONGEST_WAIT_MS = 30000;
const LONGEST_PATIENCE_SECONDS = 3600; // the rate is by the hour
// Statuses that the service answers while it is busy or stopping, and that proxies answer in its place.
export const UNAVAILABLE = [502, 503, 504];

export class ApiError extends Error {
  constructor(status, problem, retryAfter) {
    super(problem.detail ?? gettext("The service didn't say why"));
    this.status = status;
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

export class Client {
  #session;
  #signal;

  /** Requests in progress when `signal` aborts end in an AbortError, so that no answer reaches the next user. */
  constructor(session, signal) {
    this.#session = session;
    this.#signal = signal;
  }

  /** The JSON response, or null for an empty one. Throws ApiError, and TypeError if the service can't be reached. */
  async call(method, path, body) {
    const response = await this.#fetch(method, path, {
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
    return response.status === 204 ? null : response.json();
  }

  /** Like `call`, but where the service says to ask again within the hour, calls `waiting` with the seconds, and does. */
  async callPatiently(method, path, body, waiting) {
    for (;;) {
      try {
        return await this.call(method, path, body);
      } catch (error) {
        if (error.status !== 429 || !(error.retryAfter <= LONGEST_PATIENCE_SECONDS)) throw error;
        waiting(error.retryAfter);
        await pause(error.retryAfter * 1000, this.#signal);
        this.#signal.throwIfAborted();
      }
    }
  }

  /** Calls `show` with the export at each change, until it has ended or the signal aborts. Throws errors that a retry can't mend. */
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

  /** Reads one event stream; true if the export has ended. Not an EventSource, which can't send a token. */
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
    let token = await this.#session.current();
    let response = await this.#send(token, method, path, options);
    if (response.status === 401 && (await this.#session.replaced(token))) {
      token = this.#session.token;
      response = await this.#send(token, method, path, options);
    }
    if (!response.ok) {
      const problem = await response.json().catch(() => ({}));
      throw new ApiError(response.status, problem, Number(response.headers.get("Retry-After")));
    }
    return response;
  }

  #send(token, method, path, options) {
    const signal = this.#signal;
    signal.throwIfAborted(); // the token may be another user's by now
    const headers = { ...options.headers, Authorization: `Bearer ${token}`, "Accept-Language": LANGUAGE };
    return fetch(new URL(path, BASE), { ...options, method, headers, signal, cache: "no-store" });
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
