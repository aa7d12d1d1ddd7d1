// How the page says things.

import { UNAVAILABLE } from "./client.js";

const DATE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const TIME = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const NUMBER = new Intl.NumberFormat();
const SHORT = new Intl.NumberFormat(undefined, { maximumSignificantDigits: 3 });
const UNITS = ["bytes", "kB", "MB", "GB"];

export const date = (instant) => DATE.format(new Date(instant));
export const count = (number) => NUMBER.format(number);
/** The export's name among the others. */
export const name = (view) => `${view.format.toUpperCase()} copy, ${date(view.created_at)}`;
export const records = (number) => `${count(number)} ${number === 1 ? "record" : "records"}`;

export function size(bytes) {
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), UNITS.length - 1);
  const value = bytes / 1000 ** power;
  return `${SHORT.format(value)} ${UNITS[power]}`;
}

/** What an export is to its owner, which is more than its status: its link may have ended. */
export function state(view) {
  if (view.status === "completed") return view.download_url ? "ready" : "ended";
  if (view.status === "failed") return view.error_message === "cancelled by user" ? "cancelled" : "failed";
  return view.status === "processing" ? "being made" : "waiting";
}

/** A sentence for an ApiError, or for a network that doesn't answer. */
export function explain(error) {
  if (!("status" in error)) return "The service can't be reached. Check your connection and try again.";
  const { detail, suggestion } = error.problem;
  if (error.status === 409) return "A copy is already being made. Here it is.";
  if (error.status === 422) return [detail, suggestion].filter(Boolean).map(sentence).join(" ");
  if (error.status === 429) return `${sentence(error.message)} You can ask again at ${later(error.retryAfter)}.`;
  if (UNAVAILABLE.includes(error.status)) return "The service is busy. Please try again in a moment.";
  return sentence(error.message);
}

function later(seconds) {
  const instant = new Date(Date.now() + seconds * 1000);
  return (instant.getDate() === new Date().getDate() ? TIME : DATE).format(instant);
}

function sentence(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
