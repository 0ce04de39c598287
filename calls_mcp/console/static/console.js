"use strict";

const room = document.body.dataset.room;

/* A card that is decided or lapsed stays where it is, lest a click or a key meet the next one. */
function settle(card) {
  if (card.inert) return;
  if (card.contains(document.activeElement)) document.getElementById("main").focus();
  card.inert = true;
  card.querySelector("h2").append(" · decided elsewhere, or lapsed");
}

const stays = (node) => (node?.inert ? stays(node.nextSibling) : node);

/* What changes on the server changes here node by node, so that focus, scroll and typing stay. */
function morph(here, there) {
  if (here.isEqualNode(there)) return;
  if (here.nodeType !== Node.ELEMENT_NODE) {
    here.nodeValue = there.nodeValue;
    return;
  }
  for (const { name } of [...here.attributes]) if (!there.hasAttribute(name)) here.removeAttribute(name);
  for (const { name, value } of there.attributes) if (here.getAttribute(name) !== value) here.setAttribute(name, value);
  const wanted = new Set([...there.children].map((child) => child.id));
  for (const child of [...here.children]) {
    if (!child.id || wanted.has(child.id)) continue;
    if (child.matches("article")) settle(child);
    else child.remove();
  }
  let at = stays(here.firstChild);
  for (const child of there.childNodes) {
    const same = child.id
      ? [...here.children].find((each) => each.id === child.id)
      : at && !at.id && at.nodeName === child.nodeName && at;
    if (!same) here.insertBefore(document.importNode(child, true), at);
    else if (same === at) at = stays(at.nextSibling);
    else here.insertBefore(same, at);
    if (same) morph(same, child);
  }
  while (at) {
    const next = stays(at.nextSibling);
    at.remove();
    at = next;
  }
}

const trouble = document.getElementById("trouble");

/* What is shown is out of date: silence would look like nothing new. */
function warn(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
  if (text && !document.title.startsWith("! ")) document.title = `! ${document.title}`;
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } }).catch(() => null);
  if (answer?.status === 401) return warn("You are not in any more, and this is out of date: come in again.");
  if (!answer?.ok) return warn("The console does not answer, so this may be out of date. It is asked again.");
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const had = document.activeElement;
  for (const here of document.querySelectorAll("[data-live]")) {
    const there = page.querySelector(`[data-live="${here.dataset.live}"]`);
    if (there) morph(here, there);
  }
  document.title = page.title;
  warn("");
  tick();
  if (!had.isConnected) {
    const next = had.id && document.getElementById(had.id);
    (next || document.getElementById("main")).focus();
  }
}

function tick() {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = span(now - Number(e.dataset.since));
  for (const e of document.querySelectorAll("[data-until]")) {
    const left = Math.max(0, Number(e.dataset.until) - now);
    if (e.localName === "progress") e.value = left;
    else e.textContent = span(left);
  }
}

function span(seconds) {
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
  const there = {
    j: () => card.nextElementSibling,
    k: () => card.previousElementSibling,
    a: () => card.querySelector("[data-key=a]"),
    d: () => card.querySelector("[data-key=d]"),
  }[event.key]?.();
  if (!there) return;
  event.preventDefault();
  there.focus();
}

/* Permission is asked for by the button alone; what a notification says has no text of a call. */
const bell = document.querySelector("[data-notify]");
const waiting = () => Number(document.querySelector("[data-count]")?.dataset.count ?? 0);

function offer() {
  bell.hidden = Notification.permission !== "default";
}

function notify(before) {
  const now = waiting();
  if (now <= before || !document.hidden || Notification.permission !== "granted") return;
  const text = now === 1 ? "1 change waits" : `${now} changes wait`;
  const notice = new Notification(`${text} for your decision`, { tag: "waiting", icon: "/static/icon.svg" });
  notice.addEventListener("click", () => window.focus());
}

/* One look at a time, lest an older page come last. */
let isLooking = false;
let isNews = false;

async function onNews() {
  isNews = true;
  if (isLooking) return;
  isLooking = true;
  try {
    while (isNews) {
      isNews = false;
      const before = waiting();
      await refresh();
      if (bell && "Notification" in window) notify(before);
    }
  } finally {
    isLooking = false;
  }
}

/* A browser has six connections to a server: one tab listens to it, and tells the others. */
function listen(told) {
  const others = new BroadcastChannel(room);
  const tell = () => {
    others.postMessage("");
    told();
  };
  const hear = () =>
    new Promise((end) => {
      const news = new EventSource(`/events?topic=${room}`);
      news.addEventListener("message", tell);
      news.addEventListener("error", () => {
        tell();
        if (news.readyState === EventSource.CLOSED) setTimeout(end, 5000);
      });
    });
  const take = () => navigator.locks.request(room, hear).then(take); // until the tab is closed
  others.addEventListener("message", told);
  take();
  told();
}

if (bell && "Notification" in window) {
  bell.addEventListener("click", () => Notification.requestPermission().then(offer));
  offer();
}
if (room) {
  listen(onNews);
  document.addEventListener("keydown", onKey);
  setInterval(tick, 1000);
  setInterval(() => document.querySelector("[data-again]") && !document.hidden && onNews(), 2000);
}
