// The list's element for one export.

import { asked, count, date, name, part, records, size, state } from "./words.js";

const BADGES = { ready: "completed", failed: "failed", "being made": "running", waiting: "running" };

const DOWNLOADERS = { owner: "You, signed in", link: "With the link", support: "Support, for you" };

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
  const running = word === "waiting" || word === "being made";
  find(item, ".name").textContent = name(view);
  find(item, ".part").textContent = part(view.filter);
  find(item, ".part").hidden = !view.filter;
  find(item, ".asked").textContent = asked(view.asked_by_support);
  find(item, ".asked").hidden = !view.asked_by_support;
  find(item, ".badge").textContent = word[0].toUpperCase() + word.slice(1);
  find(item, ".badge").className = `badge ${BADGES[word] ?? ""}`;
  find(item, ".making").hidden = !running;
  if (running) showProgress(item, view);
  const note = { failed: view.error_message, ended: view.error_message ?? "Its link has ended and its file is deleted." }[word];
  find(item, ".note").hidden = !note;
  find(item, ".note").textContent = note ?? "";
  find(item, ".facts").replaceChildren(...(view.status === "completed" ? facts(view, word) : []));
  const download = find(item, ".download");
  download.hidden = word !== "ready";
  download.setAttribute("aria-label", `Download ${name(view)}`);
  if (word === "ready") download.href = view.download_url;
  const newer = find(item, ".newer");
  newer.hidden = word !== "ready";
  newer.setAttribute("aria-label", `What is new since then, ${name(view)}`);
  const remove = find(item, ".remove");
  remove.hidden = !running && word !== "ready";
  remove.textContent = running ? "Cancel" : "Delete";
  remove.setAttribute("aria-label", `${remove.textContent} ${name(view)}`);
  find(item, ".downloads").hidden = view.status !== "completed";
}

function showProgress(item, view) {
  const { records_done: done, records_total: total, bytes_done: read, bytes_total: toRead } = view.progress;
  const reading = Boolean(toRead) && done >= total; // attachments come after the records
  const bar = find(item, "progress");
  bar.max = reading ? toRead : total;
  bar.value = reading ? read : done;
  bar.setAttribute("aria-label", `Progress of ${name(view)}`);
  find(item, ".counted").textContent = reading
    ? `${size(read)} of ${size(toRead)} of attachments`
    : `${count(done)} of ${records(total)}`;
}

function facts(view, word) {
  const ending = word === "ready" ? "Link ends" : "Link ended";
  return [
    fact("Records", count(view.record_count)),
    ...(view.files ? [fact("Attachments", attachments(view.files))] : []),
    fact("Size", size(view.size_bytes)),
    fact(ending, time(view.expires_at)),
    fact("SHA-256 checksum", view.sha256, "wide"),
  ];
}

function attachments({ included, missing }) {
  return missing ? `${count(included)}, and ${count(missing)} missing: index.html says why` : count(included);
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
  find(item, ".downloads-list").replaceChildren(page.downloads.length ? table : element("p", "No downloads yet."));
  if (page.downloads.some((download) => download.sent_by === "storage")) {
    const note = "Each line is a link that worked for five minutes and could be used more than once.";
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
    row.insertCell().append(download.ip ?? "An unknown address", element("small", download.user_agent ?? ""));
  }
  item.olderDownloads = page.next;
  find(item, ".older").hidden = !page.next;
}

function downloadTable() {
  const table = element("table");
  const head = table.createTHead().insertRow();
  for (const title of ["When", "Who", "From"]) {
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
