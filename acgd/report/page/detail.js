// The enlarged picture: previews, scores, loss curves, the command; a dialog, or a run's own page.

const loading = new Map();
let current = null;
let moving = 0;

data.details ??= [];
data.arrived = (chunk, part) => part.forEach((one, i) => { data.details[chunk * data.chunk + i] = one; });

// What is shown of a sample besides comes in files of its own, fetched by script elements:
// a page from disk may not read other files in any other way.
function details(sample) {
  if (data.details[sample.index]) return Promise.resolve(data.details[sample.index]);
  const chunk = Math.floor(sample.index / data.chunk);
  if (!loading.has(chunk)) {
    loading.set(chunk, new Promise((done) => {
      const script = h("script", { src: `report/details-${chunk}.js`, onload: done, onerror: done });
      document.head.append(script);
    }));
  }
  return loading.get(chunk).then(() => data.details[sample.index] ?? null);
}

async function enlarge(sample) {
  const dialog = byId("enlarged");
  stop();
  current = sample;
  const more = await details(sample);
  if (current !== sample) return;
  const at = visible.indexOf(sample);
  const bar = h("div", { class: "bar" },
    h("h2", {}, heading(sample)), h("span", { class: "pale number" }, `${at + 1} of ${visible.length}`),
    h("button", { type: "button", onclick: () => step(-1), "aria-label": "Previous picture" }, "←"),
    h("button", { type: "button", onclick: () => step(1), "aria-label": "Next picture" }, "→"),
    h("button", { type: "button", onclick: () => dialog.close(), "aria-label": "Close", autofocus: true }, "✕"));
  dialog.replaceChildren(bar, detail(sample, more, false));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", `#${sample.index}`);
}

function step(way) {
  const at = visible.indexOf(current) + way;
  if (at >= 0 && at < visible.length) enlarge(visible[at]);
}

function closed() {
  stop();
  speaker.pause();
  history.replaceState(null, "", location.pathname + location.search);
  const tile = current && byId("pictures").querySelector(`[data-i="${current.index}"]`);
  if (tile) focus(tile);
  current = null;
}

function onkey(event) {
  if (event.target.matches("input, select, textarea")) return;
  const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (way) { event.preventDefault(); step(way); }
}

function heading(sample) {
  const settings = sample.settings.map((one, k) => (one ? `${data.keys[k]} ${one}` : "")).filter(Boolean);
  return [data.rows[sample.row].label, ...settings, sample.seed === null ? "" : `seed ${sample.seed}`]
    .filter(Boolean).join(", ");
}

function detail(sample, more, alone) {
  const row = data.rows[sample.row];
  more ??= { frames: [], losses: {}, config: {}, heard: [], seen: {}, of: {}, overrides: [] };
  const line = commands([sample]) || more.again || "";
  return h("div", { class: alone ? "alone detail" : "detail" },
    h("div", {}, film(sample), big(sample, more), twin(sample), curves(more.losses),
      line ? group("Make it again", commandLine(line)) : null),
    h("div", {},
      sample.status === "ok" ? null : trouble(sample, more),
      facts(sample, row, more),
      row.sound ? group("Sound", player(row)) : null,
      row.picture ? group("Prompt", h("img", { src: row.picture, alt: row.label, width: 120 })) : null,
      more.heard?.length ? group("Heard in the sound", bars(more.heard)) : null,
      scoreTable(sample, more),
      configuration(more)));
}

function film(sample) {
  if (!sample.film) return null;
  return group("Film", h("video", { src: sample.film, controls: true, loop: true, preload: "metadata", poster: sample.full }),
    h("img", { class: "timeline", src: sample.timeline, alt: "What is heard when" }));
}

function twin(sample) {
  if (!sample.twin) return null;
  return group("The same seed without guidance", h("img", { src: sample.twin, alt: "Without guidance", width: 160, height: 160 }));
}

function group(name, ...content) {
  return h("div", { class: "group" }, h("h3", {}, name), content);
}

function trouble(sample, more) {
  return h("div", { class: "job", role: "note" }, h("p", {}, h("b", {}, sample.status), ` ${sample.error}`),
    more.traceback ? h("details", { open: true }, h("summary", {}, "Traceback"), h("pre", { tabindex: 0 }, more.traceback)) : null);
}

// The picture, the previews below it: a press shows one in its place, play shows all in turn.
function big(sample, more) {
  const file = sample.full ?? sample.thumb;
  const said = h("p", { class: "says" }, sample.caption);
  const stage = h("div", { class: file ? "stage" : "stage blank" }, file
    ? h("img", { src: file, alt: `${data.rows[sample.row].label}: ${sample.caption || "no caption"}` })
    : h("span", { class: "none" }, sample.status === "ok" ? "no picture" : sample.status));
  const last = sample.full ? { src: sample.full, at: 0, of: 1, step: "end", caption: sample.caption } : null;
  const frames = [...more.frames, last].filter(Boolean);
  if (frames.length < 2) return h("div", { class: "big" }, stage, said, links(sample));
  const buttons = frames.map((frame, i) => h("button", {
    type: "button", class: "frame", style: background(frame), "aria-pressed": String(i === frames.length - 1 && Boolean(last)),
    "aria-label": frame === last ? "The picture" : `Step ${frame.step}`, title: `step ${frame.step} ${frame.caption}`,
    onclick: () => { stop(); turn(i); },
  }));
  const turn = (i) => {
    stage.querySelector(".frame")?.remove();
    const frame = frames[i];
    if (frame !== last) stage.append(h("div", { class: "frame", style: background(frame), role: "img", "aria-label": `Step ${frame.step}` }));
    said.textContent = frame === last ? frame.caption : `step ${frame.step}: ${frame.caption}`;
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(i === j)));
  };
  const go = h("button", { type: "button", "aria-label": "Play the previews", onclick: () => run(frames.length, turn) }, icon("play"));
  return h("div", { class: "big" }, stage, said,
    h("div", { class: "strip" }, go, h("div", { class: "frames" }, buttons)), links(sample));
}

function background(frame) {
  const of = frame.of ?? 1;
  const at = of > 1 ? (100 * frame.at) / (of - 1) : 0;
  return `background-image: url("${frame.src}"); background-size: ${100 * of}% 100%; background-position: ${at}% 0`;
}

function run(count, turn) {
  stop();
  let i = 0;
  const next = () => {
    turn(i);
    i += 1;
    if (i < count) moving = setTimeout(next, 140);
  };
  next();
}

function stop() { clearTimeout(moving); }

function links(sample) {
  const found = [sample.full ? h("a", { href: sample.full, target: "_blank" }, "picture") : null,
    sample.movie ? h("a", { href: sample.movie, target: "_blank" }, "animation") : null].filter(Boolean);
  return found.length ? h("p", {}, ...found.flatMap((link, i) => (i ? [" · ", link] : [link]))) : null;
}

function facts(sample, row, more) {
  const list = [
    ["sound", row.path], ["text", row.text], ["picture", row.image],
    ...data.keys.map((key, k) => [key, sample.settings[k]]),
    ["seed", sample.seed], ["described", sample.words.join(", ")], ["folder", sample.folder], ["made with", more.made],
  ].filter(([, one]) => one !== null && one !== undefined && one !== "");
  return h("dl", { class: "facts" }, list.flatMap(([name, one]) => [h("dt", {}, name), h("dd", {}, String(one))]));
}

function bars(pairs) {
  return h("div", { class: "bars" }, pairs.flatMap(([label, share]) => [
    h("span", {}, String(label)), h("i", { style: `width: ${Math.max(0, Math.min(100, 100 * share))}%` }),
    h("span", { class: "pale" }, `${(100 * share).toFixed(0)} %`)]));
}

// Scores by who gave them: a column each for judge, encoder, twin.
function scoreTable(sample, more) {
  const who = new Map([["", []]]);
  data.scores.forEach((score, k) => {
    if (sample.scores[k] === null) return;
    const at = score.key.lastIndexOf(".");
    const name = score.key.slice(0, Math.max(0, at));
    if (!who.has(name)) who.set(name, []);
    who.get(name).push([score.key.slice(at + 1), sample.scores[k]]);
  });
  const columns = [...who.keys()].filter((name) => name && who.get(name).length);
  const names = [...new Set(columns.flatMap((name) => who.get(name).map(([one]) => one)))];
  const show = (name, one) => {
    const found = who.get(name).find(([key]) => key === one);
    if (!found) return "";
    const of = one === "rank" ? more.of?.[name] : null;
    return number(found[1]) + (of ? ` of ${of}` : "");
  };
  const table = names.length ? h("table", {},
    h("thead", {}, h("tr", {}, h("th", {}, ""), columns.map((name) => h("th", { scope: "col" }, name.replace(".", ", "))))),
    h("tbody", {}, names.map((one) => h("tr", {}, h("th", { scope: "row" }, one.replace("image_", "image to ").replaceAll("_", " ")),
      columns.map((name) => h("td", {}, show(name, one))))),
    seenRow(columns, more))) : null;
  const single = who.get("").map(([one, score]) => `${one.replaceAll("_", " ")} ${number(score)}`).join(" · ");
  return table || single ? group("Scores", table, single ? h("p", { class: "pale" }, single) : null) : null;
}

function seenRow(columns, more) {
  const first = (name) => (more.seen?.[name]?.[0] ? `${more.seen[name][0][0]} ${(100 * more.seen[name][0][1]).toFixed(0)} %` : "");
  if (!columns.some(first)) return null;
  return h("tr", {}, h("th", { scope: "row" }, "sees"), columns.map((name) => h("td", {}, first(name))));
}

function curves(losses) {
  const steps = losses?.step ?? [];
  const names = Object.keys(losses ?? {}).filter((name) => name !== "step" && losses[name].some(Boolean));
  return names.length ? group("Losses by step", h("div", { class: "curves" }, names.map((name) => curve(name, steps, losses[name])))) : null;
}

function curve(name, steps, values) {
  const points = values.map((one, i) => [steps[i] ?? i + 1, one]).filter(([, one]) => one !== null);
  const ys = points.map(([, y]) => y);
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const place = ([x, y]) => [
    last > first ? (100 * (x - first)) / (last - first) : 50, high > low ? 38 - (36 * (y - low)) / (high - low) : 20];
  const path = points.map((point, i) => `${i ? "L" : "M"}${place(point).map((one) => one.toFixed(2)).join(" ")}`).join("");
  const text = `${name}, from ${number(ys[0])} at step ${first} to ${number(ys.at(-1))} at step ${last}`;
  return h("figure", {},
    h("figcaption", {}, h("span", {}, name), h("span", { class: "number pale" }, number(ys.at(-1)))),
    svg("svg", { viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": text },
      svg("path", { class: "axis", d: "M0 40 H100" }), svg("path", { class: "curve", d: path })),
    h("div", { class: "ends number" }, h("span", {}, `step ${first}`), h("span", {}, `${number(low)} to ${number(high)}`), h("span", {}, String(last))));
}

function configuration(more) {
  const all = { ...data.common, ...more.config };
  const names = Object.keys(all);
  if (!names.length) return more.overrides?.length ? group("Its overrides", h("pre", {}, more.overrides.join("\n"))) : null;
  const show = (one) => (one === null ? "null" : typeof one === "object" ? JSON.stringify(one) : String(one));
  return h("details", {}, h("summary", {}, `All ${names.length} settings`),
    h("pre", { tabindex: 0 }, names.map((name) => `${name}: ${show(all[name])}`).join("\n")));
}
