// Texts of the page.

import { UNAVAILABLE } from "./client.js";

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const NUMBER = new Intl.NumberFormat();
const SHORT = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const YEAR = new Intl.DateTimeFormat(undefined, { year: "numeric", timeZone: "UTC" });
const MONTH = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "long", timeZone: "UTC" });
const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "long", timeZone: "UTC" });
const UNITS = ["bytes", "kB", "MB", "GB"];

export const date = (instant) => DATE.format(new Date(instant));
export const count = (number) => NUMBER.format(number);
/** The export's name in the list. */
export const name = (view) => `${view.format.toUpperCase()} copy, ${date(view.created_at)}`;
export const records = (number) => `${count(number)} ${number === 1 ? "record" : "records"}`;

export function size(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), UNITS.length - 1);
  const value = bytes / 1000 ** power;
  return `${SHORT.format(value)} ${UNITS[power]}`;
}

/** Who else asked for an export and why; empty if its owner did. */
export const asked = (bySupport) => (bySupport ? `Asked for by support, because: ${bySupport.reason}` : "");

/** The part of the data that a filter selects, in words; empty for all of it. */
export function part(filter) {
  const range = filter && (filter.since ? `New since ${date(filter.from)}` : rangeOf(filter.from, filter.to));
  return [range, filter?.sections?.filter((name) => name !== "user").join(", ")].filter(Boolean).join(": ");
}

function rangeOf(from, to) {
  if (!from && !to) return "";
  if ([from, to].some((instant) => instant?.includes("T"))) return `${from ?? "The beginning"} to ${to ?? "now"}`;
  const start = from && new Date(`${from}T00:00:00Z`);
  const last = to && new Date(Date.parse(`${to}T00:00:00Z`) - 1); // the last moment in it
  const format = [from, to].every((day) => !day || day.endsWith("-01-01")) ? YEAR
    : [from, to].every((day) => !day || day.endsWith("-01")) ? MONTH : DAY;
  if (!start) return `Until the end of ${format.format(last)}`;
  if (!last) return `From ${format.format(start)} on`;
  return format.formatRange(start, last);
}

/** An export's state as shown to its owner. It is finer than its status: the link may have ended. */
export function state(view) {
  if (view.status === "completed") return view.download_url ? "ready" : "ended";
  if (view.status === "failed") return view.error_message === "cancelled by user" ? "cancelled" : "failed";
  return view.status === "processing" ? "being made" : "waiting";
}

/** A sentence that explains an ApiError or a network failure. */
export function explain(error) {
  if (!("status" in error)) return "The service can't be reached. Check your connection and try again.";
  const { detail, suggestion } = error.problem;
  if (error.status === 409) return "A copy is already being made. Here it is.";
  if (error.status === 422) return [detail, suggestion].filter(Boolean).map(sentence).join(" ");
  if (error.status === 429) return `${sentence(error.message)} You can ask again at ${later(error.retryAfter)}.`;
  if (UNAVAILABLE.includes(error.status)) return "The service is busy. Please try again in a moment.";
  return sentence(error.message);
}

/** When so many seconds have passed. */
export function later(seconds) {
  const instant = new Date(Date.now() + seconds * 1000);
  return (instant.getDate() === new Date().getDate() ? TIME : DATE).format(instant);
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
