// The page on the rank study: sliders over the committed results, two charts, and a map of all settings.

import * as engine from "./ranks_engine.js";
import { Chart } from "./chart.js";
import { addCopyLink, liveText, onHashView, readHash, writeHash } from "./page.js";

const root = document.querySelector("#ranks");
const $ = (name) => root.querySelector(`[data-id="${name}"]`);
const SLIDERS = ["rank", "rate", "step"];
const PAIRS = ["epsilon", "sharpness"]; // of two stops each
const LETTERS = { forward: "F", reverse: "R", arrived: "✓", "not separated": "=" };
const STYLES = {
  forward_kl: { colour: "var(--ex-forward)", label: "forward KL" },
  reverse_kl: { colour: "var(--ex-reverse)", dash: "7 4", label: "reverse KL" },
  jensen_shannon: { colour: "var(--ex-jsd)", dash: "2 4", label: "JSD" },
  adaptive_kl: { colour: "var(--ex-akl)", dash: "10 3 2 3", label: "adaptive KL" },
};
const EPSILON = "_epsilon";

let audit;
let curves;
let view; // { rank, rate, epsilon, sharpness, step: places on axes; distance; between, other }
const charts = {};

async function read(name) {
  const response = await fetch(new URL(`../data/${name}.json`, import.meta.url));
  return response.json();
}

function start() {
  for (const name of SLIDERS) {
    $(name).max = stops(name).length - 1;
    $(name).addEventListener("input", () => show({ [name]: Number($(name).value) }));
  }
  for (const name of PAIRS) {
    $(name).append(...stops(name).map((stop, place) => radio(name, stop, place)));
  }
  $("distance").replaceChildren(
    ...Object.entries(engine.DISTANCES).map(([name, label]) => new Option(label, name)),
  );
  $("distance").addEventListener("change", () => show({ distance: $("distance").value }));
  for (const name of ["between", "other"]) {
    $(name).addEventListener("change", () => show({ [name]: $(name).checked }));
  }
  $("reset").addEventListener("click", () => show(beginning()));
  for (const name of ["weights", "distributions"]) {
    charts[name] = new Chart($(name), {
      x: [1, curves.axes.step.at(-1)],
      y: [0.1, 10],
      logX: true,
      logY: true,
      xLabel: "step",
      xTicks: decades(curves.axes.step.at(-1)),
      margin: { right: 22 },
      height: (width) => Math.min(300, Math.max(220, width * 0.6)),
    });
  }
  $("seeds").textContent = seedsInWords();
  buildMap();
  view = fromHash();
  addCopyLink($("reset").parentElement);
  onHashView(() => {
    show(fromHash());
    root.scrollIntoView();
  });
  root.classList.add("ready");
  show({});
}

const decades = (last) =>
  Array.from({ length: Math.floor(Math.log10(last) + 1e-9) + 1 }, (_, power) => [
    10 ** power,
    (10 ** power).toLocaleString("en"),
  ]);

function seedsInWords() {
  const [drawn, all] = [curves.settings.seeds, audit.axes.seed.length];
  const of = `of the verdict's ${all} seeds`;
  return drawn === 1
    ? `The curves are those of the first ${of}.`
    : `The curves are means over the first ${drawn} ${of}; the bands reach from the least to the ` +
        "greatest. So the curves and the verdict can differ a little.";
}

/** One of two choices. */
function radio(name, stop, place) {
  const label = element("label", { class: "check" });
  const button = element("input", { type: "radio", name, value: place });
  button.addEventListener("change", () => show({ [name]: place }));
  label.append(button, ` ${stop}`);
  return label;
}

/** What the stops of an axis are called. */
function stops(name) {
  const { axes } = audit;
  return {
    rank: axes.rank.map(String),
    rate: axes.learning_rate.map(String),
    epsilon: ["none (exact)", "1e-10, the post's"],
    sharpness: axes.sharpness.map((kind) => (kind === "post" ? "the post's" : "variance 1")),
    step: axes.step.map((step) => step.toLocaleString("en")),
  }[name];
}

/** The post's own setting, in which the logarithm decides: rank 64, 0.1, its teacher, the last step. */
function beginning() {
  const { axes } = audit;
  return {
    rank: axes.rank.length - 1,
    rate: axes.learning_rate.length - 1,
    epsilon: 0,
    sharpness: axes.sharpness.indexOf("post"),
    step: axes.step.length - 1,
    distance: "weight_distance",
    between: false,
    other: true,
  };
}

function fromHash() {
  const asked = readHash();
  const next = beginning();
  for (const name of [...SLIDERS, ...PAIRS]) {
    const place = Number(asked[name]);
    if (asked[name] !== undefined && stops(name)[place] !== undefined) next[name] = place;
  }
  if (asked.distance in engine.DISTANCES) next.distance = asked.distance;
  for (const name of ["between", "other"]) if (name in asked) next[name] = asked[name] === "true";
  return next;
}

const settingOf = ({ sharpness, rank, rate, epsilon }) => ({
  sharpness,
  rank,
  rate,
  epsilon: Boolean(epsilon),
});

/** Change the view and draw it. */
function show(change) {
  const before = view;
  view = { ...view, ...change };
  for (const name of SLIDERS) {
    $(name).value = view[name];
    const stop = stops(name)[view[name]];
    $(name).setAttribute("aria-valuetext", stop);
    $(`${name}-now`).textContent = stop;
  }
  for (const name of PAIRS) $(name).querySelectorAll("input")[view[name]].checked = true;
  $("distance").value = view.distance;
  for (const name of ["between", "other"]) $(name).checked = view[name];
  const setting = settingOf(view);
  const weights = view.distance === "centred_weight_distance" ? view.distance : "weight_distance";
  drawChart("weights", setting, weights);
  drawChart("distributions", setting, "probability_distance");
  drawMap(before);
  liveText(
    $("summary"),
    `${engine.settingInWords(audit, setting)}. ` +
      engine.sentence(audit, setting, view.distance, view.step),
  );
  writeHash(view);
}

function drawChart(name, setting, distance) {
  const chart = charts[name];
  const { pair, otherArithmetic, between } = engine.shownDivergences(setting);
  const shown = [
    ...(view.other ? otherArithmetic : []),
    ...(view.between ? between : []),
    ...pair,
  ].map((divergence) => ({ divergence, ...engine.curve(curves, setting, distance, divergence) }));
  chart.clear();
  const all = shown.flatMap(({ least, greatest }) => [...least, ...greatest]).filter((v) => v > 0);
  chart.axes({ y: [Math.min(...all) / 1.1, Math.max(...all) * 1.1] });
  for (const { divergence, steps, mean, least, greatest } of shown) {
    const style = { ...STYLES[divergence.replace(EPSILON, "")] };
    if (otherArithmetic.includes(divergence)) {
      const how = divergence.endsWith(EPSILON) ? "with 1e-10" : "exact";
      Object.assign(style, { width: 1, opacity: 0.75, label: `${style.label}, ${how}` });
    } else {
      chart.band(`${divergence} range`, steps, least, greatest, { colour: style.colour });
    }
    chart.line(divergence, steps, mean, style);
  }
  const asked = audit.axes.step[view.step];
  chart.line("asked", [asked, asked], chart.y, { colour: "var(--ex-edge)", dash: "1 3", width: 1.5 });
  const names = [...pair, ...between, ...otherArithmetic];
  chart.legend($(`${name}-legend`), names.filter((each) => chart.layers.has(each)));
  $(`${name}-title`).textContent = `${NAMES[distance]}, ${curves.settings.seeds} seeds`;
  chart.describe(
    `${NAMES[distance]} after 1 and after ` +
      `${curves.axes.step.at(-1).toLocaleString("en")} steps. ` +
      shown
        .map(({ divergence, mean }) => {
          const { label } = STYLES[divergence.replace(EPSILON, "")];
          const how = divergence.endsWith(EPSILON) ? " with 1e-10" : "";
          return `${label}${how}: ${engine.digits(mean[0])}, ${engine.digits(mean.at(-1))}`;
        })
        .join("; ") +
      ".",
  );
}

const NAMES = {
  weight_distance: "Weight distance to the teacher",
  centred_weight_distance: "Weight distance, centred over the classes",
  probability_distance: "Probability distance to the teacher",
};

// ---- The map: a panel for each arithmetic and sharpness, in it a row for each learning rate. One
// cell can be reached by Tab; the arrow keys go on from there, across the panels too.

const cells = new Map(); // key of a setting -> its cell

const key = (setting) =>
  [Number(setting.epsilon), setting.rate, setting.sharpness, setting.rank].join();

function buildMap() {
  const { axes } = audit;
  const panels = [];
  for (const epsilon of [0, 1]) {
    for (const sharpness of axes.sharpness.keys()) {
      const kind = axes.sharpness[sharpness] === "post" ? "the post's teacher" : "variance 1";
      const name = `${epsilon ? "1e-10 in the logarithm" : "exact logarithm"}, ${kind}`;
      const panel = element("div", { role: "rowgroup", "aria-label": name });
      const title = element("div", { class: "map-title", "aria-hidden": "true" }, name);
      const head = element("div", { role: "row", class: "map-row" });
      head.append(element("span", { role: "columnheader" }, "rate"));
      for (const rank of axes.rank) head.append(element("span", { role: "columnheader" }, rank));
      panel.append(title, head);
      for (const rate of axes.learning_rate.keys()) {
        const row = element("div", { role: "row", class: "map-row" });
        row.append(element("span", { role: "rowheader" }, axes.learning_rate[rate]));
        for (const rank of axes.rank.keys()) {
          const setting = { epsilon: Boolean(epsilon), rate, sharpness, rank };
          const cell = element("span", { role: "gridcell", tabindex: -1, class: "cell" });
          cell.addEventListener("click", () => choose(setting));
          cells.set(key(setting), cell);
          row.append(cell);
        }
        panel.append(row);
      }
      panels.push(panel);
    }
  }
  $("map").replaceChildren(...panels);
  $("map").addEventListener("keydown", walk);
}

function element(tag, attributes, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function choose({ epsilon, rate, sharpness, rank }) {
  show({ epsilon: Number(epsilon), rate, sharpness, rank });
  cells.get(key(view)).focus();
}

function walk(event) {
  const { rank, learning_rate: rates, sharpness } = audit.axes;
  // As it is laid out on a wide screen: 12 columns of sharpness and rank, 6 rows.
  const column = view.sharpness * rank.length + view.rank;
  const row = view.epsilon * rates.length + view.rate;
  const lastColumn = sharpness.length * rank.length - 1;
  const lastRow = 2 * rates.length - 1;
  const to = {
    ArrowLeft: [Math.max(0, column - 1), row],
    ArrowRight: [Math.min(lastColumn, column + 1), row],
    ArrowUp: [column, Math.max(0, row - 1)],
    ArrowDown: [column, Math.min(lastRow, row + 1)],
    Home: [0, row],
    End: [lastColumn, row],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  choose({
    sharpness: Math.floor(to[0] / rank.length),
    rank: to[0] % rank.length,
    epsilon: Math.floor(to[1] / rates.length),
    rate: to[1] % rates.length,
  });
}

function drawMap(before) {
  const current = key(view);
  const drawn = before && before.distance === view.distance && before.step === view.step;
  for (const setting of engine.allSettings(audit)) {
    const cell = cells.get(key(setting));
    const chosen = key(setting) === current;
    cell.setAttribute("aria-selected", chosen);
    cell.tabIndex = chosen ? 0 : -1;
    if (drawn && cell.dataset.who) continue;
    const told = engine.verdict(audit, setting, view.distance, view.step);
    cell.dataset.who = told.who;
    cell.textContent = LETTERS[told.who];
    cell.style.setProperty("--gap", engine.relativeGap(told).toFixed(3));
    const words = { forward: "forward KL nearer", reverse: "reverse KL nearer", arrived: "both arrived" };
    cell.setAttribute(
      "aria-label",
      `${engine.settingInWords(audit, setting)}: ${words[told.who] ?? told.who}`,
    );
  }
  const counts = engine.tally(audit, view.distance, view.step);
  $("tally").textContent =
    `Of ${cells.size} settings, by ${engine.DISTANCES[view.distance]} after ` +
    `${stops("step")[view.step]} steps: F forward KL nearer ${counts.forward}, R reverse KL nearer ` +
    `${counts.reverse}, = not separated ${counts["not separated"]}, ✓ both arrived ${counts.arrived}.`;
}

try {
  [audit, curves] = await Promise.all(["rank_audit", "rank_curves"].map(read));
  start();
} catch (error) {
  $("summary").textContent = `The numbers of this page could not be read: ${error.message}`;
}
