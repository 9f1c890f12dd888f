// The page's head, the controls, the list of what failed; then the first drawing.

function select(name, choices, key, change = draw) {
  const box = h("select", { "aria-label": name }, choices.map(([value, text]) => h("option", { value }, text)));
  box.value = typeof key === "function" ? key() : view[key];
  box.addEventListener("change", () => {
    if (typeof key === "function") key(box.value); else view[key] = box.value;
    change();
  });
  return h("label", {}, name, box);
}

let waiting = 0;
function soon() { // while somebody types or drags
  clearTimeout(waiting);
  waiting = setTimeout(draw, 120);
}

function axes(also) {
  const keys = data.keys.map((key, k) => [String(k), key]);
  const all = keys.length > 1 ? [["all", "all settings"]] : [];
  return [["row", subjects()], ...all, ...keys, ["seed", "seed"], ...also];
}

function controls() {
  const values = (k) => distinct(samples, String(k)).map((one) => [one, one || "(not set)"]);
  const states = [...new Set(samples.map((sample) => sample.status))];
  const best = [["order", "as swept"], ["best", "best first"], ["worst", "worst first"], ["name", "by name"]];
  const search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search labels, captions, settings", oninput: (event) => { view.text = event.target.value; soon(); } });
  const captions = h("input", { type: "checkbox", onchange: (event) => { view.captions = event.target.checked; draw(); } });
  captions.checked = view.captions;
  return [
    h("div", { class: "controls" },
      select("View", [["grid", "grid"], ["gallery", "gallery"]], "layout"),
      select("Rows", axes([]), "rows"),
      select("Columns", axes([["none", "none"]]), "columns"),
      select("Sort", data.scores.length ? best : best.filter(([key]) => !/best|worst/.test(key)), "sort"),
      select("Size", [["72", "small"], ["112", "medium"], ["176", "large"]], "size"),
      h("label", {}, captions, "Captions"),
      search,
      h("span", { class: "push number", id: "count" })),
    h("div", { class: "controls" },
      data.scores.length ? select("Colour", data.scores.map((score, k) => [String(k), score.name]), (to) => {
        if (to !== undefined) view.score = Number(to);
        return String(view.score);
      }, () => { view.least = null; legend(); draw(); }) : null,
      h("span", { class: "legend", id: "legend" }),
      h("span", { id: "least" }),
      data.rows.length > 1 ? select(subjects()[0].toUpperCase() + subjects().slice(1), [["", "all"], ...data.rows.map((row, i) => [String(i), row.label])], "row") : null,
      data.keys.slice(0, 6).map((key, k) => select(key, [["", "all"], ...values(k)], (to) => {
        if (to !== undefined) view.settings[k] = to;
        return view.settings[k];
      })),
      states.length > 1 ? select("Status", [["", "all"], ...states.map((one) => [one, one])], "status") : null),
  ];
}

function legend() {
  const score = data.scores[view.score];
  const ends = score && span(view.score);
  byId("legend").replaceChildren();
  byId("least").replaceChildren();
  if (!ends) return;
  const [poor, good] = score.low ? [ends[1], ends[0]] : ends;
  byId("legend").append(number(poor), h("i", { role: "img", "aria-label": `from ${number(poor)} to ${number(good)}` }), number(good));
  const out = h("output", {}, "any");
  const range = h("input", { type: "range", min: 0, max: 100, value: 0, "aria-label": `Least ${score.name}` });
  range.addEventListener("input", () => {
    const at = Number(range.value) / 100;
    view.least = at ? at : null;
    out.textContent = at ? number(poor + at * (good - poor)) : "any";
    soon();
  });
  byId("least").append(h("label", {}, score.low ? "At most" : "At least", range, out));
}

function counted() {
  const some = visible.length < samples.length ? `${visible.length} of ${samples.length}` : `${samples.length}`;
  byId("count").textContent = `${some} shown`;
}

function head() {
  const count = (status) => samples.filter((sample) => sample.status === status).length;
  const pictures = samples.filter((sample) => sample.full).length;
  const parts = [`${pictures} picture${pictures === 1 ? "" : "s"}`, `${data.rows.length} ${subjects()}${data.rows.length === 1 ? "" : "s"}`];
  for (const key of data.keys.slice(0, 4)) {
    const values = distinct(samples, String(data.keys.indexOf(key)));
    parts.push(values.length > 6 ? `${key} with ${values.length} values` : `${key} ${values.join(", ")}`);
  }
  if (data.keys.length > 4) parts.push(`${data.keys.length - 4} more settings`);
  const seeds = distinct(samples, "seed").filter(Boolean);
  if (seeds.length) parts.push(seeds.length > 6 ? `${seeds.length} seeds` : `seed ${seeds.join(", ")}`);
  for (const status of ["failed", "interrupted", "not started", "unfinished"]) if (count(status)) parts.push(`${count(status)} ${status}`);
  const links = [
    byId("failed") ? h("a", { href: "#failed" }, `What failed (${count("failed")})`) : null,
    byId("comparison") ? h("a", { href: "#comparison" }, "Comparison") : null,
    data.sheet ? h("a", { href: data.sheet, target: "_blank" }, "Contact sheet") : null].filter(Boolean);
  byId("head").append(h("div", { class: "title" }, h("h1", {}, data.title),
    links.length ? h("nav", { "aria-label": "On this page" }, links) : ""),
  h("p", { class: "pale" }, parts.join(" · ")), data.command ? commandLine(data.command) : "");
}

// What failed by its message: where it was said, the commands, the first one's traceback.
function failures() {
  const groups = new Map();
  for (const sample of samples.filter((one) => one.status === "failed")) {
    if (!groups.has(sample.error)) groups.set(sample.error, []);
    groups.get(sample.error).push(sample);
  }
  if (!groups.size) return null;
  return h("section", { id: "failed" }, h("h2", {}, "What failed"),
    h("div", { class: "wide" }, [...groups].map(([error, list]) => failure(error, list))));
}

function failure(error, list) {
  const trace = h("details", {}, h("summary", {}, "Traceback"));
  trace.addEventListener("toggle", async () => {
    const more = await details(list[0]);
    if (trace.children.length === 1) trace.append(h("pre", { tabindex: 0 }, more?.traceback || "none was written"));
  });
  const where = list.slice(0, 50).map((sample) => h("li", {}, heading(sample) || "a job",
    commands([sample]) ? commandLine(commands([sample])) : null));
  if (list.length > 50) where.push(h("li", {}, `and ${list.length - 50} more`));
  const places = list.length > 1 ? `${list.length} times` : "Where";
  return h("div", { class: "job" }, h("p", {}, h("b", {}, error || "no message was written")),
    h("details", { open: list.length === 1 }, h("summary", {}, places), h("ul", {}, where)), trace);
}

// Columns are all combinations of what varies, or the first setting where these are too many.
function begin() {
  const few = (axis) => distinct(samples, axis).length <= 12;
  if (!data.keys.length) view.columns = "none";
  else if (data.keys.length === 1) view.columns = few("0") ? "0" : "none";
  else if (!few("all")) view.columns = String(Math.max(0, data.keys.findIndex((_, k) => few(String(k)))));
  view.size = roomy(176) ? "176" : roomy(112) || samples.length < 100 ? "112" : "72";
  view.captions = samples.length <= 400;
  const labels = data.rows.map((row) => row.label);
  data.rows.forEach((row) => { row.same = labels.filter((one) => one === row.label).length > 1; });
}

// Whether tiles of a size leave all columns and seeds side by side.
function roomy(size) {
  const cells = new Map();
  for (const sample of samples) {
    const key = `${value(sample, view.rows)}\u0001${value(sample, view.columns)}`;
    cells.set(key, (cells.get(key) ?? 0) + 1);
  }
  const wide = distinct(samples, view.columns).length * (Math.max(...cells.values()) * (size + 6) + 18);
  return wide + 280 <= document.documentElement.clientWidth;
}

function start() {
  if (data.kind === "run") {
    byId("tools").remove();
    byId("head").append(h("h1", {}, data.title));
    byId("main").append(detail(samples[0], data.details[0], true));
    return;
  }
  begin();
  const folded = h("details", {}, h("summary", {}, "View and filter"), controls());
  const wide = matchMedia("(min-width: 641px)");
  const fold = () => { folded.open = wide.matches; };
  wide.addEventListener("change", fold);
  fold();
  byId("tools").append(folded);
  byId("main").append(h("section", { id: "pictures", "aria-label": "Pictures" }));
  for (const part of [failures(), comparison()]) if (part) byId("main").append(part);
  head();
  legend();
  draw();
  const under = () => document.documentElement.style.setProperty("--under", `${byId("tools").offsetHeight - 1}px`);
  new ResizeObserver(under).observe(byId("tools"));
  byId("pictures").addEventListener("click", (event) => {
    const tile = event.target.closest(".tile");
    if (tile) enlarge(samples[tile.dataset.i]);
  });
  byId("pictures").addEventListener("keydown", walk);
  byId("enlarged").addEventListener("close", closed);
  byId("enlarged").addEventListener("keydown", onkey);
  byId("enlarged").addEventListener("click", (event) => { if (event.target === byId("enlarged")) byId("enlarged").close(); });
  const asked = samples[Number(location.hash.slice(1) || NaN)];
  if (asked) enlarge(asked);
}

start();
