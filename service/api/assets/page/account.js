// The account of a token, for display only. The service verifies the token with every call.

import { gettext } from "./language.js";

const MAX_EMAIL = 254;
const { userClaim } = JSON.parse(document.body.dataset.signIn);

/** The token in pasted text: without its scheme and the line breaks of a mail, which a header can't contain. */
export function clean(text) {
  return text.replace(/^\s*Bearer\s+/i, "").replace(/[^\x21-\x7e]/g, "");
}

/** An element with the account's id, and its address if the issuer has verified that. Other claims may be the user's free choice. */
export function nameOf(token) {
  const { email, email_verified: verified } = claimsOf(token);
  const id = idOf(token);
  const element = document.createElement("bdi");
  const isKnown = verified === true && typeof email === "string" && email.length <= MAX_EMAIL;
  element.textContent = !id?.trim() ? gettext("an unknown account") : isKnown ? `${email} (${id})` : id;
  return element;
}

export function isSameAccount(token, other) {
  const id = idOf(token);
  return token === other || (id !== null && id === idOf(other));
}

/** The user's id; null if there is none, or it is a number that JavaScript would round to another one. */
function idOf(token) {
  const id = claimsOf(token)[userClaim];
  return typeof id === "string" || Number.isSafeInteger(id) ? String(id) : null;
}

export function claimsOf(token) {
  try {
    const segment = token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(segment), (character) => character.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}
