// The page: sign-in, requesting and watching a copy, and the list of copies.
// The token comes from an OpenID Connect provider, from the form, or from the fragment of the URL, which browsers don't
// send to servers, and from which the page removes it at once. An attacker can make such a link with their own token,
// or with one that only looks like the user's. So a token from a link replaces another account's token only if the user
// agrees, and any token only if it works. In a frame, only the parent page hands tokens over: see embedded.js.

import { claimsOf, clean, isSameAccount, nameOf } from "./account.js";
import { ApiError, Client } from "./client.js";
import { ParentSession } from "./embedded.js";
import { createItem, showItem } from "./item.js";
import { gettext, offerChoice, speak, withNodes } from "./language.js";
import { abandonedChoice, isAnswer, Provider, SignInError } from "./oidc.js";
import { hideRanges, offerRanges, readBody, showSections } from "./parts.js";
import { Session } from "./session.js";
import { ending, explain, part } from "./words.js";

const CHOICE = "carryout.choice";
const SIGNED_OUT = "carryout.signed-out";
const PAGE_SIZE = 10;

const by = (id) => document.getElementById(id);
const { oidc, url: signInUrl, parents } = JSON.parse(document.body.dataset.signIn);
const embedded = parents.length > 0;
const provider = oidc && new Provider(oidc);
const session = embedded ? new ParentSession(parents, { begin, leave, complain }) : new Session(provider);
let client = null;
let visit = new AbortController();
let nextPage = null;
let kept = null; // what was chosen before a sign-in, until the form has all its fields again
let settle = () => {}; // resolves the promise of the open dialog

function takeToken() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token) history.replaceState(null, "", location.pathname + location.search);
  return clean(token ?? "");
}

/** A provider's answer in the query, which the address must not keep. */
function takeAnswer() {
  const query = new URLSearchParams(location.search);
  if (!isAnswer(query)) return null;
  history.replaceState(null, "", location.pathname);
  return query;
}

async function arrive() {
  const answer = provider && takeAnswer();
  if (answer) return finishSignIn(answer);
  const offered = takeToken();
  const present = session.token;
  if (offered && !present) session.keep(offered);
  restoreChoice();
  const beginning = begin();
  if (sessionStorage.getItem(SIGNED_OUT)) announceSignOut();
  if (!offered || !present || offered === present) return beginning;
  if (!isSameAccount(offered, present) && !(await confirmedAnother(present, offered))) return beginning;
  await beginning; // it clears the alert, which may have to say that the token doesn't work
  if (!(await works(offered))) return undefined;
  session.keep(offered);
  return begin();
}

/** In a frame. Opened in a tab of its own, this address leads to the page with a sign-in. */
function arriveInFrame() {
  if (window.parent === window) location.replace(".");
  else session.join();
}

/** The parent page has signed the user out. */
function leave() {
  end();
  by("signed-out").hidden = false;
}

async function finishSignIn(answer) {
  try {
    const { choice, ...grant } = await provider.finish(answer);
    keepChoice(choice);
    session.keepGrant(grant);
    await begin();
    if (client) by("history-title").focus();
  } catch (error) {
    if (!(error instanceof SignInError)) throw error;
    keepChoice(error.choice);
    await begin(); // the tab may be signed in all the same
    complain(error.message);
  }
}

/** The form's fields. Those of sections are there only after a sign-in. */
function chosen() {
  return [...by("ask").elements].filter(({ name }) => name).map(({ name, value, checked }) => ({ name, value, checked }));
}

function choose(choice) {
  for (const field of by("ask").elements) {
    const isBox = field.type === "radio" || field.type === "checkbox";
    const given = choice.find(({ name, value }) => name === field.name && (!isBox || value === field.value));
    if (given && isBox) field.checked = given.checked;
    else if (given) field.value = given.value;
  }
}

function keepChoice(choice) {
  kept = choice ?? null;
  if (kept) choose(kept);
}

/** For the next page in this tab. A frame has no storage to rely on. */
function storeChoice() {
  if (!embedded) sessionStorage.setItem(CHOICE, JSON.stringify(kept ?? chosen()));
}

function restoreChoice() {
  keepChoice(JSON.parse(sessionStorage.getItem(CHOICE) ?? "null") ?? abandonedChoice());
  sessionStorage.removeItem(CHOICE);
}

async function loadSections() {
  const offer = await client.call("GET", "api/export/sections");
  speak(offer.language, storeChoice);
  showSections(offer);
  if (!kept) return;
  keepChoice(kept);
  kept = null;
  by("part").open ||= Object.keys(readBody(new FormData(by("ask")))).length > 1; // nothing is left out unseen
}

async function signIn() {
  if (provider) return provider.signIn(kept ?? chosen());
  if (signInUrl) {
    storeChoice();
    return location.assign(signInUrl);
  }
  session.keep(clean(by("token").value));
  by("token").value = "";
  await begin();
  if (client) by("history-title").focus();
}

function announceSignOut() {
  sessionStorage.removeItem(SIGNED_OUT);
  by("signed-out").hidden = Boolean(client);
}

/** Whether the service takes the token, even if the one that the page has ends meanwhile. If not, the page says so. */
async function works(token) {
  try {
    const offered = { current: () => token, replaced: () => false };
    await new Client(offered, new AbortController().signal).call("GET", "api/export?limit=1");
    return true;
  } catch (error) {
    if (client) complain(error.status === 401 ? gettext("The link's access token isn't valid or has expired.") : explain(error));
    return false;
  }
}

function confirmedAnother(present, offered) {
  return confirmed({
    title: gettext("Change to another account?"),
    text: [
      ...withNodes(
        gettext("You are signed in as %(present)s. The link that you opened signs you in as %(offered)s."),
        { present: nameOf(present), offered: nameOf(offered) },
      ),
      " ",
      gettext("If you didn't expect that, stay signed in: the sender may want you to use their account."),
    ],
    no: gettext("Stay signed in"),
    yes: gettext("Change account"),
  });
}

async function begin() {
  visit.abort();
  visit = new AbortController();
  by("confirm").close(); // it asks about what another account sees
  const { token } = session;
  client = token && new Client(session, visit.signal);
  by("sign-in").hidden = Boolean(client);
  by("signed-out").hidden = true;
  by("account").replaceChildren(...(token ? [nameOf(token)] : []));
  for (const part of document.querySelectorAll("[data-signed-in]")) part.hidden = !client;
  by("history").replaceChildren();
  for (const id of ["empty", "more"]) by(id).hidden = true;
  hideRanges();
  if (client) await attempt(loadHistory);
  if (client) attempt(loadSections);
}

function end(reason = "") {
  kept = reason ? kept ?? chosen() : null;
  session.forget();
  begin();
  complain(reason);
  by("sign-in").querySelector("textarea, button")?.focus();
}

async function signOut() {
  const { grant } = session;
  end();
  if (!provider || !grant) return;
  sessionStorage.setItem(SIGNED_OUT, "yes");
  try {
    if (await provider.signOut(grant)) return;
  } catch (error) {
    if (!(error instanceof SignInError)) throw error;
    complain(gettext("You are signed out here. The sign-in service can't be reached: you may still be signed in there."));
  }
  announceSignOut();
}

/** The result of `action`; undefined after a failure, which is shown, or after a sign-out. */
async function attempt(action) {
  const { signal } = visit;
  complain("");
  try {
    return await action();
  } catch (error) {
    if (signal.aborted && (error instanceof ApiError || error.name === "AbortError")) return undefined;
    if (error instanceof SignInError) complain(error.message);
    else if (!(error instanceof ApiError || error instanceof TypeError)) throw error;
    else if (error.status === 401) end(reasonOfEnd());
    else complain(explain(error));
    return undefined;
  }
}

/** The service doesn't say whether it refused the token because it has expired. */
function reasonOfEnd() {
  const { exp } = claimsOf(session.token ?? "");
  const hasExpired = typeof exp === "number" && exp * 1000 < Date.now();
  if (hasExpired) return gettext("Your session has ended. Sign in again to go on: what you chose is kept.");
  if (provider || embedded) {
    return gettext("This service didn't accept the sign-in. Sign in again; if it fails again, tell the people who run this page.");
  }
  return gettext("This access token isn't valid or has expired. Please sign in again.");
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
    const item = createItem(view, { remove, downloads, newer });
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
  else by("history").prepend(createItem(view, { remove, downloads, newer }));
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
  announce(ending(view));
}

async function ask(body) {
  announce(gettext("Asking for your data"));
  hideRanges();
  try {
    const { job_id: jobId } = await client.call("POST", "api/export", body);
    await follow(jobId);
  } catch (error) {
    if (error.status === 422 && error.problem.ranges?.length) {
      announce(gettext("Your data is too large for one file"));
      const { since: _, ...whole } = body; // each range says where it begins
      offerRanges(error.problem, (range, waiting) => askForRange({ ...whole, from: range.from, to: range.to }, waiting));
      return;
    }
    if (error.status !== 409 || !error.problem.job_id) throw error;
    await follow(error.problem.job_id);
    complain(explain(error));
  }
}

/** Whether the copy of the range was made; waits for it and, with `waiting`, until the service allows another copy. */
async function askForRange(body, waiting) {
  return await attempt(async () => {
    const { job_id: jobId } = waiting
      ? await client.callPatiently("POST", "api/export", body, waiting)
      : await client.call("POST", "api/export", body);
    let view = await show(jobId);
    announce(gettext("Making %(part)s", { part: part(body) }));
    if (isRunning(view)) await client.watch(jobId, (changed) => { view = changed; showChange(changed); });
    else announceEnd(view);
    return view.status === "completed";
  });
}

/** Asks for what is new since a copy, in its format and of its sections. */
function newer(view) {
  const sections = view.filter?.sections;
  return attempt(() => ask({ format: view.format, since: view.job_id, ...(sections && { sections }) }));
}

async function follow(jobId) {
  const known = itemOf(jobId);
  const view = await show(jobId);
  if (!isRunning(view)) announceEnd(view);
  else if (!known) watch(view);
  if (isRunning(view)) announce(gettext("Your copy is being made"));
  itemOf(jobId).focus({ preventScroll: true });
  itemOf(jobId).scrollIntoView({ block: "nearest" });
}

async function remove(view) {
  const running = isRunning(view);
  const agreed = await confirmed({
    title: running ? gettext("Cancel this copy?") : gettext("Delete this copy?"),
    text: [
      running
        ? gettext("It stops now and no file is kept. You can ask for another one.")
        : gettext("Its file is deleted now and its link stops working. You can ask for another one."),
    ],
    no: gettext("Keep it"),
    yes: running ? gettext("Cancel it") : gettext("Delete it"),
  });
  if (!agreed) return;
  await attempt(async () => {
    await client.call("DELETE", `api/export/${view.job_id}`);
    await show(view.job_id);
    announce(running ? gettext("Cancelled") : gettext("Deleted"));
  });
  itemOf(view.job_id)?.focus();
}

async function confirmed({ title, text, no, yes }) {
  settle("no"); // the previous dialog's close event may still be pending
  const dialog = by("confirm");
  dialog.close(); // the dialog may still be open, because the user can open a link meanwhile
  by("confirm-title").textContent = title;
  by("confirm-text").replaceChildren(...text);
  by("confirm-no").textContent = no;
  by("confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return (await new Promise((resolve) => { settle = resolve; })) === "yes";
}

function downloads(path) {
  return attempt(() => client.call("GET", path));
}

/** Runs `action` on submit, one run at a time. */
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

onSubmit(by("ask"), (data) => ask(readBody(data)));
by("confirm").addEventListener("close", ({ target }) => { if (!target.open) settle(target.returnValue); });
by("more").addEventListener("click", () => attempt(async () => addPage(await client.call("GET", nextPage))));
offerChoice(storeChoice);
// Browsers restore the page from their cache, even after a sign-out.
window.addEventListener("pageshow", (event) => { if (event.persisted) embedded ? session.join() : begin(); });
if (embedded) {
  arriveInFrame();
} else {
  onSubmit(by("sign-in"), signIn);
  by("sign-out").addEventListener("click", () => signOut());
  window.addEventListener("hashchange", arrive);
  arrive();
}
