// The part of the data that a user asks for: the controls to choose it, and the ranges that fit after a refusal.

import { gettext, ngettext } from "./language.js";
import { later, part, records } from "./words.js";

const DAY_MS = 86400000;
const by = (id) => document.getElementById(id);

/** Fills the choice of sections from `GET api/export/sections`; choices of an earlier session are kept. */
export function showSections(offer) {
  const optional = offer.sections.filter((section) => !section.required);
  const left = [...document.querySelectorAll("#sections input:not(:checked)")].map((box) => box.value);
  by("sections").replaceChildren(...optional.map((section) => sectionChoice(section, !left.includes(section.name))));
  by("dates").hidden = !optional.some((section) => section.time);
  by("part").hidden = optional.length === 0;
}

function sectionChoice(section, checked) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.name = "section";
  box.value = section.name;
  box.checked = checked;
  const words = document.createElement("span");
  const title = document.createElement("b");
  title.textContent = section.title;
  words.append(title, ` ${section.description}`);
  label.className = "choice";
  label.append(box, words);
  return label;
}

/** The fields of the request's body, from the form. */
export function readBody(data) {
  const boxes = [...document.querySelectorAll("#sections input")];
  const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
  const [start, last] = [data.get("start"), data.get("last")];
  return {
    format: data.get("format"),
    ...(chosen.length < boxes.length && { sections: ["user", ...chosen] }),
    ...(start && { from: start }),
    ...(last && { to: nextDay(last) }),
  };
}

function nextDay(day) {
  return new Date(Date.parse(`${day}T00:00:00Z`) + DAY_MS).toISOString().slice(0, 10);
}

/** Offers the ranges of a refusal. `ask(range, waiting)` asks for one, and resolves to whether it was made. */
export function offerRanges(problem, ask) {
  const rows = problem.ranges.map((range) => rangeRow(range, ask));
  by("ranges-list").replaceChildren(...rows.map((row) => row.item));
  by("ranges-text").textContent = [
    ngettext(
      "Your data has more than %(number)s record, too many for one file.",
      "Your data has more than %(number)s records, too many for one file.",
      problem.limit,
    ),
    gettext("Each of these parts fits."),
    problem.too_large || problem.more ? "" : gettext("Together they hold all of it."),
  ].join(" ");
  by("ranges-lost").textContent = (problem.too_large ?? []).map((range) => part({ from: range.from, to: range.to })).join(", ");
  by("ranges-lost").parentElement.hidden = !problem.too_large;
  by("ranges-more").hidden = !problem.more;
  by("ranges-all").onclick = () => askAll(rows);
  by("ranges").hidden = false;
  by("ranges-title").focus();
}

export function hideRanges() {
  by("ranges").hidden = true;
}

function rangeRow(range, ask) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const count = document.createElement("span");
  button.type = "button";
  button.className = "secondary";
  button.textContent = part({ from: range.from, to: range.to });
  count.className = "hint";
  const say = (more) => { count.textContent = [records(range.record_count), more].filter(Boolean).join(", "); };
  say("");
  item.append(button, count);
  const waiting = (seconds) => say(gettext("asked for at %(time)s if this page stays open", { time: later(seconds) }));
  const row = { item, made: false, ask: (patient) => run(row, button, say, () => ask(range, patient && waiting)) };
  button.addEventListener("click", () => row.ask(false));
  return row;
}

/** Asks once at a time: the service makes one copy of a user after the other. */
async function run(row, button, say, ask) {
  if (by("ranges").getAttribute("aria-busy") === "true") return false;
  by("ranges").setAttribute("aria-busy", "true");
  button.setAttribute("aria-busy", "true");
  const made = await ask();
  by("ranges").removeAttribute("aria-busy");
  button.removeAttribute("aria-busy");
  row.made ||= made;
  say(row.made ? gettext("made") : "");
  return made;
}

/** Asks for each in turn, also beyond the number of copies that a user may have in an hour. */
async function askAll(rows) {
  for (const row of rows) if (!row.made && !(await row.ask(true))) return;
}
