// A table of payments that follows /live: rows come in newest first, changed ones change in place, at most data-most stay. It can be
// paused; what comes meanwhile waits. Where the connection stands is said in words. Figures around it are asked for again when
// something happens, at most every five seconds. A hidden page lets go of its connection after a minute: browsers have few.
"use strict";
(() => {
  const box = document.querySelector("[data-live]");
  if (!box) return;
  const one = (selector) => box.querySelector(selector);
  const words = JSON.parse(box.dataset.words);
  const most = Number(box.dataset.most);
  const body = one("tbody");
  const button = one("[data-live-pause]");
  const WAITING_MAX = 200, HIDDEN_MS = 60_000, AWAY_MS = 300_000, TOLD_MS = 30_000, FIGURES_MS = 5_000;
  let after = box.dataset.after;
  let source = null, paused = false, overflowed = false, hiddenAt = 0, failures = 0;
  const waiting = new Map();

  // -- Words --------------------------------------------------------------------------------------------------------------------
  let state = "", saying = 0;
  function say(word, look, delay = 0) {
    clearTimeout(saying);
    saying = setTimeout(() => {
      if (state === word) return;
      state = word;
      box.dataset.state = look;
      one("[data-live-word]").textContent = words[word];
      one("[data-live-sign-in]").hidden = word !== "signed_out";
    }, delay);
  }
  const isLive = () => (paused ? say("paused", "paused") : say("live", "live"));
  function label() {
    const count = overflowed ? `${WAITING_MAX}+` : String(waiting.size);
    one("[data-live-button]").textContent = !paused ? words.pause : waiting.size ? words.waiting.replace("{count}", count) : words.resume;
  }
  // One short sentence now and then, not one per payment.
  let untold = new Set(), telling = 0;
  function tell(id) {
    untold.add(id);
    telling ||= setTimeout(() => {
      one("[data-live-told]").textContent = words.told.replace("{count}", String(untold.size));
      untold = new Set();
      telling = 0;
    }, TOLD_MS);
  }

  // -- Rows ---------------------------------------------------------------------------------------------------------------------
  function rowOf(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return template.content.querySelector("tr");
  }
  function put(row) {
    const old = document.getElementById(row.id);
    if (old) {
      if (Number(row.dataset.sequence) < Number(old.dataset.sequence)) return;
      const focused = old.contains(document.activeElement);
      old.replaceWith(row);
      if (focused) row.querySelector("a")?.focus();
    } else {
      const at = Number(row.dataset.at);
      const next = [...body.rows].find((each) => Number(each.dataset.at) <= at);
      if (!next && body.rows.length >= most) return;
      body.insertBefore(row, next || null);
      while (body.rows.length > most) body.rows[body.rows.length - 1].remove();
    }
    row.classList.add("new");
    one("[data-live-empty]").hidden = true;
    one("[data-live-table]").hidden = false;
    tell(row.id);
  }
  function receive(event) {
    after = event.lastEventId || after;
    stir();
    if (event.type !== "payment") return;
    const row = rowOf(event.data);
    if (!row) return;
    if (!paused) { put(row); return; }
    waiting.set(row.id, row);
    if (waiting.size > WAITING_MAX) { waiting.delete(waiting.keys().next().value); overflowed = true; }
    label();
  }
  async function resume() {
    paused = false;
    if (overflowed) await renew();
    else waiting.forEach((row) => put(row));
    waiting.clear();
    overflowed = false;
    label();
    if (source && source.readyState === EventSource.OPEN) isLive();
  }
  button.addEventListener("click", () => {
    if (paused) { resume(); return; }
    paused = true;
    label();
    if (source && source.readyState === EventSource.OPEN) isLive();
  });

  // -- The rows anew, when too much was missed to be told one by one -------------------------------------------------------------
  async function renew() {
    close();
    try {
      const answer = await fetch(`${box.dataset.newest}?of=${encodeURIComponent(box.dataset.of)}`, { headers: { "HX-Request": "true" } });
      if (!answer.ok) { await refused(answer); return; }
      const template = document.createElement("template");
      template.innerHTML = await answer.text();
      const fresh = template.content.querySelector("tbody");
      after = fresh.dataset.after;
      body.replaceChildren(...fresh.rows);
      one("[data-live-empty]").hidden = body.rows.length > 0;
      one("[data-live-table]").hidden = body.rows.length === 0;
    } catch { /* The network is away: opening the stream says so and tries again. */ }
    open();
  }

  // -- The connection -----------------------------------------------------------------------------------------------------------
  const address = () => `${box.dataset.live}?of=${encodeURIComponent(box.dataset.of)}&after=${encodeURIComponent(after)}`;
  function open() {
    close();
    source = new EventSource(address());
    const mine = source;
    source.onopen = () => { failures = 0; isLive(); };
    source.addEventListener("payment", receive);
    source.addEventListener("change", receive);
    source.onerror = () => {
      say("reconnecting", "offline", 1500);
      // The browser tries again by itself, unless it was refused: then only another request tells why.
      if (mine === source && mine.readyState === EventSource.CLOSED) ask();
    };
  }
  function close() {
    source?.close();
    source = null;
  }
  let asking = 0;
  function ask() {
    close();
    clearTimeout(asking);
    asking = setTimeout(async () => {
      const abort = new AbortController();
      try {
        const answer = await fetch(address(), { headers: { Accept: "text/event-stream" }, signal: abort.signal });
        if (answer.ok) { abort.abort(); open(); } else await refused(answer);
      } catch { failures += 1; ask(); }
    }, Math.min(30_000, 1000 * 2 ** failures));
  }
  async function refused(answer) {
    const problem = await answer.json().catch(() => ({}));
    if (answer.status === 401) say("signed_out", "offline");
    else if (answer.status === 409) say("looks_elsewhere", "offline");
    else if (answer.status === 422) { await renew(); return; }
    else if (answer.status === 403) say("failed", "offline");
    else {
      say(problem.code === "too_many_streams" ? problem.code : "reconnecting", "offline");
      failures = Math.min(failures + 1, 5);
      ask();
    }
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      hiddenAt = Date.now();
      setTimeout(() => { if (document.hidden && Date.now() - hiddenAt >= HIDDEN_MS) { clearTimeout(asking); close(); } }, HIDDEN_MS + 50);
      return;
    }
    stir();
    if (source) return;
    say("reconnecting", "connecting");
    if (Date.now() - hiddenAt > AWAY_MS && !paused) renew(); else open();
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) renew(); });

  // -- Figures ------------------------------------------------------------------------------------------------------------------
  // The server shares an answer for up to four seconds: the last event is asked about once more after that.
  let askedAt = -FIGURES_MS, happenedAt = 0, timer = 0;
  function stir() {
    happenedAt = performance.now();
    if (!document.hidden) timer ||= setTimeout(figures, Math.max(1000, askedAt + FIGURES_MS - happenedAt));
  }
  function figures() {
    timer = 0;
    askedAt = performance.now();
    htmx.trigger("#now", "stir");
    if (askedAt - happenedAt < FIGURES_MS) timer = setTimeout(figures, FIGURES_MS);
  }

  button.hidden = false;
  say("connecting", "connecting");
  open();
})();
