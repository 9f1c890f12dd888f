// The comparison: for each measure the settings' means with their intervals, and the differences
// from the first setting over the same sounds and seeds.

function comparison() {
  if (!data.tables?.length) return null;
  const box = h("div", { class: "cards" });
  const fill = (at) => box.replaceChildren(...data.tables[at].cards.map(card));
  const by = h("select", {}, data.tables.map((one, i) => h("option", { value: i }, one.by || "all samples")));
  by.addEventListener("change", () => fill(by.value));
  fill(0);
  return h("section", { id: "comparison" }, h("h2", {}, "Comparison"),
    h("div", { class: "wide" },
      h("p", { class: "pale" }, "Means over sounds and seeds with 95 % intervals. Differences are over the same sounds and seeds; p is of a paired permutation test, adjusted for the number of differences (Holm)."),
      data.tables.length > 1 ? h("p", { class: "controls" }, h("label", {}, "By", by)) : null, box));
}

function card(one) {
  const known = one.means.filter(([, mean]) => mean !== null);
  const ends = known.flatMap(([, mean, low, high]) => [mean, low ?? mean, high ?? mean]);
  if (one.chance !== null) ends.push(one.chance);
  const scale = axis(ends);
  const fair = known.filter(([, , , , n]) => n > 1); // one picture a setting decides nothing
  const best = Math[one.better === "lower" ? "min" : "max"](...fair.map(([, mean]) => mean));
  const several = fair.length > 1 && fair.some(([, mean]) => mean !== best);
  const rows = one.means.map(([name, mean, low, high, n, failed]) => h("tr", { class: several && n > 1 && mean === best ? "best" : null },
    h("th", { scope: "row", title: name }, name), h("td", { class: "plot" }, plot(scale, mean, low, high, one.chance)),
    h("td", {}, mean === null ? "–" : fixed(mean)), h("td", { class: "pale" }, between(low, high)),
    h("td", { class: "pale" }, `${n}${failed ? `, ${failed} failed` : ""}`)));
  return h("figure", { class: "card" },
    h("figcaption", {}, one.title, h("span", { class: "pale" }, `${one.better} is better${one.chance === null ? "" : `, chance gives ${number(one.chance)}`}`)),
    table(["setting", "", "mean", "95 % interval", "n"], rows), differences(one));
}

function differences(one) {
  const known = one.pairs.filter(([, , d]) => d !== null);
  if (!known.length) return null;
  const scale = axis([0, ...known.flatMap(([, , d, low, high]) => [d, low ?? d, high ?? d])]);
  const rows = known.map(([, b, d, low, high, n, p]) => h("tr", {},
    h("th", { scope: "row", title: b }, b), h("td", { class: "plot" }, plot(scale, d, low, high, 0)),
    h("td", {}, `${d > 0 ? "+" : ""}${fixed(d)}`), h("td", { class: "pale" }, between(low, high)),
    h("td", { class: "pale" }, `${n}${p === null ? "" : `, ${p < 0.001 ? "< 0.001" : p.toFixed(3)}`}`)));
  return table([`less ${known[0][0]}`, "", "difference", "95 % interval", "pairs, p"], rows);
}

const fixed = (value) => (Math.abs(value) < 100 ? value.toFixed(3) : number(value));

function table(names, rows) {
  return h("table", {}, h("thead", {}, h("tr", {}, names.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows));
}

const between = (low, high) => (low === null ? "" : `${fixed(low)} to ${fixed(high)}`);

function axis(ends) {
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return (x) => (high > low ? 4 + (92 * (x - low)) / (high - low) : 50);
}

// A point with its interval on a common scale; a dashed line for chance or for no difference.
function plot(scale, mean, low, high, line) {
  const mark = (x1, x2, name) => svg("line", { x1: `${x1}%`, x2: `${x2}%`, y1: name === "zero" ? 0 : 11, y2: name === "zero" ? 22 : 11, class: name });
  const parts = [];
  if (line !== null) parts.push(mark(scale(line), scale(line), "zero"));
  if (mean !== null && low !== null) parts.push(mark(scale(low), scale(high), "interval"));
  if (mean !== null) parts.push(svg("circle", { cx: `${scale(mean)}%`, cy: 11, r: 3.5 }));
  return svg("svg", { height: 22, "aria-hidden": "true" }, ...parts);
}
