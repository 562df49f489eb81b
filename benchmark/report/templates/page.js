"use strict";

const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// an element with attributes and children; texts stay texts
const h = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null));
  return node;
};
const svg = (tag, attributes = {}, ...children) => {
  const node = document.createElementNS("http" + "://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
// a text whose `parts in backticks` are code
const coded = (text) => text.split("`").map((part, i) => i % 2 ? h("code", {}, part) : part);
const link = (id, text) => h("a", { href: `#${encodeURIComponent(id)}` }, text);

let parsed = null;
const data = () => parsed ??= JSON.parse(byId("data").textContent);

// --- theme: as the system has it, light, dark ---
{
  const button = byId("theme");
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

// --- curves ---
const PX = 10; // tenths of a pixel are enough
const round = (value) => String(Math.round(value * PX) / PX);
const scaleAround = (values, start, end, [least, most], steps = 6) => {
  const inside = values.map((value) => Math.min(Math.max(value, least), most));
  const [low, high] = [Math.min(...inside), Math.max(...inside)];
  const rough = (high - low) / steps || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
  return scaleOf(step * Math.floor(low / step + 1e-6), step * Math.max(Math.ceil(high / step - 1e-6), Math.floor(low / step + 1e-6) + 1), step, start, end);
};
const scaleOf = (low, high, step, start, end) => ({
  start, end,
  ticks: [...Array(Math.floor((high - low) / step + 1e-6) + 1).keys()].map((k) => low + step * k),
  at: (value) => round(start + (Math.min(Math.max(value, low), high) - low) / (high - low) * (end - start)),
});
// series: {label, slot, points: [means, half-widths], unit}
const chart = (title, xLabel, yLabel, series, [width, height], limits) => {
  const drawn = series.map(({ points: [means, halves], unit, ...rest }) =>
    ({ ...rest, means: means.map((v) => v / unit), halves: halves?.map((v) => v / unit) }));
  const longest = Math.max(0, ...drawn.map(({ means }) => means.length));
  if (longest < 2) return null;
  const ends = drawn.flatMap(({ means, halves }) => means.flatMap((v, i) => halves ? [v - halves[i], v + halves[i]] : [v]));
  const x = scaleOf(1, longest, Math.ceil((longest - 1) / 10), 44, width - 12);
  const y = scaleAround(ends, height - 40, 12, limits);
  const text = (content, attributes) => svg("text", attributes, content);
  const line = (values) => values.map((value, t) => `${x.at(t + 1)} ${y.at(value)}`);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}; the numbers are in the JSON file of the stream` },
    ...y.ticks.flatMap((tick) => [
      svg("path", { class: "grid", d: `M${x.start} ${y.at(tick)}H${x.end}` }),
      text(String(Math.round(tick * 1e6) / 1e6), { x: x.start - 6, y: y.at(tick), dy: ".35em", "text-anchor": "end" })]),
    ...x.ticks.map((tick) => text(String(tick), { x: x.at(tick), y: y.start + 18, "text-anchor": "middle" })),
    text(xLabel, { x: (x.start + x.end) / 2, y: height - 5, "text-anchor": "middle" }),
    text(yLabel, { transform: `translate(11 ${(y.start + y.end) / 2})rotate(-90)`, "text-anchor": "middle" }),
    ...drawn.map(({ key, label, slot, means, halves }) => svg("g", { class: "curve", "data-slot": slot, "data-key": key ?? "" },
      svg("title", {}, label),
      ...(halves ? [svg("path", { class: "band", d: `M${[...line(means.map((v, i) => v + halves[i])), ...line(means.map((v, i) => v - halves[i])).reverse()].join("L")}Z` })] : []),
      svg("path", { class: "line", d: `M${line(means).join("L")}` }))));
  return h("figure", { class: "chart" }, h("figcaption", {}, title), picture);
};
const sample = (slot) => svg("svg", { viewBox: "0 0 28 8", "aria-hidden": "true", class: "sample", ...(slot === null ? {} : { "data-slot": slot }) },
  svg("path", { class: "line", d: "M0 4H28" }));
const legend = (...labels) => h("ul", { class: "legend" }, ...labels.map((label, slot) => h("li", {}, sample(slot), label)));
const PERCENT = [0, 100], NATS = [0, Infinity];

// --- what a row opens ---
const numbers = (pairs) => h("dl", {}, ...pairs.map(([name, value]) =>
  h("div", value.length > 40 ? { class: "whole" } : {}, h("dt", {}, name), h("dd", {}, value))));
const command = (text) => h("pre", { class: "command" }, text);
const badge = (outcome) => {
  const kind = { holds: "good", contradicted: "bad", undecided: "maybe" }[outcome] ?? "none";
  const sign = { holds: "✓", contradicted: "✗", undecided: "?" }[outcome] ?? "○";
  return h("span", { class: `badge ${kind}` }, `${sign} ${outcome}`);
};
const heat = (values, caption) => {
  const size = Math.round((Math.sqrt(8 * values.length + 1) - 1) / 2);
  const rows = [...Array(size).keys()].map((t) => values.slice(t * (t + 1) / 2, (t + 1) * (t + 2) / 2));
  return h("table", { class: "heat" }, h("caption", {}, caption),
    h("tr", {}, h("td"), ...rows.map((_, t) => h("th", { scope: "col" }, String(t + 1)))),
    ...rows.map((row, t) => h("tr", {}, h("th", { scope: "row" }, String(t + 1)),
      ...row.map((value) => h("td", { style: `--v:${value}` }, String(value))))));
};
// names of those at the ranks "1, 3-5" of the same protocol and stream
const namesAt = (id, row) => {
  const places = row.ties.split(", ").map((span) => span.split("-").map(Number));
  const stream = id.slice(id.lastIndexOf("@"));
  return Object.entries(data().rows)
    .filter(([other, of]) => other !== id && other.endsWith(stream) && of.group === row.group
      && places.some(([low, high = low]) => of.rank?.[0] >= low && of.rank[0] <= high))
    .sort(([, a], [, b]) => a.rank[0] - b.rank[0]).map(([other, of]) => link(other, of.title));
};
const joined = (nodes) => nodes.flatMap((node, i) => i ? [", ", node] : [node]);

const counted = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
const shown = (hundredths) => (hundredths / 100).toFixed(2);
const spread = ([, std, low, high]) => std === undefined ? "one seed" : std === 0 && low === high ? "the same with every seed"
  : `sd ${shown(std)}, 95% interval ${shown(low)} to ${shown(high)}`;
const grouped = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, ",");
const numbersOf = (row) => [
  ...Object.entries(row.numbers).map(([column, values]) =>
    [data().metrics[column], `${shown(values[0])}${column === "final_entropy" ? " nats" : ""}; ${spread(values)}`]),
  ["Seeds", String(row.seeds.length)],
  ["Trained parameters", grouped(row.trained)],
  ["Bytes kept between experiences", grouped(row.bytes)],
  ["Seconds of a run", row.seconds],
  ["Classes seen in pretraining", row.seen],
  ["Protocol", row.group],
  ...(row.rank ? [["Rank in its protocol", `${row.rank[0]} of ${row.rank[3]}, 95% interval ${row.rank[1]} to ${row.rank[2]}`]] : [])];

const ofRow = (id) => {
  const row = data().rows[id];
  const matrices = row.matrices.map((values, i) => heat(values, i ? "The same, task known" : "Accuracy after task (row) on task (column)"));
  const { accuracy, accuracy_task_known: known, entropy } = row.curves;
  const charts = [
    accuracy && chart(`Accuracy of ${row.title} after each task`, "tasks seen", "percent right",
      [{ label: "task not known", slot: 0, points: accuracy, unit: 10 }, { label: "task known", slot: 1, points: known, unit: 10 }], [420, 240], PERCENT),
    entropy && chart(`Entropy of ${row.title} in training`, "epoch, over all experiences", "nats",
      [{ label: "entropy", slot: 0, points: entropy, unit: 1000 }], [420, 240], NATS)].filter(Boolean);
  return [
    h("p", {}, ...coded(row.about)),
    h("div", { class: "columns" },
      h("div", {}, h("p", { class: "head" }, "Numbers"), numbers(numbersOf(row)),
        row.rank ? h("p", { class: "ties" }, h("span", { class: "soft" }, `Not separated from (${row.tied}) after correcting for ${counted(row.rank[3] * (row.rank[3] - 1) / 2, "comparison")}: `),
          ...(row.ties === "-" ? ["none"] : joined(namesAt(id, row)))) : null,
        ...(row.claims.length ? [h("p", { class: "head" }, "Claims"), h("ul", { class: "plain" }, ...row.claims.map((claim) =>
          h("li", {}, badge(data().claims[claim].outcome), " ", link(claim, claim), `: ${data().claims[claim].text}`)))] : [])),
      h("div", {}, h("p", { class: "head" }, "Recipe"),
        h("p", {}, "Hyper-parameters: ", ...coded(row.from), ".", row.commands.length ? " Repeat the runs:" : ""),
        ...row.commands.map(command),
        h("details", {}, h("summary", {}, "Configuration ", h("code", {}, row.hash)), h("pre", { tabindex: "0" }, row.config.map((k) => data().settings[k]).join("\n"))),
        h("details", {}, h("summary", {}, `Records: ${counted(row.seeds.length, "seed")}`),
          h("p", {}, h("code", {}, row.records), row.linked ? "" : " in the store that they were read from"),
          h("p", {}, ...row.seeds.flatMap((seed) => [row.linked ? h("a", { href: `${row.records}${seed}.json` }, String(seed)) : String(seed), " "]))),
        ...matrices),
      charts.length ? h("div", {}, ...charts, accuracy?.[0].length > 1 ? legend("task not known", "task known") : null) : null),
  ];
};
const ofClaim = (id) => {
  const claim = data().claims[id];
  return [
    h("p", {}, `${claim.about} `, h("code", {}, id)),
    h("div", { class: "columns" }, h("div", {}, numbers(claim.numbers)),
      h("div", {}, h("p", { class: "head" }, "Recipes, and the commands that repeat their runs"),
        ...claim.recipes.flatMap(([recipe, commands], i) => [
          h("p", {}, i ? "than: " : "better: ", `${recipe}@${claim.stream}` in data().rows ? link(`${recipe}@${claim.stream}`, recipe) : h("code", {}, recipe)),
          ...commands.map(command)]))),
  ];
};
const ofCell = (id) => {
  const cell = data().cells[id];
  return [h("div", { class: "columns" }, h("div", {}, numbers(cell.numbers)),
    h("div", {}, ...cell.commands.map(command), ...cell.notes.map((note) => h("p", { class: "soft" }, ...coded(note))),
      cell.runs.length ? h("p", {}, "Records: ", ...cell.runs.flatMap(([seed, href]) => [h("a", { href }, seed), " "])) : null))];
};
const detailOf = (row) => row.nextElementSibling?.matches(".detail") ? row.nextElementSibling : null;
const detailFor = (row) => {
  const build = row.id in data().rows ? ofRow : row.id in data().claims ? ofClaim : ofCell;
  const copy = h("button", { type: "button", class: "copy", "data-copy": row.id }, "Copy link");
  const cell = h("td", { colspan: String(row.cells.length) }, ...build(row.id), copy, h("output", { class: "copied" }));
  const detail = h("tr", { class: "detail", id: `${row.id}:detail` }, cell);
  row.after(detail);
  row.querySelector(".open").setAttribute("aria-controls", detail.id);
  return detail;
};
const open = (button, wanted) => {
  const row = button.closest(".row");
  button.setAttribute("aria-expanded", String(wanted));
  if (wanted || detailOf(row)) (detailOf(row) ?? detailFor(row)).hidden = !wanted;
};
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (button) open(button, button.getAttribute("aria-expanded") !== "true");
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const inside = event.target.closest(".detail")?.previousElementSibling ?? event.target.closest(".row");
  const button = inside?.querySelector(".open[aria-expanded='true']");
  if (button) {
    open(button, false);
    button.focus();
  }
});

// --- sorting: within each stream ---
const valueOf = (row, column) => {
  const cell = row.cells[column];
  const text = (cell.dataset.v ?? cell.textContent).trim();
  if (text === "" || text === "-") return "";
  const number = Number(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
};
const sort = (header, sign) => {
  const table = header.closest("table");
  for (const other of all("[aria-sort]", table)) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  for (const body of table.tBodies) {
    const rows = all(":scope > .row", body).map((row) => [valueOf(row, header.cellIndex), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // what has no value comes last, either way
      return a < b ? -sign : a > b ? sign : 0;
    });
    const sorted = document.createDocumentFragment();
    for (const [, row] of rows) {
      const detail = detailOf(row);
      sorted.append(row, ...(detail ? [detail] : []));
    }
    body.append(sorted);
  }
};
for (const header of all("th[data-first]")) {
  header.querySelector("button").addEventListener("click", () => {
    const before = header.getAttribute("aria-sort");
    sort(header, before ? (before === "ascending" ? -1 : 1) : Number(header.dataset.first));
    keep();
  });
}

// --- filters, the chosen stream: rows that hold all the words ---
const choice = byId("stream");
const inputs = Object.fromEntries(all("input[data-filter]").map((input) => [input.dataset.filter, input]));
const texts = new Map();
const textOf = (row) => {
  if (!texts.has(row)) texts.set(row, `${row.textContent} ${row.dataset.text ?? ""} ${row.id} ${row.closest("tbody").querySelector(".group")?.textContent ?? ""}`.toLowerCase());
  return texts.get(row);
};
const apply = (section) => {
  const words = inputs[section].value.toLowerCase().split(/\s+/).filter(Boolean);
  const stream = section === "methods" ? choice.value : "";
  let total = 0, left = 0;
  for (const body of all(`#${section} .board tbody`)) {
    const rows = all(":scope > .row", body);
    let shown = 0;
    for (const row of rows) {
      row.hidden = words.length > 0 && !words.every((word) => textOf(row).includes(word));
      shown += !row.hidden;
      const detail = detailOf(row);
      if (detail) detail.hidden = row.hidden || row.querySelector(".open").ariaExpanded !== "true";
    }
    const chosen = !stream || body.dataset.stream === stream;
    body.hidden = !chosen || !shown;
    if (chosen) [total, left] = [total + rows.length, left + shown];
    const folded = body.closest("details");
    if (folded && words.length && shown) folded.open = true;
  }
  for (const picture of all(`#${section} [data-stream]:not(tbody)`)) picture.hidden = picture.dataset.stream !== stream;
  const table = byId("table-methods");
  if (section === "methods") byId("show-all").hidden = left <= 100 || !table.classList.contains("short");
  document.querySelector(`output[data-count="${section}"]`).textContent =
    left === total ? counted(total, "row") : `${left} of ${total} rows`;
};
byId("show-all")?.addEventListener("click", () => {
  byId("table-methods").classList.remove("short");
  apply("methods");
});
for (const [section, input] of Object.entries(inputs)) input.addEventListener("input", () => { apply(section); keep(); });
choice?.addEventListener("change", () => { apply("methods"); tickList(); keep(); });

// --- ticked curves ---
const slots = Number(document.querySelector(".curves")?.dataset.slots ?? 0);
let ticked = {}; // row -> slot
const boardOf = () => choice?.value || Object.keys(data().boards)[0];
const drawCurves = () => {
  const series = (key) => Object.entries(ticked).filter(([id]) => data().rows[id]?.curves[key])
    .map(([id, slot]) => ({ key: id, label: data().rows[id].title, slot, points: data().rows[id].curves[key], unit: key === "entropy" ? 1000 : 10 }));
  const place = document.querySelector("#curves .drawn");
  place.replaceChildren(...[
    chart("Accuracy after each task", "tasks seen", "percent of their test images right", series("accuracy"), [560, 300], PERCENT),
    chart("Entropy of the training predictions", "epoch, over all experiences", "nats", series("entropy"), [560, 300], NATS)].filter(Boolean));
  if (!place.children.length) place.append(h("p", { class: "soft" }, "No curve is ticked, or there is one task alone."));
};
const tickList = (wanted = null) => {
  if (!slots) return;
  const board = boardOf();
  const rows = Object.entries(data().rows).filter(([id, row]) => id.endsWith(`@${board}`) && row.drawn);
  const first = (wanted ?? data().boards[board].first).filter((id) => rows.some(([other]) => other === id)).slice(0, slots);
  ticked = Object.fromEntries(first.map((id, slot) => [id, slot]));
  const fieldset = document.querySelector("#curves fieldset");
  fieldset.replaceChildren(h("legend", {}, `Methods on ${data().boards[board].name}`), ...rows.map(([id, row]) => {
    const box = h("input", { type: "checkbox", value: id, ...(id in ticked ? { checked: "" } : {}) });
    const label = h("label", {}, box, sample(ticked[id] ?? null), row.title);
    box.addEventListener("change", () => {
      const taken = Object.values(ticked), note = byId("curves-note");
      const free = [...Array(slots).keys()].find((slot) => !taken.includes(slot));
      note.textContent = "";
      if (box.checked && free === undefined) {
        box.checked = false;
        note.textContent = `${slots} are shown already: untick one first.`;
        return;
      }
      if (box.checked) ticked[id] = free;
      else delete ticked[id];
      label.querySelector(".sample").replaceWith(sample(ticked[id] ?? null));
      drawCurves();
      keep();
    });
    return label;
  }));
  drawCurves();
};

// --- the address: #methods?stream=...&q=...&sort=last_acc.desc&curves=a,b, or #id of a row ---
const state = () => {
  const kept = new URLSearchParams();
  if (choice && choice.selectedIndex) kept.set("stream", choice.value || "*");
  for (const [section, input] of Object.entries(inputs)) if (input.value) kept.set(section, input.value);
  const header = document.querySelector("#table-methods [aria-sort]");
  if (header) kept.set("sort", `${header.dataset.key}.${header.getAttribute("aria-sort") === "ascending" ? "asc" : "desc"}`);
  const keys = Object.keys(ticked);
  if (slots && keys.join() !== data().boards[boardOf()].first.join()) kept.set("curves", keys.join(","));
  return kept.toString();
};
const keep = () => {
  const query = state();
  history.replaceState(null, "", query ? `#methods?${query}` : location.pathname + location.search);
};
const decoded = (text) => { try { return decodeURIComponent(text); } catch { return text; } };
const follow = () => {
  const [place, query = ""] = location.hash.slice(1).split("?");
  const kept = new URLSearchParams(query);
  if (query && choice) {
    const wanted = kept.get("stream") === "*" ? "" : kept.get("stream");
    if (wanted !== null && [...choice.options].some((option) => option.value === wanted)) choice.value = wanted;
    for (const [section, input] of Object.entries(inputs)) {
      input.value = kept.get(section) ?? "";
      apply(section);
    }
    const [key, direction] = (kept.get("sort") ?? "").split(".");
    const header = all("#table-methods th[data-key]").find((th) => th.dataset.key === key);
    if (header) sort(header, direction === "asc" ? 1 : -1);
    tickList(kept.has("curves") ? kept.get("curves").split(",") : null);
  }
  const target = byId(decoded(place));
  if (!target) return;
  const row = target.matches(".detail") ? target.previousElementSibling : target;
  for (let folded = row.closest("details"); folded; folded = folded.parentElement.closest("details")) folded.open = true;
  const section = row.closest("section")?.id;
  if (row.matches(".row, .group")) {
    const body = row.closest("tbody");
    if (body.dataset.stream && choice.value && choice.value !== body.dataset.stream) {
      choice.value = body.dataset.stream;
      tickList();
    }
    if (inputs[section] && (row.hidden || body.hidden)) {
      if (row.hidden) inputs[section].value = "";
      apply(section);
    }
    const button = row.querySelector(".open");
    if (button) open(button, true);
    if (!row.checkVisibility()) byId("show-all")?.click();
  }
  if (place) row.scrollIntoView();
};
addEventListener("hashchange", follow);

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const query = state();
  const hash = button.dataset.copy === "state" ? (query ? `#methods?${query}` : "#methods") : `#${encodeURIComponent(button.dataset.copy)}`;
  history.replaceState(null, "", hash);
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(location.href);
    button.textContent = "Copied";
  } catch {
    button.textContent = "The link is in the address bar";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
});

for (const section of Object.keys(inputs)) apply(section); // a browser may have kept what was typed before a reload
// the curves are far down: drawn when they come near
if (slots) {
  if (location.hash.includes("?")) tickList();
  else new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    if (!Object.keys(ticked).length) tickList();
  }, { rootMargin: "600px" }).observe(byId("curves"));
}
follow();
