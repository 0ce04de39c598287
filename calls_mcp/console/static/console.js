"use strict";

const room = document.body.dataset.room;

/* What changes on the server changes here: cards by their ids, so that what is being typed stays. */
function mergeCards(here, there) {
  const wanted = [...there.children];
  const ids = new Set(wanted.map((card) => card.id));
  for (const card of [...here.children]) {
    if (!ids.has(card.id)) card.remove();
  }
  for (const card of wanted) {
    if (!document.getElementById(card.id)) here.append(document.importNode(card, true));
  }
}

async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const here of document.querySelectorAll("[data-live]")) {
    const there = page.querySelector(`[data-live="${here.dataset.live}"]`);
    if (!there) continue;
    if (here.dataset.live === "cases") mergeCards(here, there);
    else if (!here.contains(document.activeElement)) here.replaceWith(document.importNode(there, true));
  }
  document.title = page.title;
}

function tick() {
  const now = Date.now() / 1000;
  for (const e of document.querySelectorAll("[data-since]")) e.textContent = span(now - Number(e.dataset.since));
  for (const e of document.querySelectorAll("[data-until]")) e.textContent = span(Number(e.dataset.until) - now);
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
  const card = event.target.closest?.(".card");
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

/* A browser has six connections to a server: one tab listens to it, and tells the others. */
function listen(told) {
  const others = new BroadcastChannel(room);
  const hear = () =>
    new Promise((end) => {
      const news = new EventSource(`/events?room=${room}`);
      news.addEventListener("message", () => {
        others.postMessage("");
        told();
      });
      news.addEventListener("error", () => news.readyState === EventSource.CLOSED && end());
    });
  others.addEventListener("message", told);
  navigator.locks.request(room, hear); // until the tab is closed: then it is another's turn
  told();
}

if (room) {
  listen(refresh);
  document.addEventListener("keydown", onKey);
  setInterval(tick, 1000);
}
