// The queue: shows one comment at a time and turns key presses into decisions.
//
// Every press carries the number of the comment that was on the screen, and a key of its own. Presses leave in their order
// through one outbox; one that finds no server stays in it and is sent again with the same key, which the store counts once.
// HTML comes from desk/card.py only, where every piece of it is escaped; texts from elsewhere go through textContent.
"use strict";

(() => {
  const LABELS = ["on-topic", "off-topic", "spam", "low-effort"];
  const CALLED = { "on-topic": "On-topic", "off-topic": "Off-topic", spam: "Spam", "low-effort": "Low-effort" };
  const CLAIMING = ["undecided", "disputed", "flagged"];
  const AHEAD = 6;        // comments held ready behind the one that is shown
  const DWELL = 250;      // milliseconds that a comment must have been on the screen before a press counts for it
  const RENEW = 120_000;  // a claim lasts five minutes
  const KEEP = 300;       // comments that `k` can go back to

  let root = null;
  let choice = {};         // the filter and order, as `read` gives them
  let trail = [];         // {id, seen, label, model, html, state, note, shownFor}
  let at = 0;
  let shownAt = 0;        // when the comment on the screen appeared
  let outbox = [];        // what has not been answered yet, in order
  let sending = false;
  let undoing = false;
  let fetching = false;   // whether a request for more is under way
  let round = 0;          // grows with each change of the filter; answers to older questions are dropped
  let after = null;
  let ended = false;
  let waiting = 0;        // what the last failed request must wait, milliseconds
  let counted = 0;
  let unwanted = [];      // claimed, but not fitting the filter of now; given back with the next question

  const $ = (id) => document.getElementById(id);
  const current = () => trail[at];
  const newKey = () => crypto.randomUUID ? crypto.randomUUID() : [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  class Refused extends Error {
    constructor(status, text) { super(text); this.status = status; }
  }

  async function post(path, body) {
    const answer = await fetch(`/desk/queue/${path}`, {
      method: "POST",
      headers: { "content-type": "application/json", "x-desk-user": encodeURIComponent(window.deskUser.name).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`) },
      body: JSON.stringify(body),
      keepalive: JSON.stringify(body).length < 30_000,  // a reload does not cut it off
    });
    if (answer.ok) return answer.json();
    let detail = `the server answered ${answer.status}`;
    try {
      const said = (await answer.json()).detail;
      if (typeof said === "string") detail = said;
    } catch { /* no JSON: a proxy's page */ }
    throw new Refused(answer.status, detail);
  }

  // ---- what is on the screen ---------------------------------------------------------------------------------------

  function show() {
    const stage = $("q-stage");
    if (!stage) return;
    const entry = current();
    stage.replaceChildren();
    shownAt = performance.now();
    stage.dataset.shown = shownAt;
    if (!entry) {
      stage.append(empty());
      $("q-agree").textContent = "";
    } else {
      const holder = document.createElement("div");
      holder.innerHTML = entry.html;  // from desk/card.py
      stage.append(holder);
      stage.dataset.id = entry.id;
      mark(entry);
      wayToBulk(holder, entry);
      $("q-agree").textContent = entry.model ? `: ${CALLED[entry.model]}` : "";
      const near = holder.querySelector(".nearest");
      const box = holder.querySelector(".context");
      const below = near && box ? near.getBoundingClientRect().bottom - box.getBoundingClientRect().bottom + 16 : 0;
      if (below > 0 && box.scrollHeight > box.clientHeight) box.scrollTop += below;
      scrollTo({ top: 0 });
    }
    if (!entry) delete stage.dataset.id;
    $("q-note").value = entry?.note ?? "";
    noteField(Boolean(entry?.note));
    buttons();
    explain();
  }

  function mark(entry) {
    const card = $("q-stage").querySelector(".card");
    if (!card || String(entry.id) !== $("q-stage").dataset.id) return;
    card.dataset.state = entry.state;
    let line = card.querySelector(".yours");
    if (!entry.mine && entry.state !== "stale") { line?.remove(); return; }
    if (!line) {
      line = document.createElement("p");
      line.className = "yours";
      card.querySelector(".comment").prepend(line);
    }
    line.textContent = entry.state === "stale" ? entry.said : `You decided: ${CALLED[entry.mine]}${entry.state === "saving" ? " (being saved)" : ""}. Another label replaces it.`;
  }

  // Who may decide many at once gets there from the list of copies.
  function wayToBulk(holder, entry) {
    const list = holder.querySelector(".same");
    if (!list || window.deskUser.role === "moderator") return;
    const go = document.createElement("button");
    go.type = "button";
    go.className = "plain";
    go.textContent = "Decide them all in Bulk";
    go.addEventListener("click", async () => {
      (await found("[role=tab]", "Bulk")).click();
      await found("#bulk-count, #bulk-count *", "", (one) => one.dataset.listens);
      document.dispatchEvent(new CustomEvent("desk-copies", { detail: entry.id }));
    });
    list.append(go);
  }

  // An element that Gradio is about to draw.
  async function found(selector, text = "", right = () => true) {
    for (let tries = 0; tries < 600; tries++) {
      const element = [...document.querySelectorAll(selector)].find((one) => one.offsetParent && one.textContent.includes(text) && right(one));
      if (element) return element;
      await new Promise((done) => setTimeout(done, 50));
    }
    throw new Error(`nothing like ${selector} came`);
  }

  function empty() {
    const box = document.createElement("div");
    box.className = "empty";
    const title = document.createElement("h2");
    const text = document.createElement("p");
    box.append(title, text);
    if (fetching || !ended) {
      title.textContent = "Fetching comments …";
    } else {
      title.textContent = choice.show === "undecided" && plain() ? "All done" : "Nothing more here";
      text.textContent = choice.show === "undecided" && plain()
        ? "Every comment is decided, or before another moderator right now."
        : `No further comment fits these filters.${CLAIMING.includes(choice.show) ? " Those before other moderators are left out." : ""}`;
      const again = document.createElement("button");
      again.type = "button";
      again.className = "main";
      again.textContent = "Look again";
      again.addEventListener("click", () => { ended = false; after = null; more(); show(); });
      box.append(again);
    }
    return box;
  }

  function buttons() {
    const entry = current();
    root.dataset.ahead = Math.max(0, trail.length - at - 1);
    for (const button of root.querySelectorAll(".bar-bottom [data-label]")) {
      button.disabled = !entry;
      button.setAttribute("aria-pressed", String(entry?.mine === button.dataset.label));
    }
    const set = (name, off) => { root.querySelector(`[data-do=${name}]`).disabled = off; };
    set("accept", !entry?.model);
    set("skip", !entry);
    set("note", !entry);
    set("previous", at <= 0);
    set("next", at >= trail.length);
    set("undo", undoing);
  }

  function notice(text, kind = "", action = null) {
    const box = $("q-notice");
    box.replaceChildren(document.createTextNode(text));
    box.hidden = !text;
    box.className = `notice ${kind}`;
    if (action) box.append(" ", action);
  }

  function status() {
    const open = outbox.filter((one) => one.path === "decide").length;
    const state = $("q-state");
    if (!state) return;
    state.textContent = !outbox.length ? "All saved" : waiting ? `${open} not saved yet, trying again` : "Saving …";
    state.className = !outbox.length ? "saved" : waiting ? "unsaved" : "saving";
    root.dataset.unsaved = outbox.length;
  }

  function last(text, label = "") {
    const place = $("q-last");
    place.textContent = text;
    place.className = label ? `chip ${label}` : "";
    $("q-live").textContent = text;
  }

  // ---- the next comments -------------------------------------------------------------------------------------------

  function entryOf(item) {
    return { ...item, state: "open", mine: "", note: "" };
  }

  // One question at a time: answers to two at once could come in the wrong order.
  async function more() {
    if (fetching || ended) return;
    fetching = true;
    const asked = round;
    const release = unwanted.splice(0);
    // What was skipped is wanted again only when nothing else is left.
    const left = trail.some((one, place) => one.state === "open" && place >= at) || outbox.length > 0;
    const have = trail.filter((one) => left || one.state !== "skipped").slice(-900).map((one) => one.id);
    let pause = 0;
    try {
      const got = await post("next", { choice, n: trail.length > at ? AHEAD : 2, have, after, release });
      if (asked === round) take(got); else unwanted.push(...got.items.map((one) => one.id));
    } catch (error) {
      unwanted.push(...release);
      if (gone(error)) pause = Infinity;
      else pause = 1500;
    }
    fetching = false;
    if (pause === Infinity) return;
    if (pause) setTimeout(more, pause);
    else if (asked !== round || trail.length - at <= AHEAD) more();
    if (!current()) show();
  }

  function take(got) {
    const back = new Set(got.items.map((one) => one.id));
    trail = trail.filter((one, place) => {
      const again = one.state === "skipped" && back.has(one.id);
      if (again && place < at) at -= 1;
      return !again;
    });
    const known = new Set(trail.map((one) => one.id));
    const fresh = got.items.filter((one) => !known.has(one.id)).map(entryOf);
    const blank = !current();
    trail.push(...fresh);
    after = got.after;
    ended = !fresh.length || (got.end && !CLAIMING.includes(choice.show));
    if (at > KEEP + 50) { trail.splice(0, at - KEEP); at = KEEP; }
    if (!outbox.length && $("q-notice").classList.contains("lost")) notice("");
    if (blank && fresh.length) { at = trail.length - fresh.length; show(); }
    buttons();
    explain();
  }

  // Keeps what is held ready for another while, and lets go of what is ours no longer: decided in bulk, or given to another
  // while nobody looked. What is on the screen goes only when one comes back to it.
  async function keep(back) {
    if (!window.deskUser || !CLAIMING.includes(choice.show) || document.hidden) return;
    const open = trail.filter((one) => one.state === "open").slice(-20);
    if (!open.length) return;
    const asked = round;
    let held;
    try { held = new Set((await post("hold", { choice, have: open.map((one) => one.id) })).held); } catch { return; }
    if (asked !== round || undoing) return;
    const shown = current();
    const lost = new Set(open.filter((one) => one.state === "open" && !held.has(one.id) && (back || one !== shown)));
    if (!lost.size) return;
    at -= trail.slice(0, at).filter((one) => lost.has(one)).length;
    trail = trail.filter((one) => !lost.has(one));
    if (lost.has(shown)) show(); else buttons();
    ended = false;
    more();
  }

  // The words that spoke for the label: fetched for the comment on the screen and the two behind it.
  let explaining = false;
  async function explain() {
    if (explaining) return;
    const entry = trail.slice(Math.max(at, 0), at + 3).find((one) => !one.why && !one.asked);
    if (!entry) return;
    explaining = entry.asked = true;
    try {
      const { html } = await post("why", { id: entry.id });
      entry.why = true;
      const holder = document.createElement("div");
      holder.innerHTML = entry.html;
      const place = holder.querySelector(".text");
      if (place) place.outerHTML = html;  // from desk/card.py
      entry.html = holder.innerHTML;
      if (current() === entry && String(getSelection()) === "") {
        const live = $("q-stage").querySelector(".text");
        if (live) live.outerHTML = html;
      }
    } catch { /* the comment can be judged without */ }
    explaining = false;
    setTimeout(explain, 0);
  }

  // ---- pressing ----------------------------------------------------------------------------------------------------

  // By the time of the press itself: one that the browser handles late was meant for the comment before.
  let pressedAt = 0;
  function tooFast() {
    if (pressedAt - shownAt >= DWELL) return false;
    last("Too fast: not counted");
    return true;
  }

  function decide(label) {
    const entry = current();
    if (!entry || !label || undoing || tooFast()) return;
    const seconds = entry.mine ? null : (performance.now() - shownAt) / 1000;
    entry.mine = label;
    entry.state = "saving";
    entry.note = $("q-note").value;
    outbox.push({ path: "decide", entry, body: { id: entry.id, label, key: newKey(), seconds, note: entry.note } });
    last(`${CALLED[label]}`, label);
    counted += 1;
    forward(true);
    send();
  }

  function skip() {
    const entry = current();
    if (!entry || undoing || tooFast()) return;
    outbox.push({ path: "skip", entry, body: { id: entry.id } });
    entry.state = "skipped";
    last("Skipped");
    forward(true);
    send();
  }

  function undo() {
    if (undoing) return;
    undoing = true;
    last("Taking back …");
    buttons();
    outbox.push({ path: "undo", body: { key: newKey() } });
    send();
  }

  function forward(toOpen) {
    let to = at + 1;
    if (toOpen) while (to < trail.length && trail[to].state !== "open") to += 1;
    at = Math.min(to, trail.length);
    if (!current() && trail.some((one) => one.state === "skipped")) ended = false;
    show();
    if (trail.length - at <= AHEAD) more();
  }

  function back() {
    if (at <= 0) return;
    at -= 1;
    show();
  }

  async function send() {
    status();
    if (sending) return;
    sending = true;
    while (outbox.length) {
      const one = outbox[0];
      if (one.path === "decide") one.body.seen = one.body.seen ?? one.entry.seen;
      try {
        const answer = await post(one.path, one.body);
        waiting = 0;
        outbox.shift();
        answered(one, answer);
      } catch (error) {
        if (error instanceof Refused && [400, 404, 413, 422].includes(error.status)) {  // will never be taken
          outbox.shift();
          if (one.entry) { one.entry.state = "open"; one.entry.mine = ""; mark(one.entry); }
          undoing = one.path === "undo" ? false : undoing;
          notice(`Not done: ${error.message}`, "bad");
        } else {
          gone(error);
          waiting = Math.min(5000, waiting ? waiting * 1.6 : 300);
          status();
          await new Promise((done) => setTimeout(done, waiting));
        }
      }
      status();
      buttons();
    }
    sending = false;
    if (!$("q-notice").hidden && $("q-notice").classList.contains("lost")) notice("");
    if (!current() && trail.some((one) => one.state === "skipped")) { ended = false; more(); }
    clearTimeout(counts.soon);
    counts.soon = setTimeout(counts, 1200);
  }

  function answered(one, answer) {
    const entry = one.entry;
    if (one.path === "decide") {
      if (answer.outcome === "stale") {
        entry.state = "stale";
        entry.mine = "";
        entry.seen = answer.seen;
        entry.said = `Not counted: ${answer.label ? `${answer.by} labelled it ${CALLED[answer.label].toLowerCase()} meanwhile` : answer.by ? `${answer.by} has it before them now` : "it changed meanwhile"}.`;
        last("Not counted");
        const go = document.createElement("button");
        go.type = "button";
        go.className = "plain";
        go.textContent = "Show it";
        go.addEventListener("click", () => { const place = trail.indexOf(entry); if (place >= 0) { at = place; show(); } notice(""); });
        notice(`Your “${CALLED[one.body.label]}” on comment #${entry.id} was not counted. ${entry.said}`, "bad", go);
      } else {
        entry.seen = answer.seen;
        if (!outbox.some((other) => other.path === "decide" && other.entry === entry)) entry.state = "saved";
      }
      mark(entry);
    } else if (one.path === "undo") {
      undoing = false;
      if (!answer.undone) { last("Nothing to take back"); return; }
      const { kind, label, count } = answer.undone;
      if (!answer.item) {
        last(`Taken back: ${CALLED[label]} on ${count.toLocaleString("en")} comments`);
        ended = false;
        more();
        return;
      }
      last(`Taken back: ${CALLED[label]}`);
      const place = trail.findIndex((other) => other.id === answer.item.id);
      const fresh = { ...entryOf(answer.item), note: trail[place]?.note ?? "" };
      if (fresh.label && kind === "single") fresh.mine = "";
      if (place >= 0) { trail[place] = fresh; at = place; }
      else { at = Math.max(0, at); trail.splice(at, 0, fresh); }
      show();
    }
  }

  // A request that failed. Returns whether there is no sense in sending it again by itself.
  function gone(error) {
    if (error instanceof Refused && error.status === 401) {
      const link = document.createElement("a");
      link.href = "/login";
      link.target = "_blank";
      link.rel = "noopener";
      link.textContent = "Log in again in another window";
      notice(`Your session has ended. ${outbox.length ? `${outbox.length} presses wait here and are saved once you have.` : ""}`, "lost", link);
      return false;
    }
    if (error instanceof Refused && error.status >= 400 && error.status < 500 && error.status !== 409) {
      notice(error.message, "bad");
      return true;
    }
    if (error instanceof Refused && error.status === 409) {
      notice("Another user has logged in here since. Reload the page; what was not saved yet is not counted for them.", "bad");
      return true;
    }
    notice(`The server does not answer. ${outbox.length ? "Your last presses are kept here and sent again." : ""}`, "lost");
    return false;
  }

  // ---- filters and counts ------------------------------------------------------------------------------------------

  const articles = new Map();

  function read() {
    const form = $("q-filters");
    const value = (name) => form.elements[name].value;
    const chips = (part) => [...form.querySelectorAll(`[data-part=${part}] [aria-pressed=true]`)].map((chip) => chip.dataset.value);
    const number = (name) => value(name) === "" || Number.isNaN(Number(value(name))) ? null : Math.max(0, Number(value(name)));
    const share = (name) => Math.min(100, number(name) ?? 0) / 100;
    const title = value("article-search");
    return {
      show: value("show"),
      sort: value("sort"),
      labels: chips("labels"),
      actions: chips("actions"),
      probability: value("p-label") ? [value("p-label"), Math.min(share("p-low"), share("p-high")), Math.max(share("p-low"), share("p-high"))] : null,
      article: articles.get(title) ?? null,
      site: value("site") || null,
      languages: value("language") === "*" ? [] : [value("language")],
      statuses: value("status") === "*" ? [] : [value("status")],
      min_days: number("min-days"),
      max_days: number("max-days"),
      text: value("text").trim(),
    };
  }

  const plain = () => !(choice.labels?.length || choice.actions?.length || choice.probability || choice.article || choice.site || choice.languages?.length || choice.statuses?.length || choice.min_days || choice.max_days || choice.text);

  function changed() {
    const before = choice;
    choice = read();
    if (JSON.stringify(choice) === JSON.stringify(before)) return;
    round += 1;
    if (CLAIMING.includes(before.show)) unwanted.push(...trail.filter((one) => one.state === "open").map((one) => one.id));
    // `k` still goes back to what was decided here; where one looks at decided comments they come by themselves.
    trail = choice.show === "undecided" ? trail.filter((one) => one.mine && one.state !== "stale") : [];
    at = trail.length;
    after = null;
    ended = false;
    last("");
    more();
    show();
    counts();
  }

  function options(select, values, otherwise) {
    const chosen = select.value;
    const keep = select.firstElementChild;
    select.replaceChildren(keep, ...values.map(([value, count]) => {
      const option = document.createElement("option");
      option.value = value;
      option.textContent = `${value || otherwise} (${count.toLocaleString("en")})`;
      return option;
    }));
    select.value = chosen;
    if (select.value !== chosen) select.value = keep.value;
  }

  let counting = null;
  async function counts() {
    if (counting) { counting.again = true; return; }
    const mine = counting = {};
    try {
      const form = $("q-filters");
      const got = await post("counts", choice);
      for (const option of form.elements.show.options) {
        option.dataset.name ??= option.textContent;
        option.textContent = `${option.dataset.name} (${(got.shows[option.value] ?? 0).toLocaleString("en")})`;
      }
      for (const part of ["labels", "actions"]) {
        for (const chip of form.querySelectorAll(`[data-part=${part}] button`)) {
          chip.querySelector(".n").textContent = (got[part][chip.dataset.value] ?? 0).toLocaleString("en");
        }
      }
      const sorted = (part) => Object.entries(got[part]).sort((one, other) => other[1] - one[1]).slice(0, 60);
      options(form.elements.language, sorted("languages"), "not said");
      options(form.elements.status, sorted("statuses"), "not said");
      $("q-count").textContent = `${got.total.toLocaleString("en")} ${got.total === 1 ? "comment" : "comments"} ${choice.show === "undecided" ? "to do" : "here"}${counted ? ` · ${counted.toLocaleString("en")} decided since you came` : ""}`;
    } catch { /* shown with the next */ }
    counting = null;
    if (mine.again) counts();
  }

  async function lookUp(text = "") {
    try {
      const got = await post("articles", { ...choice, text, site: $("q-filters").elements.site.value || null, show: "undecided", sort: "trouble" });
      const list = $("q-articles");
      list.replaceChildren();
      for (const one of got.articles) {
        let title = one.title.slice(0, 120);
        if (articles.has(title) && articles.get(title) !== one.id) title = `${title} (${one.id})`;
        articles.set(title, one.id);
        const option = document.createElement("option");
        option.value = title;
        option.label = `${one.undecided} to do`;
        list.append(option);
      }
      const select = $("q-filters").elements.site;
      const chosen = select.value;
      select.replaceChildren(select.firstElementChild, ...got.sites.map((site) => { const option = document.createElement("option"); option.value = option.textContent = site; return option; }));
      select.value = chosen;
      select.closest("label").hidden = got.sites.length < 2;
    } catch { /* the field stays as it is */ }
  }

  // ---- keys --------------------------------------------------------------------------------------------------------

  function noteField(open) {
    $("q-note-field").hidden = !open;
    root.querySelector("[data-do=note]").setAttribute("aria-expanded", String(open));
  }

  function note() {
    if (!current()) return;
    noteField(true);
    $("q-note").focus();
  }

  function help() {
    const dialog = $("q-help");
    if (dialog.open) dialog.close(); else dialog.showModal();
  }

  const DO = { accept: () => decide(current()?.model), skip, undo, next: () => forward(false), previous: back, note, help };
  const KEYS = { a: "accept", s: "skip", u: "undo", Backspace: "undo", j: "next", k: "previous", n: "note", "?": "help" };

  // The key's meaning, also on keyboards of other scripts, where the place of the key counts.
  function meaning(event) {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (KEYS[key] || /^[1-4]$/.test(key)) return key;
    const place = /^(?:Key([A-Z])|(?:Digit|Numpad)([1-4]))$/.exec(event.code ?? "");
    if (!place || (key.length === 1 && key.charCodeAt(0) < 128 && place[1])) return "";
    return (place[1] ?? place[2]).toLowerCase();
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing || event.defaultPrevented) return;
    if (!root || !root.isConnected || !root.offsetParent) return;  // another tab is open
    const target = event.target instanceof Element ? event.target : document.body;
    if (target.closest("input, textarea, select, [contenteditable=''], [contenteditable=true], [role=textbox]")) return;
    const key = meaning(event);
    const open = $("q-help").open;
    if (!key || (open && key !== "?") || (target.closest("dialog") && !open)) return;
    event.preventDefault();
    pressedAt = event.timeStamp;
    if (/^[1-4]$/.test(key)) decide(LABELS[key - 1]);
    else DO[KEYS[key]]?.();
  }

  // ---- beginning ---------------------------------------------------------------------------------------------------

  function chips(part, values) {
    root.querySelector(`[data-part=${part}]`).replaceChildren(...values.map(([value, name]) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = `chip ${part === "labels" ? value : ""}`;
      chip.dataset.value = value;
      chip.setAttribute("aria-pressed", "false");
      const n = document.createElement("span");
      n.className = "n";
      chip.append(name, " ", n);
      chip.addEventListener("click", () => { chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true")); changed(); });
      return chip;
    }));
  }

  function tour(open) {
    $("q-tour").hidden = !open;
    try { localStorage.setItem("desk-tour", "seen"); } catch { /* shown again next time */ }
  }

  function mount(place) {
    root = place;
    root.hidden = false;
    root.dataset.ready = "1";
    chips("labels", LABELS.map((label) => [label, CALLED[label]]));
    chips("actions", [["approve", "Approve"], ["review", "Review"], ["reject", "Reject"]]);
    const form = $("q-filters");
    let typing = 0;
    // Who has chosen goes on with the keys; who chooses by keyboard stays in the field.
    let pointed = null;
    form.addEventListener("pointerdown", (event) => { pointed = event.target.closest("select"); });
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.isComposing || !event.target.matches("input")) return;
      event.preventDefault();
      event.target.blur();
      changed();
    });
    form.addEventListener("change", (event) => {
      if (event.target.name === "site") lookUp();
      if (event.target === pointed) { pointed.blur(); pointed = null; }
      changed();
    });
    form.addEventListener("input", (event) => {
      clearTimeout(typing);
      if (event.target.name === "text") typing = setTimeout(changed, 400);
      if (event.target.name === "article-search" && !articles.has(event.target.value)) typing = setTimeout(() => lookUp(event.target.value), 300);
    });
    $("q-more").addEventListener("click", () => {
      const row = $("q-more-filters");
      row.hidden = !row.hidden;
      $("q-more").setAttribute("aria-expanded", String(!row.hidden));
    });
    $("q-reset").addEventListener("click", () => {
      form.reset();
      for (const chip of form.querySelectorAll(".chips [aria-pressed]")) chip.setAttribute("aria-pressed", "false");
      changed();
    });
    root.addEventListener("click", (event) => { pressedAt = event.timeStamp; }, true);
    for (const button of root.querySelectorAll("[data-label]")) button.addEventListener("click", () => decide(button.dataset.label));
    for (const button of root.querySelectorAll("[data-do]")) button.addEventListener("click", () => DO[button.dataset.do]());
    $("q-note").addEventListener("input", () => { if (current()) current().note = $("q-note").value; });
    $("q-note").addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      $("q-note").blur();
      if (!$("q-note").value) noteField(false);
    });
    $("q-help-close").addEventListener("click", () => $("q-help").close());
    $("q-tour-again").addEventListener("click", () => { $("q-help").close(); tour(true); });
    $("q-tour-done").addEventListener("click", () => tour(false));
    let seen = null;
    try { seen = localStorage.getItem("desk-tour"); } catch { /* no storage */ }
    $("q-tour").hidden = seen === "seen";
    choice = read();
    status();
    if (!trail.length) more(); else show();
    if (!trail.length) show();
    counts();
    lookUp();
    let seenBefore = true;
    new IntersectionObserver(([one]) => {  // another tab was open
      if (one.isIntersecting && !seenBefore) { keep(true); counts(); }
      seenBefore = one.isIntersecting;
    }).observe(root);
  }

  document.addEventListener("desk-look", () => {
    const place = $("queue");
    if (place && place !== root && window.deskUser) mount(place);
  });
  document.addEventListener("keydown", pressed);
  addEventListener("beforeunload", (event) => { if (outbox.some((one) => one.path === "decide")) event.preventDefault(); });
  // Who leaves all the same: what waits goes out at once, each comment's first press and nothing behind an undo, whose order counts.
  addEventListener("pagehide", () => {
    const sent = new Set();
    for (const one of outbox) {
      if (one.path === "undo") break;
      if (sent.has(one.entry)) continue;
      sent.add(one.entry);
      post(one.path, { ...one.body, seen: one.body.seen ?? one.entry.seen }).catch(() => {});
    }
  });
  document.addEventListener("visibilitychange", () => { if (root?.offsetParent) keep(true); });
  setInterval(() => keep(!root?.offsetParent), RENEW);
  setInterval(() => { if (window.deskUser && root?.offsetParent && !document.hidden) { counts(); if (!current() && ended && choice.show === "undecided") { ended = false; more(); } } }, 20_000);
})();
