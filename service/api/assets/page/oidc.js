// Sign-in at an OpenID Connect provider: the authorization code flow with PKCE, as a public client (RFC 9700, RFC 7636).
// It begins and ends with a navigation. Between them, what belongs to it waits in this tab's session storage.
// The ID token comes from the token endpoint over TLS, so its signature needn't be checked (OpenID Connect Core, 3.1.3.7).

import { claimsOf } from "./account.js";
import { gettext } from "./language.js";

const PENDING = "carryout.sign-in";
const BASE = new URL(".", location).href;
const PATIENCE_MS = 20_000;
const CLOCKS_MS = 300_000;
const BUSY = ["server_error", "temporarily_unavailable"];

/** A sign-in that failed. Its message is a sentence for the user. */
export class SignInError extends Error {}

/** A renewal that the provider refused: the session has ended. */
export class SessionEndedError extends Error {}

export class Provider {
  #issuer;
  #clientId;
  #scopes;
  #parameters;
  #origins;
  #metadata = null;

  constructor({ issuer, clientId, scopes, parameters, origins }) {
    this.#issuer = issuer;
    this.#clientId = clientId;
    this.#scopes = scopes;
    this.#parameters = parameters;
    this.#origins = origins;
  }

  /** Leaves the page for the provider's. `choice` comes back with the user. */
  async signIn(choice) {
    const { authorization_endpoint: endpoint } = await this.#discover();
    const pending = { state: randomText(), nonce: randomText(), verifier: randomText(), choice };
    sessionStorage.setItem(PENDING, JSON.stringify(pending));
    this.#leave(endpoint, {
      ...this.#parameters,
      response_type: "code",
      client_id: this.#clientId,
      redirect_uri: BASE,
      scope: this.#scopes,
      state: pending.state,
      nonce: pending.nonce,
      code_challenge: await challenge(pending.verifier),
      code_challenge_method: "S256",
    });
  }

  /** The tokens for the answer in `query`, and the choice. Throws SignInError. */
  async finish(query) {
    const pending = JSON.parse(sessionStorage.getItem(PENDING) ?? "null");
    sessionStorage.removeItem(PENDING);
    try {
      return { ...(await this.#redeem(query, pending)), choice: pending.choice };
    } catch (error) {
      error.choice = pending?.choice;
      throw error;
    }
  }

  /** Tokens in exchange for a refresh token. Throws SessionEndedError if the provider refuses. */
  async renew(grant) {
    const body = { grant_type: "refresh_token", refresh_token: grant.refreshToken };
    const { ok, answer } = await this.#ask(body);
    if (!ok && !BUSY.includes(answer.error)) throw new SessionEndedError();
    if (!ok) throw new SignInError(gettext("The sign-in service is busy. Please try again in a moment."));
    return { ...grant, ...grantOf(answer) };
  }

  /** Leaves the page to end the session at the provider; false if the provider has no address for that. */
  async signOut(grant) {
    this.#metadata = null; // ask again: in an outage, the navigation would end at an error of the browser
    const { end_session_endpoint: endpoint } = await this.#discover();
    if (!endpoint) return false;
    const hint = grant?.idToken ? { id_token_hint: grant.idToken } : {};
    this.#leave(endpoint, { ...hint, client_id: this.#clientId, post_logout_redirect_uri: BASE });
    return true;
  }

  async #redeem(query, pending) {
    // The state comes first: a link to this page may have any error, or another person's code.
    if (!pending) throw new SignInError(gettext("This sign-in was begun in another tab, or is over. Please sign in again."));
    if (query.get("state") !== pending.state) {
      throw new SignInError(gettext("This sign-in doesn't belong to this tab, so it wasn't used. Please sign in again."));
    }
    const { authorization_response_iss_parameter_supported: named } = await this.#discover();
    if ((named || query.has("iss")) && query.get("iss") !== this.#issuer) {
      throw new SignInError(gettext("Another service has answered than the one that was asked. Please sign in again."));
    }
    if (query.has("error")) throw new SignInError(refusal(query.get("error")));
    const body = { grant_type: "authorization_code", code: query.get("code"), code_verifier: pending.verifier };
    const { ok, answer } = await this.#ask({ ...body, redirect_uri: BASE });
    if (!ok) throw new SignInError(gettext("The sign-in took too long, or was used already. Please sign in again."));
    if (answer.id_token && !this.#isOurs(claimsOf(answer.id_token), pending)) {
      throw new SignInError(gettext("The sign-in service sent tokens that aren't for this sign-in. Please sign in again."));
    }
    return grantOf(answer);
  }

  #isOurs({ iss, aud, nonce, exp }, pending) {
    const isCurrent = typeof exp === "number" && exp * 1000 > Date.now() - CLOCKS_MS;
    return iss === this.#issuer && [aud].flat().includes(this.#clientId) && nonce === pending.nonce && isCurrent;
  }

  async #discover() {
    if (this.#metadata) return this.#metadata;
    const { ok, answer } = await fetchJson(`${this.#issuer.replace(/\/$/, "")}/.well-known/openid-configuration`);
    if (!ok || answer.issuer !== this.#issuer) throw new SignInError(misconfigured("its issuer differs"));
    this.#metadata = answer;
    return answer;
  }

  async #ask(body) {
    const { token_endpoint: endpoint } = await this.#discover();
    const { origin } = new URL(endpoint);
    if (!this.#origins.includes(origin)) throw new SignInError(misconfigured(`${origin} isn't allowed`));
    return fetchJson(endpoint, { method: "POST", body: new URLSearchParams({ ...body, client_id: this.#clientId }) });
  }

  #leave(endpoint, parameters) {
    const url = new URL(endpoint);
    if (!url.protocol.startsWith("http")) throw new SignInError(misconfigured("it has a wrong address"));
    for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
    location.assign(url);
  }
}

/** Whether `query` is a provider's answer. */
export function isAnswer(query) {
  return query.has("state") && (query.has("code") || query.has("error"));
}

/** The choice of a sign-in that was left without an answer, by the browser's button for example. */
export function abandonedChoice() {
  return JSON.parse(sessionStorage.getItem(PENDING) ?? "null")?.choice;
}

function grantOf(answer) {
  const { access_token: token, expires_in: seconds } = answer;
  if (typeof token !== "string") throw new SignInError(misconfigured("it sent no access token"));
  const grant = { token, endsAt: seconds > 0 ? Date.now() + seconds * 1000 : Number.MAX_SAFE_INTEGER };
  if (answer.refresh_token) grant.refreshToken = answer.refresh_token; // a new one each time, or once for all
  if (answer.id_token) grant.idToken = answer.id_token;
  return grant;
}

/** Without the provider's own words, which a link could have instead of the provider. */
function refusal(error) {
  if (error === "access_denied") return gettext("The sign-in was cancelled. You can sign in again at any time.");
  if (BUSY.includes(error)) return gettext("The sign-in service is busy. Please try again in a moment.");
  return gettext("The sign-in service refused this sign-in. Please try again; if it fails again, tell the people who run this page.");
}

function misconfigured(fault) {
  return gettext("The sign-in service isn't set up for this page (%(fault)s). Please tell the people who run it.", { fault });
}

async function fetchJson(url, options = {}) {
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const response = await fetch(url, { ...options, signal, credentials: "omit", cache: "no-store", redirect: "error" });
    return { ok: response.ok, answer: await response.json() };
  } catch {
    throw new SignInError(gettext("The sign-in service can't be reached. Check your connection and try again."));
  }
}

function randomText() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

async function challenge(verifier) {
  return base64url(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
}

function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
