"use strict";

const topics = document.body.dataset.topics.split(" ").filter(Boolean);

/* Cookies are sent to every port of a host. Only pages of this origin can read what is stored here. */
const CODE = "decision-code";

function storage(use) {
  try {
    return use(localStorage);
  } catch {
    return null; // the browser blocks it, so the operator fills the code in
  }
}

function storeIssuedCode() {
  const issued = document.querySelector("[data-code]");
  if (!issued) return;
  storage((store) => {
    store.setItem(CODE, issued.dataset.code);
    location.replace(issued.href);
  });
}

const readCode = () => storage((store) => store.getItem(CODE));

function fillInCode(event) {
  const field = event.target.elements.code;
  if (field && !field.value) field.value = readCode() ?? "";
}

storeIssuedCode();
document.documentElement.classList.toggle("has-code", Boolean(readCode()));
document.addEventListener("submit", fillInCode);

/* Update the page node by node, so that focus, scroll position and typed text stay. */
function morph(current, wanted) {
  if (current.isEqualNode(wanted)) return;
  if (current.nodeType !== Node.ELEMENT_NODE) {
    current.nodeValue = wanted.nodeValue;
    return;
  }
  morphAttributes(current, wanted);
  const ids = new Set([...wanted.children].map((child) => child.id));
  for (const child of [...current.children]) {
    if (child.id && !ids.has(child.id)) child.remove();
  }
  let next = skipBlank(current.firstChild);
  for (const child of wanted.childNodes) {
    if (isBlank(child)) continue;
    const same = child.id ? [...current.children].find((each) => each.id === child.id) : findAlike(next, child);
    if (!same) {
      current.insertBefore(document.importNode(child, true), next);
      continue;
    }
    // Remove the nodes before it. Moving it instead would lose the focus.
    while (next !== same && next && !next.id) next = removed(next);
    if (next === same) next = skipBlank(next.nextSibling);
    else current.insertBefore(same, next);
    morph(same, child);
  }
  while (next) next = removed(next);
}

const isBlank = (node) => node?.nodeType === Node.TEXT_NODE && !node.nodeValue.trim();
const skipBlank = (node) => (isBlank(node) ? skipBlank(node.nextSibling) : node);

/* Find a node like `wanted` from `node` on, but not beyond one with an id. */
function findAlike(node, wanted) {
  if (!node || node.id) return null;
  if (node.nodeName === wanted.nodeName && node.className === wanted.className) return node;
  return findAlike(skipBlank(node.nextSibling), wanted);
}

function removed(node) {
  const next = skipBlank(node.nextSibling);
  node.remove();
  return next;
}

function morphAttributes(current, wanted) {
  for (const { name } of [...current.attributes]) if (!wanted.hasAttribute(name)) current.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (current.getAttribute(name) !== value) current.setAttribute(name, value);
}

/* Warn when the page may be out of date, because it would look current otherwise. */
const alertNote = document.getElementById("alert");

function updateTitle() {
  const { count } = document.querySelector("[data-live=nav]")?.dataset ?? {};
  const rest = document.title.replace(/^(! )?(\(\d+\) )?/, "");
  document.title = (alertNote?.textContent ? "! " : "") + (Number(count) ? `(${count}) ` : "") + rest;
}

function showAlert(text) {
  alertNote.textContent = text;
  alertNote.hidden = !text;
  updateTitle();
}

/* Every page shows the pending count. If nothing else on it is live, a page that renders quickly has it. */
const onlyCounts = document.querySelectorAll("[data-live]").length === 1;

/* The queue moves on, so the page names the request that it shows: an update never replaces it with another. */
const ownAddress = () => document.querySelector("[data-self]")?.dataset.self ?? (onlyCounts ? "/policy" : location.href);

async function refresh() {
  const response = await fetch(ownAddress(), { headers: { Accept: "text/html" } }).catch(() => null);
  if (response?.status === 401) return showAlert("You are signed out, and this page is out of date. Reload it to sign in again.");
  if (!response?.ok && response?.status !== 400) return showAlert("The console does not respond, so this page may be out of date. Retrying…");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const focused = document.activeElement;
  for (const current of document.querySelectorAll("[data-live]")) {
    const wanted = page.querySelector(`[data-live="${current.dataset.live}"]`);
    if (wanted) morph(current, wanted);
  }
  showAlert("");
  updateTimes();
  localizeTimes();
  if (!focused.isConnected) {
    const same = focused.id && document.getElementById(focused.id);
    (same || document.getElementById("main")).focus();
  }
}

function updateTimes() {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll("[data-since]")) {
    e.textContent = ("exact" in e.dataset ? lengthOfTime : formatDuration)(now - Number(e.dataset.since));
  }
  for (const e of document.querySelectorAll("[data-until]")) {
    e.textContent = formatDuration(Number(e.dataset.until) - now);
  }
}

/* A duration in its main unit. */
function formatDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return whole < 120 ? `${whole} s` : lengthOfTime(whole).split(" ", 2).join(" ");
}

function lengthOfTime(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const parts = [[Math.floor(whole / 3600), "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  return parts.filter(([amount]) => amount).map((part) => part.join(" ")).join(" ") || "0 s";
}

/* The title of a time keeps it in UTC. */
const FORMATS = {
  recent: new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "numeric", minute: "2-digit" }),
  datetime: new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" }),
  date: new Intl.DateTimeFormat(undefined, { dateStyle: "medium" }),
  time: new Intl.DateTimeFormat(undefined, { timeStyle: "medium" }),
};

function localizeTimes() {
  for (const e of document.querySelectorAll("time[data-local]")) {
    const time = new Date(e.dateTime);
    if (Number.isNaN(time.getTime())) continue;
    const isRecent = e.dataset.local === "datetime" && time.getFullYear() === new Date().getFullYear();
    e.textContent = FORMATS[isRecent ? "recent" : e.dataset.local].format(time);
  }
}

/* Keys move the focus or open a page. Only Enter decides. */
const NO_SHORTCUTS = "no-shortcuts";
const shortcuts = document.getElementById("shortcuts");
const isTyping = (element) => element.matches("input:not([type=checkbox]), select, textarea");

function step(by) {
  const rows = [...document.querySelectorAll(".queue li a")];
  rows[rows.findIndex((row) => row.ariaCurrent) + by]?.click();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
  if (event.key === "?") {
    if (shortcuts?.open) shortcuts.close();
    else shortcuts?.showModal();
    return;
  }
  if (shortcuts?.open || storage((store) => store.getItem(NO_SHORTCUTS))) return;
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
  const target = /^[ad]$/.test(event.key) && document.querySelector(`[data-key=${event.key}]`);
  if (!target) return;
  event.preventDefault();
  target.focus();
}

/* A second click may come after the next request has taken the place of the first. */
function ignoreDoubleClick(event) {
  if (event.detail > 1 && event.target.closest("button, .button")) event.preventDefault();
}

function setUpShortcuts() {
  const choice = shortcuts.querySelector("[data-shortcuts]");
  choice.checked = !storage((store) => store.getItem(NO_SHORTCUTS));
  choice.addEventListener("change", () =>
    storage((store) => (choice.checked ? store.removeItem(NO_SHORTCUTS) : store.setItem(NO_SHORTCUTS, "1"))),
  );
  document.addEventListener("keydown", onKey);
}

const notifyButton = document.querySelector("[data-notify]");

const pendingCount = () => Number(document.querySelector("[data-live=nav]")?.dataset.count ?? 0);

function updateNotifyButton() {
  notifyButton.hidden = Notification.permission !== "default";
}

function notify(before) {
  const now = pendingCount();
  if (now <= before || !document.hidden || Notification.permission !== "granted") return;
  const text = `${now} pending approval request${now === 1 ? "" : "s"}`;
  const notice = new Notification(text, { tag: "approvals", icon: "/static/icon.svg" });
  notice.addEventListener("click", () => window.focus());
}

/* Send one request at a time, so that an older page never replaces a newer one. */
let isRefreshing = false;
let isStale = false;

async function onChange() {
  isStale = true;
  if (isRefreshing) return;
  isRefreshing = true;
  try {
    while (isStale) {
      isStale = false;
      const before = pendingCount();
      await refresh();
      if (notifyButton && "Notification" in window) notify(before);
    }
  } finally {
    isRefreshing = false;
  }
}

/* A browser opens six connections to a server at most, so one tab listens and notifies the others. */
function subscribe(topic) {
  const otherTabs = new BroadcastChannel(topic);
  const publish = () => {
    otherTabs.postMessage("");
    onChange();
  };
  const listen = () =>
    new Promise((end) => {
      const source = new EventSource(`/events?topic=${topic}`);
      source.addEventListener("message", publish);
      source.addEventListener("error", () => {
        publish();
        if (source.readyState === EventSource.CLOSED) setTimeout(end, 5000);
      });
    });
  const holdLock = () => navigator.locks.request(topic, listen).then(holdLock); // until the tab is closed
  otherTabs.addEventListener("message", onChange);
  holdLock();
}

if (notifyButton && "Notification" in window) {
  notifyButton.addEventListener("click", () => Notification.requestPermission().then(updateNotifyButton));
  updateNotifyButton();
}
function setUpCopying(button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.textContent = "Copied";
  });
}

/* The server counts, filters and writes in this time zone. */
const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
if (timeZone) document.cookie = `zone=${timeZone}; path=/; samesite=strict; max-age=31536000`;

localizeTimes();
if (navigator.clipboard) document.querySelectorAll("[data-copy]").forEach(setUpCopying);
document.addEventListener("click", ignoreDoubleClick);
if (shortcuts) setUpShortcuts();
document.querySelector(".queue [aria-current]")?.scrollIntoView({ block: "nearest" });
if (topics.length) {
  topics.forEach(subscribe);
  onChange();
  setInterval(updateTimes, 1000);
  setInterval(() => document.querySelector("[data-poll]") && !document.hidden && onChange(), 2000);
}
