// The language of the page: its messages, which the scripts name in English, and the choice of another.

const { messages, plurals } = JSON.parse(document.body.dataset.words);
const COOKIE = "carryout-language";
const SECONDS_KEPT = 31536000;
const PLACEHOLDER = /%\((\w+)\)s/g;
const select = document.getElementById("language");

export const LANGUAGE = document.documentElement.lang;
/** For dates and numbers: the language as it is spoken in the user's country, if the browser knows that. */
export const LOCALE = navigator.languages.find((tag) => primary(tag) === LANGUAGE) ?? LANGUAGE;
const NUMBER = new Intl.NumberFormat(LOCALE);

export const count = (number) => NUMBER.format(number);

/** The translation of an English message, in which `%(name)s` stands for a value. */
export function gettext(message, values = {}) {
  return (messages[message] ?? message).replace(PLACEHOLDER, (placeholder, name) => values[name] ?? placeholder);
}

/** The same of a message that differs by `number`, which it shows as `%(number)s`. */
export function ngettext(one, many, number, values = {}) {
  const form = messages[one]?.[plurals[number < plurals.length ? number : 100 + (number % 100)]];
  return gettext(form ?? (number === 1 ? one : many), { number: count(number), ...values });
}

/** The texts and nodes of a translated message whose values are nodes. */
export function withNodes(translated, nodes) {
  return translated.split(PLACEHOLDER).map((part, index) => (index % 2 ? nodes[part] : part));
}

/** Speaks the language that the service knows of the user, unless they have chosen one; `leaving` as below. */
export function speak(language, leaving) {
  const hasChosen = new URLSearchParams(location.search).has("language") || document.cookie.includes(`${COOKIE}=`);
  if (hasChosen || language === LANGUAGE) return;
  leaving();
  load(language);
}

/** Calls `leaving` before the user's choice loads the page again. */
export function offerChoice(leaving) {
  select.addEventListener("change", () => {
    const path = new URL(".", location).pathname;
    const secure = location.protocol.startsWith("https") ? "; Secure" : "";
    document.cookie = `${COOKIE}=${select.value}; Path=${path}; Max-Age=${SECONDS_KEPT}; SameSite=Lax${secure}`;
    leaving();
    load(select.value);
  });
}

/** In a frame, browsers may keep no cookie, so the address names the language, too. */
function load(language) {
  location.replace(`${location.pathname}?language=${language}`);
}

function primary(tag) {
  return tag.split("-")[0].toLowerCase();
}
