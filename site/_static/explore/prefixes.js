// The page on who writes the prefix: a tree of answers, what a loss sees of it, and where descent ends.

import * as engine from "./prefixes_engine.js";
import { Chart } from "./chart.js";
import { Tree } from "./prefixes_tree.js";
import { FORMULAS, NAMES, NOTES, STUDENTS, choiceInWords, fixed, percent, prefixInWords, sentences } from "./prefixes_words.js";
import { addCopyLink, onHashView, playLoop, readHash, statusText, writeHash } from "./page.js";

const root = document.querySelector("#prefixes");
const $ = (name) => root.querySelector(`[data-id="${name}"]`);
const BEGIN = { divergence: "forward_kl", share: 0, student: "all", mistake: 0.3, later: false };
const LEAST = 1e-3; // nats: what is less is drawn there
const PUSHES = [
  { name: "here", label: "by the divergence at this word", beside: -0.12, colour: "var(--ex-reverse)", width: 4 },
  { name: "later", label: "by what comes later", beside: 0.12, colour: "var(--ex-jsd)", width: 4, dash: "5 3" },
];
const LINES = {
  loss: { label: "the loss", colour: "var(--ex-ink)", width: 5, opacity: 0.3 },
  forward: { label: "D(p‖q), whole answers", colour: "var(--ex-forward)" },
  reverse: { label: "D(q‖p), whole answers", colour: "var(--ex-reverse)", dash: "7 4" },
  after: { label: "D(q‖p) of what follows the mistake", colour: "var(--ex-jsd)", dash: "2 5", width: 3 },
};
const triangle = (way) => (x, y, r) => `M${x - r} ${y}L${x + r} ${y}L${x} ${y - way * 1.6 * r}Z`;

let view = BEGIN; // { divergence, share, student, mistake, later }
let descent;
let endsTimer = 0;
let endsKey = "";
const charts = {};
const tree = new Tree($("tree"));
const loop = playLoop(advance, {
  rate: 30,
  onChange: (playing) => {
    $("play").textContent = playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", playing);
    if (!playing && descent) show();
  },
});

function start() {
  $("divergence").replaceChildren(
    ...Object.keys(engine.DIVERGENCES).map((name) => new Option(`${NAMES[name]}, ${FORMULAS[name]}`, name)),
  );
  $("student").replaceChildren(...Object.entries(STUDENTS).map(([name, label]) => new Option(label, name)));
  for (const name of ["divergence", "student"]) {
    $(name).addEventListener("change", () => begin({ [name]: $(name).value }));
  }
  for (const name of ["share", "mistake"]) {
    $(name).addEventListener("input", () => begin({ [name]: Number($(name).value) / 100 }));
  }
  $("later").addEventListener("change", () => begin({ later: $("later").checked }));
  $("play").addEventListener("click", () => {
    if (descent.isOver) begin({});
    loop.toggle();
  });
  $("step").addEventListener("click", () => move(1));
  $("end").addEventListener("click", () => move(engine.LAST));
  $("back").addEventListener("click", () => begin({}));
  $("reset").addEventListener("click", () => begin(BEGIN));
  addCopyLink($("play").parentElement);
  buildCharts();
  onHashView(() => {
    begin(fromHash());
    root.scrollIntoView();
  });
  root.classList.add("ready");
  begin(fromHash());
}

function buildCharts() {
  const height = (width) => Math.min(260, Math.max(200, width * 0.55));
  charts.push = new Chart($("push"), {
    x: [-0.6, engine.WORDS[0].length - 0.4],
    y: [-1, 1],
    xTicks: engine.WORDS[0].map((word, place) => [place, word]),
    height,
    yLabel: "push on the logit",
  });
  charts.way = new Chart($("way"), {
    x: [1, engine.LAST],
    y: [LEAST, 10],
    logX: true,
    logY: true,
    xTicks: [1, 10, 100, 1000].map((step) => [step, step.toLocaleString("en")]),
    height,
    xLabel: "step of descent",
    yLabel: "nats",
    margin: { right: 18 },
  });
}

function fromHash() {
  const asked = readHash();
  const next = { ...BEGIN };
  if (asked.divergence in engine.DIVERGENCES) next.divergence = asked.divergence;
  if (asked.student in engine.STUDENTS) next.student = asked.student;
  const within = (text, low, high) => text && Number(text) >= low && Number(text) <= high;
  if (within(asked.share, 0, 1)) next.share = Number(asked.share);
  if (within(asked.mistake, 0.05, 0.9)) next.mistake = Number(asked.mistake);
  next.later = asked.later === "true";
  return next;
}

/** Change the view, and put the student back to its start. */
function begin(change) {
  loop.pause();
  view = { ...view, ...change };
  descent = new engine.Descent(view);
  show();
}

function move(steps) {
  loop.pause();
  for (let i = 0; i < steps && !descent.isOver; i++) descent.advance();
  show();
}

/** Some steps; time runs faster the longer it has run, as the logarithmic axis does. */
function advance(count) {
  const steps = count * Math.max(1, Math.round(descent.step / 40));
  for (let i = 0; i < steps && !descent.isOver; i++) descent.advance();
  show();
  return !descent.isOver;
}

/** Draw everything as it stands. */
function show() {
  const { q } = descent;
  const seen = engine.loss(q, view);
  drawControls();
  tree.draw({ q, seen });
  drawVisits(seen);
  drawPush(q);
  drawSums(q);
  drawWay();
  if (!loop.playing) {
    planEnds();
    writeHash(view);
  }
  statusText($("summary"), sentences(descent), loop.playing);
}

function drawControls() {
  for (const name of ["divergence", "student"]) $(name).value = view[name];
  for (const name of ["share", "mistake"]) {
    $(name).value = Math.round(100 * view[name]);
    $(name).setAttribute("aria-valuetext", percent(view[name]));
    $(`${name}-now`).textContent = percent(view[name]);
  }
  $("later").checked = view.later && view.share > 0;
  $("later").disabled = view.share === 0; // the teacher's prefixes do not move with the student
  $("note").textContent = NOTES[view.student];
}

/** A row of a table: its head, and a cell for each number. */
function row(head, values, classes = "") {
  const made = document.createElement("tr");
  made.className = classes;
  const name = document.createElement("th");
  name.scope = "row";
  name.append(head);
  const cells = values.map((value) => {
    const cell = document.createElement("td");
    cell.className = value.startsWith("=") ? "number equal" : "number";
    cell.textContent = value;
    return cell;
  });
  made.append(name, ...cells);
  return made;
}

function drawVisits({ weights, divergences, parts, total }) {
  const rows = engine.NODES.map((_, node) =>
    row(
      prefixInWords(node),
      [fixed(weights[node], 4), fixed(divergences[node]), fixed(parts[node], 4)],
      weights[node] < 5e-4 ? "unseen" : "",
    ),
  );
  $("visits").replaceChildren(...rows, row("the loss", ["", "", fixed(total, 4)], "total"));
}

function drawPush(q) {
  const { here, later } = engine.gradients(q, view);
  const holds = engine.STUDENTS[view.student].holds;
  const pushes = { here: here[0].map((g) => -g), later: later[0].map((g) => -g) };
  const chart = charts.push;
  const reach = 1.25 * Math.max(0.05, ...Object.values(pushes).flat().map(Math.abs));
  chart.clear();
  chart.axes({ y: [-reach, reach] });
  chart.line("zero", chart.x, [0, 0], { colour: "var(--ex-edge)", width: 1 });
  for (const { name, beside, ...style } of PUSHES) {
    const isTaken = !holds && (name === "here" || view.later);
    const values = pushes[name];
    const shafts = values.flatMap((push, v) => [[v + beside, 0], [v + beside, push], [NaN, NaN]]); // prettier-ignore
    const label = isTaken ? style.label : `${style.label} (not taken)`;
    const opacity = isTaken ? 1 : 0.4;
    chart.line(name, shafts.map(([x]) => x), shafts.map(([, y]) => y), { ...style, label, opacity });
    for (const way of [1, -1]) {
      const tips = values.map((push, v) => [v + beside, push]).filter(([, push]) => way * push > 0.02 * reach);
      const look = { colour: style.colour, size: 5, shape: triangle(way), way, opacity };
      chart.points(`${name} ${way}`, tips.map(([x]) => x), tips.map(([, y]) => y), look);
    }
  }
  chart.legend($("push-legend"), PUSHES.map(({ name }) => name));
  chart.describe(
    engine.WORDS[0].map((word, v) => `${word}: here ${fixed(pushes.here[v])}, later ${fixed(pushes.later[v])}`).join("; ") + ".",
  );
}

/** Equation 4 as a table: sums along either model's prefixes, beside whole answers. */
function drawSums(q) {
  const rows = Object.keys(engine.DIVERGENCES).map((divergence) => {
    const whole = engine.whole(divergence, q);
    const sums = [0, 1].map((share) => engine.loss(q, { divergence, share }).total);
    const cells = sums.map((sum) => (Math.abs(sum - whole) < 1e-9 * (1 + whole) ? "= " : "") + fixed(sum));
    return row(NAMES[divergence], [...cells, fixed(whole)]);
  });
  $("sums").replaceChildren(...rows);
}

function drawWay() {
  const chart = charts.way;
  const now = { ...engine.summary(descent.q), loss: engine.loss(descent.q, view).total, step: descent.step };
  const kept = [...descent.history.filter(({ step }) => step < now.step), now];
  const steps = kept.map(({ step }) => Math.max(1, step)); // the axis has no 0
  chart.clear();
  for (const [name, style] of Object.entries(LINES)) {
    chart.line(name, steps, kept.map((each) => Math.max(each[name], LEAST)), style);
  }
  for (const [name, { colour }] of Object.entries(LINES)) {
    chart.points(`${name} now`, [steps.at(-1)], [Math.max(now[name], LEAST)], { colour, size: 5 });
  }
  chart.legend($("way-legend"), Object.keys(LINES));
  const told = (when) => Object.keys(LINES).map((name) => `${LINES[name].label} ${fixed(when[name])}`);
  chart.describe(`From ${told(kept[0]).join(", ")} to ${told(now).join(", ")} nats in ${now.step} steps.`);
}

// ---- Where each choice ends, computed in pauses: a descent takes longer than a frame.

const CHOICES = Object.keys(engine.DIVERGENCES).flatMap((divergence) => [
  { divergence, share: 0, later: false },
  { divergence, share: 1, later: false },
  { divergence, share: 1, later: true },
]);

function planEnds() {
  const key = [view.student, view.mistake].join();
  markEnds();
  if (key === endsKey) return;
  endsKey = key;
  clearTimeout(endsTimer);
  root.removeAttribute("data-ends");
  endsTimer = setTimeout(() => endOf(0), 400);
}

function endOf(place) {
  if (place === 0) $("ends").replaceChildren();
  if (place === CHOICES.length) {
    root.setAttribute("data-ends", "ready");
    return;
  }
  const choice = CHOICES[place];
  const walk = new engine.Descent({ ...view, ...choice });
  while (!walk.isOver) walk.advance();
  const { after, forward, reverse } = engine.summary(walk.q);
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = choiceInWords(choice);
  button.addEventListener("click", () => begin(choice));
  const first = engine.WORDS[0].map((_, v) => Math.round(100 * walk.q[0][v])).join(" ");
  $("ends").append(row(button, [first, ...[after, forward, reverse].map((nats) => fixed(nats, 2))]));
  markEnds();
  endsTimer = setTimeout(() => endOf(place + 1), 0);
}

function markEnds() {
  [...$("ends").children].forEach((made, place) => {
    const { divergence, share, later } = CHOICES[place];
    const isChosen = divergence === view.divergence && share === view.share && later === (view.later && share > 0);
    made.className = isChosen ? "chosen" : "";
    made.querySelector("button").setAttribute("aria-pressed", isChosen);
  });
}

start();
