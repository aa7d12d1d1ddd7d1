// The session of the page in a frame: the parent page hands the token over by messages. docs/embedding.md has their format.
// A message counts only if the parent window sent it, from one of the origins in CARRYOUT_FRAME_ANCESTORS. The token stays
// in this document's memory: browsers may block the storage of a frame, and no other frame needs to read it.

import { clean, isSameAccount } from "./account.js";
import { gettext } from "./language.js";

const PATIENCE_MS = 10_000;
const WANTED = { type: "carryout:token-wanted" };

export class ParentSession {
  #origins;
  #page;
  #token = null;
  #asked = null;
  #answer = () => {};

  /** `page` is told of a first token or another account's (`begin`), of a sign-out (`leave`) and of silence (`complain`). */
  constructor(origins, page) {
    this.#origins = origins;
    this.#page = page;
    window.addEventListener("message", (event) => this.#receive(event));
  }

  get token() {
    return this.#token;
  }

  forget() {
    this.#token = null;
  }

  /** Begins without a token, and asks the parent page for one. */
  async join() {
    this.forget();
    this.#page.begin();
    if (await this.#ask()) return;
    this.#page.complain(gettext("The application didn't sign you in. Reload its page, and tell its support if that doesn't help."));
  }

  async current() {
    return this.#token;
  }

  /** Whether there is a newer token than `token`, which the service refused. */
  async replaced(token) {
    if (this.#token === token) await this.#ask();
    return Boolean(this.#token) && this.#token !== token;
  }

  /** Whether the parent page answers. One question at a time. */
  #ask() {
    this.#asked ??= new Promise((resolve) => {
      this.#answer = () => resolve(true);
      setTimeout(() => resolve(false), PATIENCE_MS);
      // Browsers deliver to the parent page only if it has that origin.
      for (const origin of this.#origins) window.parent?.postMessage(WANTED, origin);
    }).finally(() => { this.#asked = null; });
    return this.#asked;
  }

  #receive({ source, origin, data }) {
    if (source !== window.parent || !this.#origins.includes(origin)) return;
    this.#origins = [origin]; // a frame has one parent page for all its life
    if (data?.type === "carryout:token" && data.token) this.#take(clean(String(data.token)));
    else if (data?.type === "carryout:sign-out") this.#page.leave();
    else return;
    this.#answer();
  }

  #take(token) {
    const known = this.#token && isSameAccount(token, this.#token);
    this.#token = token;
    if (!known) this.#page.begin();
  }
}
