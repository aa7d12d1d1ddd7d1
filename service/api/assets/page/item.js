// The list's element for one export.

import { count, gettext, ngettext } from "./language.js";
import { asked, badge, date, name, part, records, size, state } from "./words.js";

const BADGES = { ready: "completed", failed: "failed", making: "running", waiting: "running" };
const DOWNLOADERS = {
  owner: gettext("You, signed in"),
  link: gettext("With the link"),
  support: gettext("Support, for you"),
};

/** Creates an export's element. `actions.remove(view)` confirms and deletes; `actions.downloads(path)` fetches a page of downloads. */
export function createItem(view, actions) {
  const item = document.getElementById("item").content.firstElementChild.cloneNode(true);
  item.dataset.job = view.job_id;
  find(item, ".remove").addEventListener("click", () => actions.remove(item.view));
  find(item, ".newer").addEventListener("click", () => actions.newer(item.view));
  const details = find(item, ".downloads");
  details.addEventListener("toggle", async () => {
    if (details.open) showDownloads(item, await actions.downloads(`api/export/${view.job_id}/downloads`));
  });
  find(item, ".older").addEventListener("click", async () => {
    const path = item.olderDownloads;
    const page = await actions.downloads(path);
    if (path === item.olderDownloads) addDownloads(item, page); // unless another click has loaded this page
  });
  showItem(item, view);
  return item;
}

export function showItem(item, view) {
  item.view = view;
  const word = state(view);
  const running = word === "waiting" || word === "making";
  find(item, ".name").textContent = name(view);
  find(item, ".part").textContent = part(view.filter);
  find(item, ".part").hidden = !view.filter;
  find(item, ".asked").textContent = asked(view.asked_by_support);
  find(item, ".asked").hidden = !view.asked_by_support;
  find(item, ".badge").textContent = badge(view);
  find(item, ".badge").className = `badge ${BADGES[word] ?? ""}`;
  find(item, ".making").hidden = !running;
  if (running) showProgress(item, view);
  const reason = view.error_message && gettext(view.error_message);
  const note = { failed: reason, ended: reason ?? gettext("Its link has ended and its file is deleted.") }[word];
  find(item, ".note").hidden = !note;
  find(item, ".note").textContent = note ?? "";
  find(item, ".facts").replaceChildren(...(view.status === "completed" ? facts(view, word) : []));
  const download = find(item, ".download");
  download.hidden = word !== "ready";
  download.setAttribute("aria-label", gettext("Download %(name)s", { name: name(view) }));
  if (word === "ready") download.href = view.download_url;
  const newer = find(item, ".newer");
  newer.hidden = word !== "ready";
  newer.setAttribute("aria-label", gettext("What is new since then, %(name)s", { name: name(view) }));
  const remove = find(item, ".remove");
  remove.hidden = !running && word !== "ready";
  remove.textContent = running ? gettext("Cancel") : gettext("Delete");
  const named = { name: name(view) };
  remove.setAttribute("aria-label", running ? gettext("Cancel %(name)s", named) : gettext("Delete %(name)s", named));
  find(item, ".downloads").hidden = view.status !== "completed";
}

function showProgress(item, view) {
  const { records_done: done, records_total: total, bytes_done: read, bytes_total: toRead } = view.progress;
  const reading = Boolean(toRead) && done >= total; // attachments come after the records
  const bar = find(item, "progress");
  bar.max = reading ? toRead : total;
  bar.value = reading ? read : done;
  bar.setAttribute("aria-label", gettext("Progress of %(name)s", { name: name(view) }));
  find(item, ".counted").textContent = reading
    ? gettext("%(done)s of %(all)s of attachments", { done: size(read), all: size(toRead) })
    : ngettext("%(done)s of %(number)s record", "%(done)s of %(number)s records", total, { done: count(done) });
}

function facts(view, word) {
  const ending = word === "ready" ? gettext("Link ends") : gettext("Link ended");
  return [
    fact(gettext("Records"), count(view.record_count)),
    ...(view.files ? [fact(gettext("Attachments"), attachments(view.files))] : []),
    fact(gettext("Size"), size(view.size_bytes)),
    fact(ending, time(view.expires_at)),
    fact(gettext("SHA-256 checksum"), view.sha256, "wide"),
  ];
}

function attachments({ included, missing }) {
  const both = { included: count(included), missing: count(missing) };
  return missing ? gettext("%(included)s, and %(missing)s missing: index.html says why", both) : both.included;
}

function fact(term, value, className = "") {
  const group = element("div", "", className);
  const description = element("dd");
  description.append(value);
  group.append(element("dt", term), description);
  return group;
}

function showDownloads(item, page) {
  if (!page) return;
  const table = downloadTable();
  find(item, ".downloads-list").replaceChildren(page.downloads.length ? table : element("p", gettext("No downloads yet.")));
  if (page.downloads.some((download) => download.sent_by === "storage")) {
    const note = gettext("Each line is a link that worked for five minutes and could be used more than once.");
    find(item, ".downloads-list").append(element("p", note));
  }
  addDownloads(item, page);
}

function addDownloads(item, page) {
  if (!page) return;
  for (const download of page.downloads) {
    const row = find(item, ".downloads-list tbody").insertRow();
    row.insertCell().append(time(download.downloaded_at));
    row.insertCell().append(DOWNLOADERS[download.by]);
    row.insertCell().append(download.ip ?? gettext("An unknown address"), element("small", download.user_agent ?? ""));
  }
  item.olderDownloads = page.next;
  find(item, ".older").hidden = !page.next;
}

function downloadTable() {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const title of [gettext("When"), gettext("Who"), gettext("Address")]) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  table.createTBody();
  return table;
}

function time(instant) {
  const shown = element("time", date(instant));
  shown.dateTime = instant;
  return shown;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function find(item, selector) {
  return item.querySelector(selector);
}
