"use strict";

// --- theme: as the system has it, light, dark ---
{
  const button = document.getElementById("theme");
  const themes = { auto: "light dark", light: "light", dark: "dark" };
  const names = Object.keys(themes);
  const set = (name) => {
    document.documentElement.style.colorScheme = themes[name];
    button.textContent = `Theme: ${name}`;
    button.dataset.theme = name;
  };
  let kept = null;
  try { kept = localStorage.getItem("reclaim-theme"); } catch { /* no storage: nothing to remember */ }
  set(names.includes(kept) ? kept : "auto");
  button.addEventListener("click", () => {
    set(names[(names.indexOf(button.dataset.theme) + 1) % names.length]);
    try { localStorage.setItem("reclaim-theme", button.dataset.theme); } catch { /* as above */ }
  });
}

const detailOf = (row) => row.nextElementSibling?.matches(".detail") ? row.nextElementSibling : null;

// --- sorting: within each body of a table, that is, within each group ---
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const text = (cell.dataset.v ?? cell.textContent).trim();
  if (text === "" || text === "-") return "";
  const number = Number(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
};
for (const header of document.querySelectorAll("th[data-first]")) {
  header.querySelector("button").addEventListener("click", () => {
    const table = header.closest("table");
    const before = header.getAttribute("aria-sort");
    const sign = before ? (before === "ascending" ? -1 : 1) : Number(header.dataset.first);
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const rows = [...body.querySelectorAll(":scope > .row")].map((row) => [valueOf(row, header.cellIndex), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // what has no value comes last, either way
        return a < b ? -sign : a > b ? sign : 0;
      });
      for (const [, row] of rows) {
        const detail = detailOf(row);
        body.append(row, ...(detail ? [detail] : []));
      }
    }
  });
}

// --- filter: rows that hold all the words ---
for (const input of document.querySelectorAll("input[data-table]")) {
  const table = document.getElementById(input.dataset.table);
  const count = document.querySelector(`output[data-count="${input.dataset.table}"]`);
  const rows = [...table.querySelectorAll(".row")];
  const idOf = (row) => row.querySelector(".open").getAttribute("aria-controls");
  const texts = new Map(rows.map((row) => [row, `${row.textContent} ${row.dataset.text ?? ""} ${idOf(row)}`.toLowerCase()]));
  const apply = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      row.hidden = !words.every((word) => texts.get(row).includes(word));
      const detail = detailOf(row);
      if (detail) detail.hidden = row.hidden || row.querySelector(".open").ariaExpanded !== "true";
    }
    for (const body of table.tBodies) body.hidden = !body.querySelector(".row:not([hidden])");
    const left = rows.filter((row) => !row.hidden).length;
    count.textContent = left === rows.length ? `${rows.length} rows` : `${left} of ${rows.length} rows`;
  };
  input.addEventListener("input", apply);
  apply(); // a browser may have kept what was typed before a reload
}

// --- rows that open ---
const open = (button, wanted) => {
  button.setAttribute("aria-expanded", String(wanted));
  document.getElementById(button.getAttribute("aria-controls")).hidden = !wanted;
};
for (const button of document.querySelectorAll("button.open")) {
  button.addEventListener("click", () => open(button, button.getAttribute("aria-expanded") !== "true"));
}
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const inside = event.target.closest(".detail")?.previousElementSibling ?? event.target.closest(".row");
  const button = inside?.querySelector(".open[aria-expanded='true']");
  if (button) {
    open(button, false);
    button.focus();
  }
});
// index.html#slca@split-quickdraw-10 opens that row
const follow = () => {
  const wanted = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = wanted?.matches(".detail") ? wanted.previousElementSibling : wanted;
  const button = row?.matches(".row") && row.querySelector(".open");
  if (button) {
    const paper = row.closest("details");
    if (paper) paper.open = true;
    open(button, true);
    button.scrollIntoView();
  }
};
addEventListener("hashchange", follow);
follow();

// --- curves: ticked recipes take a free colour ---
for (const charts of document.querySelectorAll("[data-charts]")) {
  const table = document.getElementById(charts.dataset.charts);
  const boxes = [...table.querySelectorAll(".pick input")];
  const slots = Number(charts.dataset.slots);
  const message = charts.querySelector("output");
  const shown = (key) => charts.querySelectorAll(`[data-key="${CSS.escape(key)}"]`);
  const slotOf = (box) => shown(box.value)[0]?.dataset.slot;
  const update = (box) => {
    const taken = new Set(boxes.map(slotOf));
    const free = [...Array(slots).keys()].find((slot) => !taken.has(String(slot)));
    message.textContent = "";
    if (box.checked && free === undefined) {
      box.checked = false;
      message.textContent = `${slots} are shown already: untick one first.`;
      return;
    }
    for (const part of shown(box.value)) {
      if (box.checked) part.dataset.slot = free;
      else delete part.dataset.slot;
    }
  };
  for (const box of boxes) {
    box.checked = slotOf(box) !== undefined; // a browser may have kept other ticks
    box.addEventListener("change", () => update(box));
  }
}
