// Many images at once: select in the grid, then one key decides all of them. Decisions go the way of review.js.
"use strict";

const chosen = new Set(); // contents
const cells = new Map(); // content -> its cell
let anchor = null; // where a shift-click begins

function open_grid(on) {
  const grid = document.getElementById("grid");
  grid.hidden = !on;
  document.getElementById("stage").hidden = on;
  document.querySelector('[data-act="grid"]').setAttribute("aria-pressed", String(on));
  history.replaceState(null, "", on ? "#grid" : location.pathname);
  ahead = on ? 25 : 5;
  if (items.length) show();
}

const waiting_items = () => items.slice(at).filter((item) => !settled.has(item.content));

function fill_grid() {
  const grid = document.getElementById("grid");
  if (grid.hidden) return;
  const now = waiting_items();
  const kept = new Set(now.map((item) => item.content));
  for (const [content, cell] of cells) if (!kept.has(content)) { cell.remove(); cells.delete(content); chosen.delete(content); }
  now.forEach((item, place) => {
    if (!cells.has(item.content)) cells.set(item.content, make_cell(item));
    const cell = cells.get(item.content); // moved only where it must be: a moved cell loses the focus
    if (grid.children[place] !== cell) grid.insertBefore(cell, grid.children[place] ?? null);
  });
}

function make_cell(item) {
  const cell = document.createElement("button");
  cell.className = "cell";
  cell.setAttribute("aria-pressed", "false");
  const image = new Image();
  image.alt = item.uri;
  image.src = item.picture.replace("/1280?", "/320?");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  const words = document.createElement("span");
  words.textContent = item.label ? `${item.label} ${number(item.score, 2) ?? ""}` : "hidden";
  const sheet = document.createElement("span");
  sheet.className = "sheet";
  sheet.append(image, svg);
  cell.append(sheet, words);
  mark(item, svg);
  cell.addEventListener("click", (event) => choose(item, event.shiftKey));
  return cell;
}

function choose(item, all_between) {
  const order = waiting_items().map((each) => each.content);
  const here = order.indexOf(item.content), start = all_between ? order.indexOf(anchor) : -1;
  if (start < 0) turn(item.content, !chosen.has(item.content));
  else for (const content of order.slice(Math.min(start, here), Math.max(start, here) + 1)) turn(content, true);
  anchor = item.content;
}

function turn(content, on) {
  if (on) chosen.add(content); else chosen.delete(content);
  cells.get(content).setAttribute("aria-pressed", String(on));
}

// Returns whether the grid took the key: those that decide go to what is selected, and to nothing else.
function in_grid(key, label) {
  if (document.getElementById("grid").hidden) return false;
  if (key === "*") { for (const item of waiting_items()) turn(item.content, true); return true; }
  if (key === "x") { say("In the grid press the number of the right label."); return true; }
  if (!label && key !== "a" && key !== " ") return false;
  for (const item of waiting_items().filter((each) => chosen.has(each.content))) {
    if (key === " " && !label) skip(item); else decide(label ?? item.label, item);
  }
  return true;
}
