// The grid (rows x columns, the rest inside a cell), the gallery (one after the other), the tiles.

let visible = []; // in the order that the arrow keys take

function draw() {
  limits = data.scores.length ? span(view.score) : null;
  visible = shown();
  const box = byId("pictures");
  document.documentElement.style.setProperty("--tile", `${view.size}px`);
  const content = !visible.length
    ? h("p", { class: "empty" }, "Nothing passes these filters.")
    : view.layout === "grid" ? grid(visible) : gallery(visible);
  box.replaceChildren(content);
  visible = [...box.querySelectorAll(".tile")].map((tile) => samples[tile.dataset.i]);
  const first = box.querySelector(".tile");
  if (first) first.tabIndex = 0;
  counted();
}

function grid(list) {
  const columns = distinct(samples, view.columns)
    .filter((key) => list.some((sample) => value(sample, view.columns) === key));
  const rows = view.sort === "order" ? distinct(list, view.rows)
    : [...new Set(list.map((sample) => value(sample, view.rows)))];
  const cells = new Map();
  for (const sample of list) {
    const key = `${value(sample, view.rows)}\u0001${value(sample, view.columns)}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(sample);
  }
  const most = Math.max(...[...cells.values()].map((cell) => cell.length));
  const across = fit(columns.length, most);
  const tile = Number(view.size);
  const table = h("div", {
    class: "grid", role: "table", "aria-label": "Pictures", "--columns": columns.length,
    "--across": across, "--cell": `${across * (tile + 6) + 18}px`,
    "--tall": `${Math.ceil(most / across) * (tile + 26) + 16}px`,
  });
  if (columns.length > 1 || columns[0] !== "") table.append(titles(columns));
  for (const row of rows) {
    const own = columns.map((column) => cells.get(`${row}\u0001${column}`) ?? []);
    table.append(h("div", { class: "line row", role: "row" },
      h("div", { class: "about", role: "rowheader" }, h("div", { class: "stay" }, about(row, own.flat()))),
      columns.map((column, i) => cell(own[i], named(view.columns, column).join(", ")))));
  }
  return table;
}

// Tiles side by side in a cell: all in one line if the columns leave the room, else a block.
function fit(columns, most) {
  const room = (document.documentElement.clientWidth - 280) / columns;
  const wide = Math.max(1, Math.floor((room - 18) / (Number(view.size) + 6)));
  return Math.min(most, Math.max(wide, Math.min(2, most), Math.floor(Math.sqrt(most / 16))));
}

function titles(columns) {
  const name = view.columns === "all" ? "" : view.columns === "seed" ? "" : axisName(view.columns);
  return h("div", { class: "line titles", role: "row" },
    h("div", { class: "about", role: "columnheader" }, view.rows === "row" ? "" : axisName(view.rows)),
    columns.map((column) => h("div", { class: "title", role: "columnheader" }, title(column, name))));
}

// What the rows are of, in a word.
function subjects() {
  const kinds = new Set(data.rows.map((row) => row.kind));
  return kinds.size > 1 ? "prompt" : { audio: "sound", text: "text" }[[...kinds][0]] ?? "prompt";
}

function title(column, name) {
  if (view.columns === "row") return data.rows[column].label;
  if (view.columns === "seed") return column ? `seed ${column}` : "no seed";
  if (view.columns !== "all") return [h("small", {}, name), " ", column || "(not set)"];
  return column.split("\u0000").map((one, k) =>
    h("div", {}, h("small", {}, data.keys[k]), " ", one || "(not set)"));
}

function axisName(axis) {
  return { row: subjects(), all: "all settings", seed: "seed", none: "" }[axis] ?? data.keys[Number(axis)];
}

// An axis' value in words.
function named(axis, key) {
  if (axis === "none") return [];
  if (axis === "row") return [data.rows[key].label];
  if (axis === "seed") return [`seed ${key}`];
  if (axis === "all") return key.split("\u0000").map((one, k) => `${data.keys[k]} ${one}`).filter((_, k) => data.keys[k]);
  return [`${data.keys[Number(axis)]} ${key}`];
}

function about(key, list) {
  if (view.rows !== "row") return h("h3", {}, named(view.rows, key).join(", "));
  const row = data.rows[key];
  return [h("h3", {}, row.label), ...asked(row, list)];
}

// What a row is of: the sound to be played, the words that describe it, the picture.
function asked(row, list) {
  const words = [...new Set(list.map((sample) => sample.words.join(", ")).filter(Boolean))];
  const gone = row.path && !row.sound ? "its sound cannot be read" : null;
  return [
    player(row),
    row.picture ? h("img", { src: row.picture, alt: `The prompt ${row.label}` }) : null,
    words.length === 1 ? h("p", {}, `“${words[0]}”`) : null,
    gone ? h("p", {}, gone) : null,
    row.path && row.same ? h("p", {}, row.path) : null,
  ].filter(Boolean);
}

function cell(list, name) {
  const line = commands(list);
  const button = line
    ? h("button", { class: "copy", type: "button", title: "Copy the command that makes this cell",
        "aria-label": `Copy the command that makes ${name || "this cell"}`, onclick: () => copy(line) }, icon("copy"))
    : null;
  return h("div", { class: "cell", role: "cell" },
    name ? h("h4", {}, name) : null,
    h("div", { class: "tiles" }, list.map((sample) => tile(sample, rest(sample), sample.caption))), button);
}

// The settings that neither rows nor columns tell.
function rest(sample) {
  const axes = [view.rows, view.columns];
  const values = axes.includes("all") ? [] : sample.settings.filter((_, k) => !axes.includes(String(k)));
  const word = Number(view.size) < 100 ? "" : "seed ";
  if (!axes.includes("seed") && sample.seed !== null) values.push(`${word}${sample.seed}`);
  if (!axes.includes("row")) values.unshift(data.rows[sample.row].label);
  return values.join(", ");
}

function gallery(list) {
  const tiles = list.map((sample) => {
    const row = data.rows[sample.row];
    return tile(sample, sample.seed === null ? "" : `seed ${sample.seed}`,
      [[row.label, ...sample.settings].filter(Boolean).join(", "), sample.caption].filter(Boolean).join(": "));
  });
  return h("div", { class: "grid gallery" }, h("div", { class: "tiles" }, tiles));
}

function tile(sample, note, name) {
  const score = sample.scores[view.score] ?? null;
  const at = standing(sample);
  const foot = at === null ? { class: "foot" }
    : { class: `foot scored${at > 0.62 ? " high" : ""}`, "--t": `${Math.round(at * 100)}%` };
  const ok = sample.status === "ok";
  const said = sample.caption ? `: ${sample.caption}` : "";
  const picture = sample.thumb
    ? h("img", { src: sample.thumb, alt: `${data.rows[sample.row].label}${said}`, loading: "lazy", decoding: "async", width: 192, height: 192 })
    : h("span", { class: "none" }, h("b", {}, ok ? "no picture" : sample.status), sample.error.slice(0, 90));
  return h("button", {
    class: `tile${sample.status === "failed" ? " bad" : ""}`, type: "button", tabindex: "-1",
    "data-i": sample.index, title: [sample.label, ...sample.settings, `seed ${sample.seed}`, sample.caption].filter(Boolean).join("\n"),
  },
  picture, !ok && sample.thumb ? h("span", { class: "badge" }, sample.status) : null,
  view.captions && Number(view.size) > 80 && sample.thumb ? h("span", { class: "name" }, name) : null,
  h("span", foot, h("span", {}, note), h("span", {}, number(score))));
}

// Arrow keys among the tiles: left and right in order, up and down to the nearest.
function walk(event) {
  const tile = event.target.closest?.(".tile");
  if (!tile || event.altKey || event.ctrlKey || event.metaKey) return;
  const tiles = [...byId("pictures").querySelectorAll(".tile")];
  const at = tiles.indexOf(tile);
  const next = {
    ArrowRight: () => tiles[at + 1], ArrowLeft: () => tiles[at - 1],
    ArrowDown: () => nearest(tile, tiles.slice(at + 1), 1), ArrowUp: () => nearest(tile, tiles.slice(0, at).reverse(), -1),
    Home: () => tiles[0], End: () => tiles.at(-1),
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const wanted = next();
  if (!wanted) return;
  focus(wanted);
}

function nearest(from, tiles, way) {
  const a = from.getBoundingClientRect();
  let best = null;
  let line = null;
  for (const tile of tiles) {
    const b = tile.getBoundingClientRect();
    if ((b.top - a.top) * way < 8) continue;
    line ??= b.top;
    if (Math.abs(b.top - line) > 8 && best) break;
    const far = Math.abs(b.left - a.left);
    if (Math.abs(b.top - line) <= 8 && (!best || far < best.far)) best = { tile, far };
  }
  return best?.tile;
}

function focus(tile) {
  for (const other of byId("pictures").querySelectorAll('.tile[tabindex="0"]')) other.tabIndex = -1;
  tile.tabIndex = 0;
  tile.focus();
  tile.scrollIntoView({ block: "nearest", inline: "nearest" });
}
