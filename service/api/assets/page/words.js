// Texts of the page about exports.

import { UNAVAILABLE } from "./client.js";
import { count, gettext, LANGUAGE, LOCALE, ngettext } from "./language.js";

const DATE = new Intl.DateTimeFormat(LOCALE, { dateStyle: "medium", timeStyle: "short" });
const TIME = new Intl.DateTimeFormat(LOCALE, { timeStyle: "short" });
const YEAR = new Intl.DateTimeFormat(LOCALE, { year: "numeric", timeZone: "UTC" });
const MONTH = new Intl.DateTimeFormat(LOCALE, { year: "numeric", month: "long", timeZone: "UTC" });
const DAY = new Intl.DateTimeFormat(LOCALE, { dateStyle: "long", timeZone: "UTC" });
const BYTES = new Intl.NumberFormat(LOCALE, { style: "unit", unit: "byte", unitDisplay: "long" });
const UNITS = ["kilobyte", "megabyte", "gigabyte"].map(
  (unit) => new Intl.NumberFormat(LOCALE, { style: "unit", unit, maximumSignificantDigits: 3 }),
);

export const date = (instant) => DATE.format(new Date(instant));
/** The export's name in the list. */
export const name = (view) => gettext("%(format)s copy, %(date)s", { format: formatOf(view), date: date(view.created_at) });
export const records = (number) => ngettext("%(number)s record", "%(number)s records", number);

export function size(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), UNITS.length);
  return power ? UNITS[power - 1].format(bytes / 1000 ** power) : BYTES.format(bytes);
}

/** Who else asked for an export and why; empty if its owner did. */
export function asked(bySupport) {
  return bySupport ? gettext("Asked for by support, because: %(reason)s", { reason: bySupport.reason }) : "";
}

/** The part of the data that a filter selects, in words; empty for all of it. */
export function part(filter) {
  const range = filter && (filter.since ? gettext("New since %(date)s", { date: date(filter.from) }) : rangeOf(filter.from, filter.to));
  return [range, filter?.sections?.filter((name) => name !== "user").join(", ")].filter(Boolean).join(": ");
}

function rangeOf(from, to) {
  if (!from && !to) return "";
  if ([from, to].some((instant) => instant?.includes("T"))) {
    const [beginning, now] = [gettext("The beginning"), gettext("now")];
    return gettext("%(from)s to %(to)s", { from: from ?? beginning, to: to ?? now });
  }
  const start = from && new Date(`${from}T00:00:00Z`);
  const last = to && new Date(Date.parse(`${to}T00:00:00Z`) - 1); // the last moment in it
  const format = [from, to].every((day) => !day || day.endsWith("-01-01")) ? YEAR
    : [from, to].every((day) => !day || day.endsWith("-01")) ? MONTH : DAY;
  if (!start) return gettext("Until the end of %(period)s", { period: format.format(last) });
  if (!last) return gettext("From %(period)s on", { period: format.format(start) });
  return format.formatRange(start, last);
}

/** An export's state as shown to its owner. It is finer than its status: the link may have ended. */
export function state(view) {
  if (view.status === "completed") return view.download_url ? "ready" : "ended";
  if (view.status === "failed") return view.error_message === "cancelled by user" ? "cancelled" : "failed";
  return view.status === "processing" ? "making" : "waiting";
}

/** An export's state as a word. */
export function badge(view) {
  return {
    ready: gettext("Ready"),
    ended: gettext("Ended"),
    cancelled: gettext("Cancelled"),
    failed: gettext("Failed"),
    making: gettext("Being made"),
    waiting: gettext("Waiting"),
  }[state(view)];
}

/** A sentence about an export that has ended. */
export function ending(view) {
  const format = formatOf(view);
  if (view.status === "completed") {
    const values = { format, records: records(view.record_count), size: size(view.size_bytes) };
    return gettext("Your %(format)s copy is ready: %(records)s, %(size)s.", values);
  }
  if (state(view) === "cancelled") return gettext("Your %(format)s copy is cancelled.", { format });
  return gettext("Your %(format)s copy failed.", { format });
}

/** A sentence that explains an ApiError or a network failure. */
export function explain(error) {
  if (!("status" in error)) return gettext("The service can't be reached. Check your connection and try again.");
  const { detail, suggestion } = error.problem;
  if (error.status === 409) return gettext("A copy is already being made. Here it is.");
  if (error.status === 422) {
    return told([detail, suggestion], gettext("This can't be made into one file. Choose a shorter time, or some of the sections."));
  }
  if (error.status === 429) {
    const limit = told([error.message], gettext("You have as many copies as you may have for now."));
    const again = gettext("You can ask again at %(time)s.", { time: later(error.retryAfter) });
    return `${limit} ${again}`;
  }
  if (UNAVAILABLE.includes(error.status)) return gettext("The service is busy. Please try again in a moment.");
  return told([error.message], gettext("The service refused this. Load the page again; it shows what you have."));
}

/** When so many seconds have passed. */
export function later(seconds) {
  const instant = new Date(Date.now() + seconds * 1000);
  return (instant.getDate() === new Date().getDate() ? TIME : DATE).format(instant);
}

/** What the service says, which it says in English alone; in other languages, what the page knows of it. */
function told(details, otherwise) {
  return LANGUAGE === "en" ? details.filter(Boolean).map(sentence).join(" ") : otherwise;
}

function formatOf(view) {
  return view.format.toUpperCase();
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
