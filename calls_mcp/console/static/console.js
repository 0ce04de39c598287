"use strict";

const topic = document.body.dataset.topic;

/* A card that is decided or lapsed stays where it is, lest a click or a key meet the next one. */
function disable(card) {
  if (card.inert) return;
  if (card.contains(document.activeElement)) document.getElementById("main").focus();
  card.inert = true;
  card.querySelector("h2").append(" · decided elsewhere, or lapsed");
}

const skipInert = (node) => (node?.inert ? skipInert(node.nextSibling) : node);

/* What changes on the server changes here node by node, so that focus, scroll and typing stay. */
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

/* If the page may be out of date it says so: silence would look like nothing new. */
const alertNote = document.getElementById("alert");

function showAlert(text) {
  alertNote.textContent = text;
  alertNote.hidden = !text;
  if (text && !document.title.startsWith("! ")) document.title = `! ${document.title}`;
}

async function refresh() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (response?.status === 401) return showAlert("You are not in any more, and this is out of date: come in again.");
  if (!response?.ok) return showAlert("The console does not answer, so this may be out of date. It is asked again.");
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

/* Keys count only inside a card, so that nobody presses one unawares. */
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

/* Only the button asks for permission; a notification contains no text of a call. */
const notifyButton = document.querySelector("[data-notify]");
const pendingCount = () => Number(document.querySelector("[data-count]")?.dataset.count ?? 0);

function updateNotifyButton() {
  notifyButton.hidden = Notification.permission !== "default";
}

function notify(before) {
  const now = pendingCount();
  if (now <= before || !document.hidden || Notification.permission !== "granted") return;
  const text = now === 1 ? "1 change waits" : `${now} changes wait`;
  const notice = new Notification(`${text} for your decision`, { tag: "approvals", icon: "/static/icon.svg" });
  notice.addEventListener("click", () => window.focus());
}

/* One request at a time, so that an older page never replaces a newer one. */
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

/* A browser has six connections to a server: one tab listens to it, and tells the others. */
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
