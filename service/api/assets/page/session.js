// The tokens of this tab. They are stored only in its session storage, which browsers keep for a tab that is reopened.

import { isSameAccount } from "./account.js";
import { SessionEndedError } from "./oidc.js";

const TOKEN = "carryout.token";
const GRANT = "carryout.grant"; // what a provider gave along with the token
const EARLY_MS = 60_000;

export class Session {
  #provider;
  #renewing = null;

  /** `provider` renews tokens; null if they came from elsewhere. */
  constructor(provider) {
    this.#provider = provider;
  }

  get token() {
    return sessionStorage.getItem(TOKEN);
  }

  get grant() {
    return JSON.parse(sessionStorage.getItem(GRANT) ?? "null");
  }

  keep(token) {
    this.forget();
    sessionStorage.setItem(TOKEN, token);
  }

  keepGrant({ token, refreshToken, idToken, endsAt }) {
    sessionStorage.setItem(TOKEN, token);
    sessionStorage.setItem(GRANT, JSON.stringify({ refreshToken, idToken, endsAt }));
  }

  forget() {
    sessionStorage.removeItem(TOKEN);
    sessionStorage.removeItem(GRANT);
  }

  /** The token, renewed if it ends soon. A renewal that fails leaves it as it is: the service has the last word. */
  async current() {
    const { grant } = this;
    if (grant?.refreshToken && Date.now() > grant.endsAt - EARLY_MS) await this.renew().catch(() => {});
    return this.token;
  }

  /** Whether there is a newer token than `token`, which the service refused. */
  async replaced(token) {
    if (this.token !== token) return Boolean(this.token);
    if (!this.grant?.refreshToken) return false;
    try {
      await this.renew();
    } catch (error) {
      if (error instanceof SessionEndedError) return false;
      throw error;
    }
    return this.token !== token;
  }

  /** One at a time: a provider may take a refresh token that is used twice for a stolen one. */
  renew() {
    this.#renewing ??= this.#renew().finally(() => { this.#renewing = null; });
    return this.#renewing;
  }

  async #renew() {
    const { token, grant } = this;
    const renewed = await this.#provider.renew(grant);
    if (this.token !== token) return; // the user has signed out meanwhile
    if (!isSameAccount(renewed.token, token)) throw new SessionEndedError();
    this.keepGrant(renewed);
  }
}
