"use strict";
// What everything else uses: elements, samples, the view and what it shows.

const data = window.ACGD;
const samples = data.samples;
const byId = (id) => document.getElementById(id);

// An element; strings become text nodes, so no user's string is ever read as HTML.
function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  set(element, properties);
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function svg(tag, properties = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  set(element, properties);
  element.append(...children);
  return element;
}

function set(element, properties) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
}

const PATHS = {
  play: "M3 1 L11 6 L3 11 Z", pause: "M2 1 H5 V11 H2 Z M7 1 H10 V11 H7 Z",
  copy: "M4 4 V1 H11 V8 H8 M1 4 H8 V11 H1 Z",
};
function icon(name) {
  const open = name === "copy";
  const path = svg("path", { d: PATHS[name], fill: open ? "none" : "currentColor" });
  if (open) set(path, { stroke: "currentColor", "stroke-width": "1.2" });
  return svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, path);
}

const number = (value) => {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(3);
};

// The view: what the controls change. rows and columns are "row" (the sound), "all" settings,
// "seed", "none" or the number of a setting.
const view = {
  layout: "grid", captions: true, rows: "row", columns: "all", score: 0, size: "112", sort: "order",
  text: "", row: "", status: "", settings: data.keys.map(() => ""), least: null,
};

const value = (sample, axis) => {
  if (axis === "row") return String(sample.row);
  if (axis === "all") return sample.settings.join("\u0000");
  if (axis === "seed") return sample.seed === null ? "" : String(sample.seed);
  if (axis === "none") return "";
  return sample.settings[Number(axis)];
};

// Numbers in their order, everything else as it first came.
function distinct(list, axis) {
  const found = [...new Set(list.map((sample) => value(sample, axis)))];
  const order = new Map(found.map((key, i) => [key, i]));
  if (axis === "row") return found.sort((a, b) => a - b);
  const parts = new Map(found.map((key) => [key, key.split("\u0000")]));
  return found.sort((a, b) => {
    const [left, right] = [parts.get(a), parts.get(b)];
    for (let i = 0; i < left.length; i++) {
      if (left[i] === right[i]) continue;
      const [x, y] = [parseFloat(left[i]), parseFloat(right[i])];
      if (!Number.isNaN(x) && !Number.isNaN(y) && x !== y) return x - y;
      return order.get(a) - order.get(b);
    }
    return 0;
  });
}

// A score's span over all samples, and where a sample stands in it: 0 (poor) to 1 (good).
function span(index) {
  const values = samples.map((sample) => sample.scores[index]).filter((one) => one !== null);
  return values.length ? [Math.min(...values), Math.max(...values)] : null;
}
let limits = null;
function standing(sample) {
  const score = sample.scores[view.score];
  if (score === null || score === undefined || !limits) return null;
  const [low, high] = limits;
  const at = high > low ? (score - low) / (high - low) : 0.5;
  return data.scores[view.score].low ? 1 - at : at;
}

const haystacks = samples.map((sample) => {
  const row = data.rows[sample.row];
  return [
    sample.label, row.label, row.path, row.text, sample.caption, sample.error, sample.status,
    `seed ${sample.seed}`, ...sample.words, ...sample.settings.map((one, i) => `${data.keys[i]}=${one}`),
  ].join("\n").toLowerCase();
});

// The samples that pass the filters, in order.
function shown() {
  const words = view.text.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = samples.filter((sample, i) =>
    words.every((word) => haystacks[i].includes(word)) &&
    (view.row === "" || sample.row === Number(view.row)) &&
    (view.status === "" || sample.status === view.status) &&
    view.settings.every((wanted, k) => wanted === "" || sample.settings[k] === wanted) &&
    (view.least === null || (standing(sample) ?? -1) >= view.least - 1e-9));
  return kept.sort(inOrder);
}

function inOrder(a, b) {
  if (view.sort === "best" || view.sort === "worst") {
    const [x, y] = [standing(a) ?? -1, standing(b) ?? -1];
    if (x !== y) return view.sort === "best" || x < 0 || y < 0 ? y - x : x - y;
  }
  if (view.sort === "name") {
    const by = data.rows[a.row].label.localeCompare(data.rows[b.row].label);
    if (by) return by;
  }
  return a.row - b.row || (a.seed ?? -1) - (b.seed ?? -1) || a.index - b.index;
}

samples.forEach((sample, i) => { sample.index = i; });

const SHELL = /^[\w@%+=:,./-]+$/;
const quoted = (word) => (SHELL.test(word) ? word : `'${word.replaceAll("'", "'\"'\"'")}'`);

// The lines that make these samples: one for each job's settings, with their seeds.
function commands(list) {
  const seeds = new Map();
  for (const sample of list) {
    if (!sample.command) continue;
    if (!seeds.has(sample.command)) seeds.set(sample.command, new Set());
    if (sample.seed !== null) seeds.get(sample.command).add(sample.seed);
  }
  return [...seeds].map(([line, own]) => {
    const all = [...own].sort((a, b) => a - b);
    if (!all.length) return line;
    return `${line} ${quoted(all.length > 1 ? `seed=[${all.join(",")}]` : `seed=${all[0]}`)}`;
  }).join("\n");
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = h("textarea", { class: "hidden" });
    area.value = text;
    (byId("enlarged").open ? byId("enlarged") : document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say("Copied");
}

let quiet = 0;
function say(text) {
  const box = byId("said");
  (byId("enlarged").open ? byId("enlarged") : document.body).append(box);
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => box.classList.remove("on"), 1600);
}

function commandLine(text) {
  return h("div", { class: "command" }, h("code", {}, text),
    h("button", { type: "button", onclick: () => copy(text), "aria-label": "Copy the command" }, "Copy"));
}
