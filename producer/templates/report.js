"use strict";
(() => {
  const one = (selector, within = document) => within.querySelector(selector);
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tools = one("#tools"), large = one("#large"), cards = every(".card");
  if (!tools) return;
  const words = one("#search"), label = one("#label"), sort = one("#sort"), wrong = one("#wrong"), shown = one("#shown");
  const decisions = every("input[name=decision]", tools);
  const place = new Map(cards.map((card, number) => [card, number]));
  const text = new Map();  // what is searched in, read when it is first needed
  const textOf = card => {
    if (!text.has(card)) text.set(card, card.textContent.toLowerCase());
    return text.get(card);
  };
  const number = (card, name) => card.dataset[name] === undefined ? NaN : Number(card.dataset[name]);
  const byNumber = (name, sign) => (a, b) => {
    const x = number(a, name), y = number(b, name);
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
    return sign * (x - y);
  };
  const orders = {
    listed: () => 0,
    score: byNumber("score", -1),
    lowest: byNumber("score", 1),
    doubt: (a, b) => Math.abs(number(a, "margin") || 0) - Math.abs(number(b, "margin") || 0),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name),
  };
  const visible = () => every(".card").filter(card => !card.hidden);

  function filter() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = new Set(decisions.filter(box => box.checked).map(box => box.value));
    let n = 0;
    for (const card of cards) {
      const match = (!decisions.length || chosen.has(card.dataset.decision))
        && (!label.value || card.dataset.label === label.value)
        && !(wrong && wrong.checked && card.dataset.wrong === undefined)
        && wanted.every(word => textOf(card).includes(word));
      card.hidden = !match;
      n += match;
    }
    for (const section of every("section.kind")) section.hidden = !one(".card:not([hidden])", section);
    shown.value = `${n} of ${cards.length} images`;
  }

  function arrange() {
    for (const grid of every(".grid")) {
      const within = every(".card", grid);
      within.sort((a, b) => orders[sort.value](a, b) || place.get(a) - place.get(b));
      grid.append(...within);
    }
  }

  let current = null;
  function open(card) {
    current = card;
    const small = one("img", card), picture = one("img", large), copy = one(".words", card).cloneNode(true);
    picture.hidden = !small;
    if (small) { picture.src = small.src; picture.alt = small.alt; }
    for (const more of every("details", copy)) more.open = true;
    one(".words", large).replaceWith(copy);
    large.setAttribute("aria-label", card.dataset.name);
    if (!large.open) large.showModal();
  }
  function step(by) {
    const list = visible(), next = list[list.indexOf(current) + by];
    if (next) open(next);
  }
  function move(by) {
    const list = visible(), at = list.findIndex(card => card.contains(document.activeElement));
    const next = list[at < 0 ? 0 : Math.min(Math.max(at + by, 0), list.length - 1)];
    if (next) { one(".open", next).focus(); next.scrollIntoView({ block: "nearest" }); }
  }
  async function copyPath() {
    const path = one(".path", large);
    try {
      await navigator.clipboard.writeText(path.textContent);
      one("#copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(path);  // the person copies it
    }
  }

  document.addEventListener("click", event => {
    const button = event.target.closest(".open");
    if (button) open(button.closest(".card"));
    if (event.target === large) large.close();  // beside it
  });
  large.addEventListener("close", () => {
    one("#copy").textContent = "Copy path";
    if (current) one(".open", current)?.focus();
  });
  one("#before").addEventListener("click", () => step(-1));
  one("#next").addEventListener("click", () => step(1));
  one("#copy").addEventListener("click", copyPath);
  one("#close").addEventListener("click", () => large.close());
  tools.addEventListener("submit", event => event.preventDefault());
  tools.addEventListener("input", filter);
  sort.addEventListener("change", arrange);

  const keys = {
    "/": () => words.focus(),
    j: () => move(1),
    k: () => move(-1),
    w: () => wrong?.click(),
    "?": () => { one("#keys").open = !one("#keys").open; },
  };
  for (const box of decisions) keys[box.value[0]] = () => box.click();
  document.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (large.open) {
      const by = { ArrowLeft: -1, k: -1, ArrowRight: 1, j: 1 }[event.key];
      if (by) { event.preventDefault(); step(by); }
    } else if (event.key === "Escape" && event.target === words) {
      words.value = "";
      words.blur();
      filter();
    } else if (!event.target.closest("input[type=search], select") && keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  tools.hidden = false;
  filter();
})();
