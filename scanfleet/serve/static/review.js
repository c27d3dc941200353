// One image at a time, by keyboard. A decision is kept in localStorage first and sent in order from there, so that
// nobody waits for the server and nothing is lost when the session ends, the network fails or the tab is closed.
"use strict";

const root = document.getElementById("review");
const { base, csrf, actor, hidden } = root.dataset;
const tab = sessionStorage.getItem("scanfleet.tab") || root.dataset.tab;
sessionStorage.setItem("scanfleet.tab", tab);
const find = (id) => document.getElementById(id);
const stage = find("stage"), picture = find("picture"), marks = find("marks"), trouble = find("trouble");

let ahead = 5; // fewer images than this before a person: ask for more
const items = []; // in the order of the queue; those before `at` are decided or skipped
const done = []; // decisions that may be undone, the newest last
const settled = new Set(); // contents that are decided or skipped
const drawn = new Map(); // content -> boxes of a person, [x0, y0, x1, y1]
let at = 0, asking = false, ended = false, n_decided = 0;

// --- what is to be sent: of this person, in any tab of this browser

const BOX = `scanfleet.outbox.${actor}`, IDS = `scanfleet.labels.${actor}`;
const stored = (key, empty) => JSON.parse(localStorage.getItem(key) || empty);
const store = (key, value) => localStorage.setItem(key, JSON.stringify(value));

function post(entry) {
  store(BOX, [...stored(BOX, "[]"), entry]);
  pump();
}

function take_out(id) {
  store(BOX, stored(BOX, "[]").filter((each) => each.id !== id));
}

let pumping = false, sending = null;

async function pump() {
  if (pumping) return;
  pumping = true;
  const each = async () => { while (await send_first()); };
  try {
    await (navigator.locks ? navigator.locks.request(BOX, each) : each());
  } finally {
    pumping = false;
    sending = null;
    count();
  }
}

// Returns whether to go on with the next.
async function send_first() {
  const entry = stored(BOX, "[]")[0];
  if (!entry) return false;
  sending = entry.id;
  const body = entry.undoes ? { tab, label_id: stored(IDS, "{}")[entry.undoes] } : entry.body;
  if (entry.undoes && body.label_id === undefined) { // what it undoes was refused: there is nothing to undo
    take_out(entry.id);
    return true;
  }
  const answer = await ask(entry.url, body);
  if (answer === null || answer.status >= 500 || answer.status === 429) {
    say("The server does not answer: decisions are kept here and sent later.");
    setTimeout(pump, 1000 * Number(answer?.headers.get("retry-after") || 3));
    return false;
  }
  if (stale(answer)) return false;
  take_out(entry.id);
  if (answer.ok) {
    if (entry.item) keep_id(entry.id, (await answer.json()).label_id);
    say("");
    return true;
  }
  give_back(entry, await reason(answer));
  return true;
}

function keep_id(id, label) {
  const newest = Object.entries(stored(IDS, "{}")).slice(-199);
  store(IDS, Object.fromEntries([...newest, [id, label]]));
}

async function ask(url, body) {
  const headers = { "content-type": "application/json", "x-csrf-token": csrf, accept: "application/json" };
  return fetch(url, { method: "POST", headers, body: JSON.stringify(body) }).catch(() => null);
}

async function reason(answer) {
  return answer.json().then((problem) => problem.detail, () => `status ${answer.status}`);
}

function stale(answer) {
  if (answer.status !== 401 && answer.status !== 403) return false;
  const n = stored(BOX, "[]").length;
  say(`Your session has ended. ${n} ${n === 1 ? "decision is" : "decisions are"} kept here and sent after you `, "log in");
  return true;
}

// A decision that the server refused: its image is shown again.
function give_back(entry, why) {
  const place = done.findIndex((each) => each.id === entry.id);
  if (place >= 0) done.splice(place, 1);
  if (entry.item) {
    const old = items.findIndex((each) => each.content === entry.item.content);
    if (old >= 0) { items.splice(old, 1); if (old < at) at -= 1; }
    items.splice(at, 0, entry.item);
    settled.delete(entry.item.content);
    n_decided -= 1;
    show();
  }
  say(`Not kept: ${why}`);
}

function say(text, link) {
  trouble.hidden = !text;
  trouble.textContent = text;
  if (link) {
    const a = document.createElement("a");
    a.href = `/login?next=${encodeURIComponent(location.pathname)}`;
    a.textContent = link;
    trouble.append(a, ".");
  }
}

// --- what is shown

async function load() {
  if (asking || ended || items.length - at >= ahead) return;
  asking = true;
  const waiting = stored(BOX, "[]").map((entry) => entry.body?.content).filter(Boolean);
  const have = [...new Set([...items.slice(-100).map((each) => each.content), ...waiting])].slice(-200);
  const answer = await ask(`${base}/take`, { tab, n: 2 * ahead, have });
  asking = false;
  if (answer === null) { say("The server does not answer."); setTimeout(load, 3000); return; }
  if (stale(answer)) return;
  if (!answer.ok) { say(await reason(answer)); return; }
  const more = (await answer.json()).items;
  ended = more.length === 0;
  items.push(...more);
  show();
}

function show() {
  const item = items[at];
  picture.hidden = !item;
  find("empty").hidden = Boolean(item);
  find("empty").textContent = ended ? "Nothing is left in this queue. Others may still have some before them." : "Looking for images …";
  if (item) {
    if (picture.getAttribute("src") !== item.picture) picture.src = item.picture;
    picture.alt = `Image under review: ${item.uri}`;
    for (const next of items.slice(at + 1, at + 3)) new Image().src = next.picture;
  }
  find("answer").textContent = item?.label ? `${item.label} (${item.decision})` : hidden === "1" ? "hidden" : "–";
  find("score").textContent = number(item?.score, 3) ?? (item?.margin === undefined ? "–" : `margin ${number(item.margin, 2)}`);
  find("uri").textContent = item?.uri ?? "–";
  find("said").textContent = item?.explanation ?? "–";
  find("doubts").textContent = item?.doubts?.join("; ") || "–";
  mark(item);
  fill_grid();
  count();
  load();
}

const number = (value, digits) => (value === null || value === undefined ? null : value.toFixed(digits));

function mark(item, marks = find("marks")) {
  marks.replaceChildren();
  if (!item?.width) return;
  marks.setAttribute("viewBox", `0 0 ${item.width} ${item.height}`);
  const rectangle = (box, kind) => draw_box(marks, box, kind);
  if (item.crop?.box) rectangle(item.crop.box, "crop");
  for (const box of item.boxes || []) rectangle([box.x0, box.y0, box.x1, box.y1], "found");
  for (const box of drawn.get(item.content) || []) rectangle(box, "drawn");
}

function draw_box(marks, [x0, y0, x1, y1], kind) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: kind })) rect.setAttribute(name, value);
  marks.append(rect);
  return rect;
}

function count() {
  const n = stored(BOX, "[]").length;
  find("count").textContent = `${n_decided} decided${n ? `, ${n} being sent` : ""}`;
}

// --- what a person does

function decide(label, item = items[at]) {
  if (!item || !label) return;
  const boxes = (drawn.get(item.content) || []).map((box) => box.join(" "));
  const body = { tab, content: item.content, image_id: item.image_id, label, boxes };
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  done.push({ id, item });
  n_decided += 1;
  leave(item);
  say("");
  post({ id, url: `${base}/decide`, body, item });
  show();
}

function skip(item = items[at]) {
  if (!item) return;
  const id = crypto.getRandomValues(new Uint32Array(4)).join("-");
  done.push({ id: null, item });
  leave(item);
  post({ id, url: `${base}/skip`, body: { tab, content: item.content } });
  show();
}

function leave(item) {
  settled.add(item.content);
  while (at < items.length && settled.has(items[at].content)) at += 1;
}

function undo() {
  const last = done.pop();
  if (!last) return;
  if (last.id) {
    n_decided -= 1;
    const waits = last.id !== sending && stored(BOX, "[]").some((entry) => entry.id === last.id);
    if (waits) take_out(last.id); else post({ id: `${last.id}-undo`, url: "/review/undo", undoes: last.id });
  }
  settled.delete(last.item.content);
  const place = items.findIndex((each) => each.content === last.item.content);
  if (place >= 0) at = place; else items.splice(at, 0, last.item);
  show();
}

function toggle(name, on) {
  const pressed = stage.classList.toggle(on);
  root.querySelector(`[data-act="${name}"]`).setAttribute("aria-pressed", String(name === "boxes" ? !pressed : pressed));
}

// The labels on the other side of the flag, with their keys.
function others(item) {
  const flags = (name) => labels.some((each) => each.dataset.label === name && each.classList.contains("flag"));
  const fit = labels.filter((each) => flags(each.dataset.label) !== flags(item.label));
  return fit.map((each) => `${labels.indexOf(each) + 1}: ${each.dataset.label}`).join(", ");
}

const acts = {
  confirm: () => decide(items[at]?.label),
  wrong: () => {
    const item = items[at];
    if (item && item.label && !item.wrong) say(`Which one is right? ${others(item)}`); else decide(item?.wrong);
  },
  skip: () => skip(),
  undo,
  boxes: () => toggle("boxes", "bare"),
  draw: () => toggle("draw", "drawing"),
  zoom: () => toggle("zoom", "zoomed"),
  help: () => find("help").showModal(),
  grid: () => open_grid(find("grid").hidden),
  before: () => { if (at > 0) { at -= 1; show(); } },
  behind: () => { if (at < items.length - 1) { at += 1; show(); } },
};
const KEYS = {
  a: "confirm", x: "wrong", " ": "skip", Backspace: "undo", b: "boxes", e: "draw", z: "zoom", "?": "help", g: "grid",
  ArrowLeft: "before", ArrowRight: "behind",
};
const labels = [...root.querySelectorAll("[data-label]")];

document.addEventListener("keydown", (event) => {
  const pressed = event.target.closest("button, a, input, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
  const own = pressed && !pressed.classList.contains("cell"); // a button that the key presses
  if (own && (event.key === " " || event.key === "Enter")) return;
  const label = /^[1-9]$/.test(event.key) ? labels[Number(event.key) - 1]?.dataset.label : undefined;
  if (in_grid(event.key, label)) event.preventDefault();
  else if (label) decide(label); else if (KEYS[event.key]) acts[KEYS[event.key]](); else return;
  event.preventDefault();
});

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.classList.contains("cell")) return;
  if (in_grid(button?.dataset.key, button?.dataset.label)) return;
  if (button?.dataset.label) decide(button.dataset.label);
  else if (button?.dataset.act) acts[button.dataset.act]();
  else return;
  if (!find("help").open) stage.focus({ preventScroll: true }); // keys go on working
});

// --- drawing

let from = null, rubber = null;

function place_of(event) {
  const item = items[at];
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(marks.getScreenCTM().inverse());
  return [Math.min(Math.max(point.x, 0), item.width), Math.min(Math.max(point.y, 0), item.height)];
}

const between = ([x0, y0], [x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map(Math.round);

marks.addEventListener("pointerdown", (event) => {
  if (!items[at]?.width) return;
  from = place_of(event);
  rubber = draw_box(marks, between(from, from), "drawn");
  marks.setPointerCapture(event.pointerId);
});
marks.addEventListener("pointermove", (event) => {
  if (!from) return;
  const [x0, y0, x1, y1] = between(from, place_of(event));
  for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) rubber.setAttribute(name, value);
});
marks.addEventListener("pointerup", (event) => {
  if (!from) return;
  const box = between(from, place_of(event)), item = items[at];
  from = null;
  if (box[2] - box[0] > 1 && box[3] - box[1] > 1) drawn.set(item.content, [...(drawn.get(item.content) || []), box]);
  mark(item);
});

stage.focus({ preventScroll: true });
if (location.hash === "#grid") open_grid(true);
pump();
load();
