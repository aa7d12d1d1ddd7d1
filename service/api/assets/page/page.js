// The page: signing in, asking for a copy, watching it, and the list of copies.
// The token lives in this tab's session storage alone. It comes from the form, or behind the `#` of the address, which
// no server sees, and from where it is removed at once.

import { ApiError, Client } from "./client.js";
import { createItem, showItem } from "./item.js";
import { explain, records, size, state } from "./words.js";

const KEY = "carryout.token";
const PAGE_SIZE = 10;

const by = (id) => document.getElementById(id);
let client = null;
let session = new AbortController();
let nextPage = null;
let settle = () => {}; // what waits for the dialog

function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  history.replaceState(null, "", location.pathname + location.search);
  sessionStorage.setItem(KEY, token);
}

async function begin() {
  session.abort();
  session = new AbortController();
  const token = sessionStorage.getItem(KEY);
  client = token && new Client(token, session.signal);
  by("sign-in").hidden = Boolean(client);
  for (const id of ["signed-in", "sign-out"]) by(id).hidden = !client;
  by("history").replaceChildren();
  for (const id of ["empty", "more"]) by(id).hidden = true;
  if (client) await attempt(loadHistory);
}

function signOut(reason = "") {
  sessionStorage.removeItem(KEY);
  begin();
  complain(reason);
  by("token").value = "";
  by("token").focus();
}

/** The result of `action`, or undefined once its failure has been explained, or its user has signed out. */
async function attempt(action) {
  const { signal } = session;
  complain("");
  try {
    return await action();
  } catch (error) {
    if (signal.aborted && (error instanceof ApiError || error.name === "AbortError")) return undefined;
    if (!(error instanceof ApiError || error instanceof TypeError)) throw error;
    if (error.status === 401) signOut("This access token isn't valid, or not any more. Please sign in again.");
    else complain(explain(error));
    return undefined;
  }
}

function complain(text) {
  by("alert").textContent = text;
  by("alert").hidden = !text;
}

function announce(text) {
  by("status").textContent = text;
}

async function loadHistory() {
  const page = await client.call("GET", `api/export?limit=${PAGE_SIZE}`);
  by("history").replaceChildren();
  addPage(page);
  by("empty").hidden = page.exports.length > 0;
}

function addPage(page) {
  for (const view of page.exports) {
    const item = createItem(view, { remove, downloads });
    by("history").append(item);
    if (isRunning(view)) watch(view);
  }
  nextPage = page.next;
  by("more").hidden = !nextPage;
}

function isRunning(view) {
  return view.status === "pending" || view.status === "processing";
}

function itemOf(jobId) {
  return by("history").querySelector(`[data-job="${CSS.escape(jobId)}"]`);
}

async function show(jobId) {
  const view = await client.call("GET", `api/export/${jobId}`);
  const item = itemOf(jobId);
  if (item) showItem(item, view);
  else by("history").prepend(createItem(view, { remove, downloads }));
  by("empty").hidden = true;
  return view;
}

function watch(view) {
  attempt(() => client.watch(view.job_id, showChange));
}

function showChange(view) {
  const item = itemOf(view.job_id);
  if (item) showItem(item, view);
  if (!isRunning(view)) announceEnd(view);
}

function announceEnd(view) {
  const facts = view.status === "completed" ? `: ${records(view.record_count)}, ${size(view.size_bytes)}` : "";
  announce(`Your ${view.format.toUpperCase()} copy is ${state(view)}${facts}.`);
}

async function ask(format) {
  announce("Asking for your data");
  try {
    const { job_id: jobId } = await client.call("POST", "api/export", { format });
    await follow(jobId);
  } catch (error) {
    if (error.status !== 409 || !error.problem.job_id) throw error;
    await follow(error.problem.job_id);
    complain(explain(error));
  }
}

async function follow(jobId) {
  const known = itemOf(jobId);
  const view = await show(jobId);
  if (!isRunning(view)) announceEnd(view);
  else if (!known) watch(view);
  if (isRunning(view)) announce("Your copy is being made");
  itemOf(jobId).focus({ preventScroll: true });
  itemOf(jobId).scrollIntoView({ block: "nearest" });
}

async function remove(view) {
  const running = isRunning(view);
  by("confirm-title").textContent = running ? "Cancel this copy?" : "Delete this copy?";
  by("confirm-text").textContent = running
    ? "It isn't finished, and won't be. You can ask for another one."
    : "Its file is deleted now and its link stops working. You can ask for another one.";
  by("confirm-yes").textContent = running ? "Cancel it" : "Delete it";
  if ((await confirmed()) !== "yes") return;
  await attempt(async () => {
    await client.call("DELETE", `api/export/${view.job_id}`);
    await show(view.job_id);
    announce(running ? "Cancelled" : "Deleted");
  });
  itemOf(view.job_id)?.focus();
}

function confirmed() {
  settle("no"); // what was closed a moment ago: its event may still be to come
  const dialog = by("confirm");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => { settle = resolve; });
}

function downloads(path) {
  return attempt(() => client.call("GET", path));
}

/** Runs `action` on submit, once at a time. */
function onSubmit(form, action) {
  const button = form.querySelector("button");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    await attempt(() => action(new FormData(form)));
    button.removeAttribute("aria-busy");
  });
}

onSubmit(by("sign-in"), async () => {
  sessionStorage.setItem(KEY, by("token").value.trim().replace(/^Bearer\s+/i, ""));
  by("token").value = "";
  await begin();
  if (client) by("history-title").focus();
});
onSubmit(by("ask"), (data) => ask(data.get("format")));
by("confirm").addEventListener("close", ({ target }) => { if (!target.open) settle(target.returnValue); });
by("sign-out").addEventListener("click", () => signOut());
by("more").addEventListener("click", () => attempt(async () => addPage(await client.call("GET", nextPage))));
window.addEventListener("hashchange", () => { takeToken(); begin(); });
// Going back brings the page as it was left, whoever has signed out since.
window.addEventListener("pageshow", (event) => { if (event.persisted) begin(); });

takeToken();
begin();
