"use strict";

const topic = document.body.dataset.topic;

/* Cookies are sent to every port of a host. What is stored here, only pages of this origin can read. */
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

/* Keep a card that was decided elsewhere or expired, so that no click or key hits the next card instead. */
function disable(card) {
  if (card.inert) return;
  if (card.contains(document.activeElement)) document.getElementById("main").focus();
  card.inert = true;
  card.querySelector("h2").append(" · decided elsewhere or expired");
}

const skipInert = (node) => (node?.inert ? skipInert(node.nextSibling) : node);

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
    if (!child.id || ids.has(child.id)) continue;
    if (child.matches("article")) disable(child);
    else child.remove();
  }
  let next = skipInert(current.firstChild);
  for (const child of wanted.childNodes) {
    const same = child.id
      ? [...current.children].find((each) => each.id === child.id)
      : next && !next.id && next.nodeName === child.nodeName && next;
    if (!same) current.insertBefore(document.importNode(child, true), next);
    else if (same === next) next = skipInert(next.nextSibling);
    else current.insertBefore(same, next);
    if (same) morph(same, child);
  }
  while (next) {
    const rest = skipInert(next.nextSibling);
    next.remove();
    next = rest;
  }
}

function morphAttributes(current, wanted) {
  for (const { name } of [...current.attributes]) if (!wanted.hasAttribute(name)) current.removeAttribute(name);
  for (const { name, value } of wanted.attributes) if (current.getAttribute(name) !== value) current.setAttribute(name, value);
}

/* Warn when the page may be out of date, because it would look current otherwise. */
const alertNote = document.getElementById("alert");

function showAlert(text) {
  alertNote.textContent = text;
  alertNote.hidden = !text;
  if (text && !document.title.startsWith("! ")) document.title = `! ${document.title}`;
}

async function refresh() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (response?.status === 401) return showAlert("You are signed out, and this page is out of date. Reload it to sign in again.");
  if (!response?.ok) return showAlert("The console does not respond, so this page may be out of date. Retrying…");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const focused = document.activeElement;
  for (const current of document.querySelectorAll("[data-live]")) {
    const wanted = page.querySelector(`[data-live="${current.dataset.live}"]`);
    if (wanted) morph(current, wanted);
  }
  document.title = page.title;
  showAlert("");
  updateTimes();
  if (!focused.isConnected) {
    const same = focused.id && document.getElementById(focused.id);
    (same || document.getElementById("main")).focus();
  }
}

function updateTimes() {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = formatDuration(now - Number(e.dataset.since));
  for (const e of document.querySelectorAll("[data-until]")) {
    const left = Math.max(0, Number(e.dataset.until) - now);
    if (e.localName === "progress") e.value = left;
    else e.textContent = formatDuration(left);
  }
}

function formatDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole >= 86400) return `${Math.floor(whole / 86400)} d`;
  if (whole >= 3600) return `${Math.floor(whole / 3600)} h`;
  if (whole >= 120) return `${Math.floor(whole / 60)} min`;
  return `${whole} s`;
}

/* Shortcuts work only inside a card, so that a stray key press does nothing. */
function onKey(event) {
  const card = event.target.closest?.(".card[id]");
  if (!card || event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = {
    j: () => card.nextElementSibling,
    k: () => card.previousElementSibling,
    a: () => card.querySelector("[data-key=a]"),
    d: () => card.querySelector("[data-key=d]"),
  }[event.key]?.();
  if (!target) return;
  event.preventDefault();
  target.focus();
}

/* Only the button asks for permission. Notifications contain no text from calls. */
const notifyButton = document.querySelector("[data-notify]");
const pendingCount = () => Number(document.querySelector("[data-count]")?.dataset.count ?? 0);

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
function subscribe() {
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
  onChange();
}

if (notifyButton && "Notification" in window) {
  notifyButton.addEventListener("click", () => Notification.requestPermission().then(updateNotifyButton));
  updateNotifyButton();
}
if (topic) {
  subscribe();
  document.addEventListener("keydown", onKey);
  setInterval(updateTimes, 1000);
  setInterval(() => document.querySelector("[data-poll]") && !document.hidden && onChange(), 2000);
}
