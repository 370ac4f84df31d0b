// The page on what a loss optimises: one softmax, a loss by its name, and the gradient that it has.

import * as engine from "./losses_engine.js";
import { LOSSES } from "./losses_words.js";
import { Chart } from "./chart.js";
import { addCopyLink, onHashView, playLoop, readHash, statusText, writeHash } from "./page.js";

const root = document.querySelector("#losses");
const $ = (name) => root.querySelector(`[data-id="${name}"]`);
const { WORDS, TEACHER: P, STUDENTS, TOP } = engine;
const COUNTS = [1, 4, 16, 64, 256]; // words in a mean
const BEGIN = { loss: "k3_loss", student: "flat", words: 2 };
const NAMES = { forward_kl: "D(p‖q)", reverse_kl: "D(q‖p)" };
const EDGE = 0.6; // of the space beside the outer words
const LEAST = { share: 5e-5, nats: 1e-5 }; // the ends of the logarithmic axes
const triangle = (way) => (x, y, r) => `M${x - r} ${y}L${x + r} ${y}L${x} ${y - way * 1.6 * r}Z`;
const ARROWS = [
  { name: "exact", beside: -0.24, colour: "var(--ex-ink)", width: 3 },
  { name: "expected", beside: 0, colour: "var(--ex-reverse)", width: 3, dash: "5 3" },
  { name: "sampled", beside: 0.24, colour: "var(--ex-jsd)", width: 2, dash: "1 4" },
];

let view; // { loss, student, words: a place in COUNTS }
let descent;
let drawn; // how often each word is in the mean whose gradient is shown
const random = engine.chance(7);
const charts = {};
const loop = playLoop(advance, {
  rate: 60,
  onChange: (playing) => {
    $("play").textContent = playing ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", playing);
    if (!playing && descent) show({});
  },
});

const kind = () => engine.CHOICES[view.loss].kind;
const direction = () => engine.CHOICES[view.loss].direction;
const n = () => COUNTS[view.words];

function start() {
  const groups = new Map();
  for (const [name, { group, label }] of Object.entries(LOSSES)) {
    if (!groups.has(group)) groups.set(group, Object.assign(document.createElement("optgroup"), { label: group }));
    groups.get(group).append(new Option(label, name));
  }
  $("loss").replaceChildren(...groups.values());
  $("student").replaceChildren(...Object.keys(STUDENTS).map((name) => new Option(name, name)));
  for (const name of ["loss", "student"]) {
    $(name).addEventListener("change", () => begin({ [name]: $(name).value }));
  }
  $("words").max = COUNTS.length - 1;
  $("words").addEventListener("input", () => begin({ words: Number($("words").value) }));
  $("play").addEventListener("click", () => {
    if (descent.isOver) begin({});
    loop.toggle();
  });
  $("step").addEventListener("click", () => {
    loop.pause();
    descent.advance();
    redraw();
    show({});
  });
  $("end").addEventListener("click", () => {
    loop.pause();
    while (!descent.isOver) descent.advance();
    redraw();
    show({});
  });
  $("again").addEventListener("click", () => {
    redraw();
    show({});
  });
  $("back").addEventListener("click", () => begin({}));
  $("reset").addEventListener("click", () => begin(BEGIN));
  buildCharts();
  addCopyLink($("play").parentElement);
  onHashView(() => {
    begin(fromHash());
    root.scrollIntoView();
  });
  root.classList.add("ready");
  begin(fromHash());
}

function buildCharts() {
  const x = [-EDGE, WORDS.length - 1 + EDGE];
  const xTicks = WORDS.map((word, place) => [place, word]);
  const height = (width) => Math.min(290, Math.max(210, width * 0.62));
  charts.arrows = new Chart($("arrows"), { x, y: [-1, 1], xTicks, height, yLabel: "push on the logit" });
  charts.shares = new Chart($("shares"), {
    x, y: [LEAST.share, 2], logY: true, xTicks, height, yLabel: "probability",
  }); // prettier-ignore
  charts.path = new Chart($("path"), {
    x: [1, engine.LAST],
    y: [LEAST.nats, 10],
    logX: true,
    logY: true,
    xTicks: [1, 10, 100, 1000].map((step) => [step, step.toLocaleString("en")]),
    height,
    xLabel: "step of descent",
    yLabel: "nats",
    margin: { right: 16 },
  });
}

function fromHash() {
  const asked = readHash();
  const next = { ...BEGIN };
  if (asked.loss in engine.CHOICES) next.loss = asked.loss;
  if (asked.student in STUDENTS) next.student = asked.student;
  if (asked.words !== undefined && COUNTS[Number(asked.words)]) next.words = Number(asked.words);
  return next;
}

/** Change the view, and put the student back to its start. */
function begin(change) {
  loop.pause();
  view = { ...view, ...change };
  descent = new engine.Descent(view.loss, P, STUDENTS[view.student], n());
  redraw();
  show({});
}

/** Draw the words of the sampled gradient anew. */
function redraw() {
  drawn = kind() === "sampled" ? engine.draw(descent.student, n(), random) : null;
}

/** Some steps; time runs faster the longer it has run, as the logarithmic axis does. */
function advance(count) {
  const steps = count * Math.max(1, Math.round(descent.step / 40));
  for (let i = 0; i < steps && !descent.isOver; i++) descent.advance();
  redraw();
  show({ playing: true });
  return !descent.isOver;
}

/** Draw everything as it stands. */
function show({ playing = false }) {
  const samples = kind() === "sampled";
  for (const name of ["loss", "student", "words"]) $(name).value = view[name];
  $("words").disabled = !samples;
  $("again").disabled = !samples;
  const words = samples ? `${n()}` : "none: it has no noise";
  $("words-now").textContent = words;
  $("words").setAttribute("aria-valuetext", words);
  $("note").textContent = LOSSES[view.loss].note;
  const q = descent.student;
  const measured = engine.measure(view.loss, P, q, n());
  drawArrows(q, measured);
  drawShares(q);
  drawPath();
  drawNumbers(q, measured);
  statusText($("summary"), summary(measured, q), playing);
  if (!playing) writeHash(view);
}

function drawArrows(q, { exact, expected }) {
  const { part } = engine.CHOICES[view.loss];
  const pushes = { exact: exact.map((g) => -g), expected: expected.map((g) => -g) };
  if (drawn) pushes.sampled = engine.sampledGradient(part, P, q, drawn).map((g) => -g);
  const chart = charts.arrows;
  chart.clear();
  // One wild draw must not make the other arrows too small to see: it may leave the frame.
  const size = (values) => Math.max(...values.map(Math.abs));
  const usual = Math.max(size(pushes.exact), size(pushes.expected), 0.01);
  const reach = 1.25 * Math.max(usual, Math.min(3 * usual, size(pushes.sampled ?? [0])));
  chart.axes({ y: [-reach, reach] });
  chart.line("zero", chart.x, [0, 0], { colour: "var(--ex-edge)", width: 1 });
  drawTopEdge(chart);
  for (const { name, beside, ...style } of ARROWS) {
    if (!(name in pushes)) continue;
    const place = (v) => v + beside;
    const values = pushes[name].map((push) => Math.max(-0.97 * reach, Math.min(0.97 * reach, push)));
    const shafts = values.flatMap((push, v) => [[place(v), 0], [place(v), push], [NaN, NaN]]); // prettier-ignore
    const label = { exact: `exact, ${NAMES[direction()]}`, expected: "expected", sampled: "one draw" }[name];
    chart.line(name, shafts.map(([x]) => x), shafts.map(([, y]) => y), { ...style, label });
    for (const way of [1, -1]) {
      const tips = values.map((push, v) => [place(v), push]).filter(([, push]) => way * push > 0.02 * reach);
      chart.points(`${name} ${way}`, tips.map(([x]) => x), tips.map(([, y]) => y), {
        colour: style.colour, size: 4, shape: triangle(way), way,
      }); // prettier-ignore
    }
  }
  chart.legend($("arrows-legend"), ARROWS.map(({ name }) => name).filter((name) => name in pushes));
  chart.describe(
    WORDS.map((word, v) => {
      const told = Object.entries(pushes).map(([name, values]) => `${name} ${signed(values[v])}`);
      return `${word}: ${told.join(", ")}`;
    }).join("; ") + ".",
  );
}

/** Where the words end that a loss of the top k knows. */
function drawTopEdge(chart) {
  if (kind() !== "top") return;
  const style = { colour: "var(--ex-edge)", dash: "2 4", width: 1.5 };
  chart.line("top", [TOP - 0.5, TOP - 0.5], chart.y, style);
}

function drawShares(q) {
  const chart = charts.shares;
  const places = WORDS.map((_, v) => v);
  const floor = (values) => values.map((value) => Math.max(value, LEAST.share));
  chart.clear();
  drawTopEdge(chart);
  // The ring of the student leaves the teacher's diamond to be seen.
  const student = { colour: "var(--ex-reverse)", hollow: true, width: 2.5, size: 7 };
  chart.points("student", places, floor(q), student);
  chart.points("teacher", places, P, { colour: "var(--ex-forward)", size: 5, shape: "diamond" });
  const noisy = descent.sampledStudent;
  if (noisy) {
    const style = { colour: "var(--ex-jsd)", shape: "cross", width: 2, size: 4 };
    chart.points("sampled", places, floor(noisy), style);
  }
  chart.describe(
    WORDS.map((word, v) => `${word}: teacher ${digits(P[v])}, student ${digits(q[v])}`).join("; ") + ".",
  );
}

function drawPath() {
  const chart = charts.path;
  const { history } = descent;
  const steps = history.map(({ step }) => Math.max(1, step)); // the axis has no 0
  const along = (who, which) => history.map((now) => Math.max(now[who][which], LEAST.nats));
  chart.clear();
  const forward = { colour: "var(--ex-forward)", label: "D(p‖q)" };
  const reverse = { colour: "var(--ex-reverse)", dash: "7 4", label: "D(q‖p)" };
  if (descent.sampled) {
    chart.line("sampled forward", steps, along("sampled", "forward"), { ...forward, width: 1, opacity: 0.7 });
    chart.line("sampled reverse", steps, along("sampled", "reverse"), { ...reverse, width: 1, opacity: 0.7 });
  }
  chart.line("forward", steps, along("expected", "forward"), forward);
  chart.line("reverse", steps, along("expected", "reverse"), reverse);
  const now = history.at(-1);
  for (const [which, style] of [["forward", forward], ["reverse", reverse]]) {
    const place = Math.max(now.expected[which], LEAST.nats);
    chart.points(`${which} now`, [steps.at(-1)], [place], { colour: style.colour, size: 5 });
  }
  chart.legend($("path-legend"), ["forward", "reverse"]);
  const [first, last] = [history[0].expected, now.expected];
  chart.describe(
    `From D(p‖q) ${digits(first.forward)} and D(q‖p) ${digits(first.reverse)} to ` +
      `${digits(last.forward)} and ${digits(last.reverse)} nats in ${descent.step} steps.`,
  );
}

function drawNumbers(q, measured) {
  const now = engine.distance(P, q);
  const noisy = descent.sampledStudent && engine.distance(P, descent.sampledStudent);
  const both = (key) => digits(now[key]) + (noisy ? ` · ${digits(noisy[key])}` : "");
  const lines = [
    ["length of the expected gradient", digits(measured.length)],
    ["its cosine to the exact one", measured.cosine === null ? "–" : fixed(measured.cosine)],
    ["bias", digits(measured.bias)],
    ["variance of one word", digits(measured.variance)],
    [`error of ${n()} ${n() === 1 ? "word" : "words"}`, digits(measured.error)],
    ["D(p‖q), nats", both("forward")],
    ["D(q‖p), nats", both("reverse")],
    [`student's mass on the last ${P.length - TOP}`, both("tail")],
    ["the teacher's", digits(engine.distance(P, P).tail)],
  ];
  const isNear = now.reverse < 1e-6; // both gradients are 0 there, and no ratio of them means anything
  $("numbers").replaceChildren(
    ...lines.map(([name, value], place) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      const cell = document.createElement("td");
      cell.className = "number";
      cell.textContent = isNear && place < 5 ? "–" : value;
      row.append(head, cell);
      return row;
    }),
  );
}

function summary(measured, q) {
  const now = engine.distance(P, q);
  const { label } = LOSSES[view.loss];
  const { length, cosine, bias, error } = measured;
  const noise = kind() === "sampled" ? `; the error of ${n()} drawn is ${digits(error)}` : "";
  const gradient =
    now.reverse < 1e-6
      ? "The student is the teacher, and both gradients are 0."
      : `The expected gradient is ${digits(length)} times as long as the exact one of ${NAMES[direction()]}` +
        (cosine === null ? "" : `, at a cosine of ${fixed(cosine)}`) +
        `: bias ${digits(bias)}${noise}.`;
  const where = `D(p‖q) ${digits(now.forward)}, D(q‖p) ${digits(now.reverse)} nats, tail ${digits(now.tail)}`;
  const steps = `${descent.step.toLocaleString("en")} ${descent.step === 1 ? "step" : "steps"}`;
  const rests = descent.rests ? ", and it rests" : descent.isOver ? ", and it still moves" : "";
  return `${label}. ${gradient} After ${steps}: ${where}${rests}.`;
}

/** Three significant digits, with a true minus. */
function digits(value) {
  const rounded = Number(value.toPrecision(3));
  if (Math.abs(rounded) < 1e-6) return "0";
  const text = Math.abs(rounded) < 1e-3 ? rounded.toExponential() : String(rounded);
  return text.replaceAll("-", "−");
}

const fixed = (value) => value.toFixed(3).replace("-", "−");
const signed = (value) => (value > 0 ? "+" : "") + digits(value);

start();
