// Keeps a page right: takes fragments from the exporter and puts them in their places.
// Only what differs is patched, so that folds, scroll, selection and focus stay. Nothing
// that comes is ever run: what an experiment said is text in it.
"use strict";
(() => {
  const root = document.documentElement;
  const connection = document.getElementById("connection");
  const icon = document.getElementById("icon");
  const busy = new WeakSet(); // images that are on their way
  const LATE = 4000, DEAD = 8000, FIRST_WAIT = 500, LONGEST_WAIT = 8000; // ms

  // --- patching ---------------------------------------------------------------------

  // Times of day become the reader's own.
  function localise(within) {
    for (const time of within.querySelectorAll("time[datetime]")) {
      const at = new Date(time.dateTime);
      if (isNaN(at)) continue;
      const whole = at.toLocaleString("sv-SE"), [day, clock] = whole.split(" "); // 2026-11-21 04:28:43
      const form = time.dataset.form, today = () => day === new Date().toLocaleDateString("sv-SE");
      if (form === "clock") time.textContent = clock;
      else if (form === "minute") time.textContent = (today() ? clock : whole).slice(0, -3);
      else time.textContent = whole;
      if (time.textContent !== whole) time.title = whole;
    }
    return within;
  }

  function parsed(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    return localise(template.content);
  }

  const keyOf = (node) => (node.nodeType === 1 ? node.id || node.dataset.key || "" : "");
  const alike = (one, other) => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);

  function morph(node, wanted) {
    if (node.nodeType !== 1) return node.data === wanted.data || (node.data = wanted.data);
    const loading = wanted.nodeName === "IMG" && wanted.dataset.src;
    for (const { name, value } of wanted.attributes) {
      if (name === "open" || (loading && name === "src")) continue; // the reader's; load()'s
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    for (const { name } of [...node.attributes])
      if (name !== "open" && !wanted.hasAttribute(name)) node.removeAttribute(name);
    if (loading) load(node);
    if (!("chart" in node.dataset)) morphChildren(node, wanted); // chart.js draws in there
  }

  function morphChildren(parent, wanted) {
    const keyed = new Map();
    for (const child of parent.children) if (keyOf(child)) keyed.set(keyOf(child), child);
    let at = parent.firstChild;
    for (const next of [...wanted.childNodes]) {
      const known = keyed.get(keyOf(next));
      if (known && known !== at && known.parentNode === parent) {
        parent.insertBefore(known, at);
        at = known;
      }
      if (!at || !alike(at, next)) {
        parent.insertBefore(next, at);
        continue;
      }
      morph(at, next);
      at = at.nextSibling;
    }
    for (let rest; at; at = rest) {
      rest = at.nextSibling;
      at.remove();
    }
  }

  function patchList(list, { rows = {}, order }) {
    const fresh = new Map();
    for (const [id, html] of Object.entries(rows)) {
      const row = parsed(html).firstElementChild;
      const old = document.getElementById(id);
      if (old && old.parentNode === list) morph(old, row);
      else fresh.set(id, row);
    }
    if (!order) return;
    const wanted = new Set(order);
    for (const row of [...list.children]) if (!wanted.has(row.id)) row.remove();
    let at = list.firstElementChild;
    for (const id of order) {
      const row = at && at.id === id ? at : fresh.get(id) || document.getElementById(id);
      if (row === at) at = at && at.nextElementSibling;
      else if (row) list.insertBefore(row, at);
    }
  }

  // An image is asked for when the one before has come: a slow line shows fewer, not none.
  function load(image) {
    if (busy.has(image) || image.getAttribute("src") === image.dataset.src) return;
    busy.add(image);
    const done = () => busy.delete(image) && load(image);
    image.onload = done;
    image.onerror = () => setTimeout(done, 500);
    image.src = image.dataset.src;
  }

  // What is read to its end stays at its end.
  const atEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 8;
  const toEnd = (box) => (box.scrollTop = box.scrollHeight);

  function following(change, all = false) {
    const ends = [...document.querySelectorAll("[data-follow]")].filter((box) => all || atEnd(box));
    change();
    ends.forEach(toEnd);
  }

  function apply({ parts = {}, lists = {}, charts = {} }) {
    const each = (found, change) => Object.entries(found).forEach(([id, value]) => {
      const place = document.getElementById(id);
      if (place) change(place, value);
    });
    each(parts, (place, html) => morphChildren(place, parsed(html)));
    each(lists, patchList);
    each(charts, window.drawChart);
    colourIcon();
    tell();
  }

  // The tab's icon has the colour of the verdict.
  function colourIcon() {
    const badge = document.querySelector("#verdict .badge");
    const name = badge ? `favicon-${badge.dataset.tone}.svg` : "favicon.svg";
    if (!icon.href.endsWith(name)) icon.href = icon.href.replace(/[^/]*$/, name);
  }

  // --- notifications ----------------------------------------------------------------

  const WORTH = ["completed", "failed", "stopped", "stalled", "lost"];
  const states = new Map(); // by run, as this page has seen them
  const bell = document.getElementById("tell");
  const wanted = () => window.Notification && Notification.permission === "granted" && localStorage.getItem("tell") === "on";

  function tell() {
    for (const badge of document.querySelectorAll("#verdict .badge, #runs .badge")) {
      const row = badge.closest(".run, .hero"), state = badge.textContent;
      const name = row.querySelector("h1, .to").textContent.trim(), run = row.id || name;
      const before = states.get(run);
      states.set(run, state);
      if (!before || before === state || !WORTH.includes(state) || !wanted()) continue;
      const reason = row.querySelector(".reason");
      new Notification(`${state}: ${name}`, { body: reason ? reason.textContent : "", tag: run });
    }
  }

  function showBell() {
    bell.hidden = !window.Notification || !document.body.dataset.socket;
    bell.setAttribute("aria-pressed", wanted());
    bell.disabled = window.Notification && Notification.permission === "denied";
    bell.title = bell.disabled ? "This browser does not allow notifications here" : "A notification when a run ends, stalls or is lost, as long as a page is open";
  }

  bell.onclick = async () => {
    const on = !wanted() && (await Notification.requestPermission()) === "granted";
    localStorage.setItem("tell", on ? "on" : "off");
    showBell();
  };

  // --- the connection ---------------------------------------------------------------

  let socket = null, heard = Date.now(), wait = FIRST_WAIT, timer = 0, behind = false, broken = false;

  // The source that is shown stays the one that is shown, whatever comes back.
  function address() {
    const url = new URL(document.body.dataset.socket, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const shown = document.querySelector("[data-source]");
    const source = new URLSearchParams(location.search).get("source") || (shown && shown.dataset.source);
    if (source) url.searchParams.set("source", source);
    return url;
  }

  function connect() {
    clearTimeout(timer);
    const mine = (socket = new WebSocket(address()));
    behind = false;
    mine.onopen = tellVisible;
    mine.onmessage = (event) => {
      const message = JSON.parse(event.data);
      const other = message.version && message.version !== root.dataset.version;
      const found = "waiting" in document.body.dataset && message.parts && message.parts.name;
      if (other || found) return location.reload();
      heard = Date.now();
      wait = FIRST_WAIT;
      behind = message.behind ?? behind;
      broken = message.broken ?? ("behind" in message && broken);
      say(true);
      following(() => apply(message));
    };
    mine.onclose = () => mine === socket && again();
  }

  function again() {
    socket = null;
    timer = setTimeout(connect, wait * (0.75 + Math.random() / 2));
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }

  function say(live) {
    root.classList.toggle("lost", !live || broken);
    const text = !live ? "connection lost, trying again" : broken ? "old: the exporter cannot draw this page, its log says why" : behind ? "behind: the connection is slow" : "connected";
    if (connection.textContent !== text) connection.textContent = text;
  }

  function check() {
    const silent = Date.now() - heard;
    if (silent > LATE) say(false);
    if (socket && silent > DEAD) { // also after a laptop's sleep: do not wait for TCP
      socket.close();
      again();
      heard = Date.now() - LATE - 1;
    }
  }

  function tellVisible() {
    if (socket && socket.readyState === 1) socket.send(document.hidden ? "hidden" : "visible");
  }

  // --- the page ---------------------------------------------------------------------

  root.classList.add("scripted");
  root.classList.toggle("can-copy", Boolean(navigator.clipboard));
  document.addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-copy], [data-follows]");
    if (!button) return;
    if (button.dataset.follows) return toEnd(document.getElementById(button.dataset.follows));
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });

  for (const button of document.querySelectorAll("[data-follows]")) {
    const box = document.getElementById(button.dataset.follows);
    box.addEventListener("scroll", () => button.setAttribute("aria-pressed", atEnd(box)));
  }

  document.addEventListener("input", ({ target }) => {
    const box = document.getElementById(target.dataset.leastOf);
    if (box) following(() => (box.dataset.least = target.value));
    if ("seek" in target.dataset) seek(target.closest("section"), target.value.trim().toLowerCase());
  });

  // Of a tree only what has the text in its path or its value, and where that is.
  function seek(within, text) {
    let hits = 0;
    const visit = (row, path, inside) => {
      const key = row.querySelector(":scope > .k, :scope > details > summary > .k");
      const here = `${path}.${key ? key.textContent : ""}`.toLowerCase();
      const rows = row.querySelectorAll(":scope > details > .tree > li");
      const said = rows.length ? here : `${here} ${row.textContent.toLowerCase()}`;
      const hit = text !== "" && !inside && said.includes(text);
      const below = [...rows].map((child) => visit(child, here, inside || hit)).some(Boolean);
      hits += hit;
      row.classList.toggle("hit", hit);
      row.classList.toggle("missed", text !== "" && !(hit || below || inside));
      const fold = row.querySelector(":scope > details");
      if (fold && text && (below || hit)) fold.open = true;
      return hit || below;
    };
    for (const row of within.querySelectorAll(":scope > .tree > li")) visit(row, "", false);
    within.querySelector("[role=status]").textContent = text ? `${hits} found` : "";
  }

  // The list is filtered while one types; without a script there is a button for it.
  const filter = document.getElementById("filter");
  let typed = 0;
  const refilter = () => {
    const asked = new URLSearchParams([...new FormData(filter)].filter(([, value]) => value));
    history.replaceState(null, "", `./${asked.size ? `?${asked}` : ""}`);
    document.body.dataset.socket = `./live?${asked}`;
    if (socket) socket.onclose = socket.onmessage = null, socket.close();
    connect();
  };
  if (filter) filter.oninput = () => (clearTimeout(typed), (typed = setTimeout(refilter, 200)));

  following(() => localise(document), true);
  colourIcon();
  showBell();
  tell();
  if (document.body.dataset.socket) {
    document.addEventListener("visibilitychange", tellVisible);
    setInterval(check, 1000);
    connect();
  }
})();
