// The page: students that follow different divergences, side by side, from one start to one target.

import { Chart } from "./chart.js";
import { Card } from "./gaussian_card.js";
import { Ground, planeOf } from "./gaussian_ground.js";
import { PRESETS, isStory } from "./gaussian_presets.js";
import { LONGEST, Race } from "./gaussian_race.js";
import { MU_RANGE, Stage, START_SIGMA } from "./gaussian_stage.js";
import { STYLES } from "./gaussian_styles.js";
import { NAMES, number, sentence } from "./gaussian_words.js";
import { readView, viewToHash } from "./gaussian_view.js";
import { addCopyLink, onHashView, onThemeChange, playLoop, statusText, writeHash } from "./page.js";

const SPEEDS = [5, 15, 30, 60, 120, 240]; // steps a second
const RATES = { adam: [0.03, 0.1, 0.3], flow: [0.03, 0.1, 0.3] };
const MERGED = 0.3; // half the distance of the modes at which "Modes that merge" ends
const LEAST = 1e-4; // nats: what is less is drawn there

const HTML = `
  <div class="controls presets" role="group" aria-label="Stories"></div>
  <p class="says"></p>
  <div class="stage"></div>
  <ul class="key"></ul>
  <div class="controls transport">
    <button type="button" class="play">Play</button>
    <button type="button" class="step">Step</button>
    <button type="button" class="finish">To the end</button>
    <button type="button" class="reset">Reset</button>
    <label class="field"><span>speed <span class="value"></span></span>
      <input type="range" class="speed" min="0" max="${SPEEDS.length - 1}" step="1"></label>
    <p class="counter numbers">step <span class="value">0</span></p>
  </div>
  <details class="settings" open><summary>Settings</summary><div class="controls">
    <label class="field">moved by
      <select class="method"><option value="adam">Adam</option>
        <option value="flow">gradient flow</option></select></label>
    <label class="field"><span class="rate-name">learning rate</span>
      <select class="rate"></select></label>
    <label class="field">components
      <select class="components"><option value="1">one</option><option value="2">two</option>
      </select></label>
    <label class="field"><span>weight of the left mode <span class="value"></span></span>
      <input type="range" class="weight" min="0.05" max="0.95" step="0.05"></label>
  </div></details>
  <div class="students"></div>
  <p class="caption">In each card, the student over the target, and the ground it walks on: shades
    are levels, arrows the flow down them, ✕ the start, ● a resting place, ◇ a saddle, dotted the
    watershed between resting places. Tap the ground to start there.</p>
  <p class="summary" role="status"></p>
  <div class="curves"></div>`;

const root = document.getElementById("gaussians");
root.innerHTML = HTML;
const part = (name) => root.querySelector(`.${name}`);
part("settings").open = innerWidth > 700; // on a phone the students come first

const state = readView();
const race = new Race(state);

const stage = new Stage(part("stage"), part("key"), state, {
  onTarget: () => {
    state.merging = false;
    retarget();
    changed();
  },
  onStart: () => {
    restart();
    changed();
  },
});
const cards = state.divergences.map((_, lane) => {
  const host = part("students").appendChild(document.createElement("section"));
  return new Card(host, planeOf(state), {
    onChoose(divergence) {
      state.divergences[lane] = divergence;
      cards[lane].choose(divergence);
      restart();
      ground.survey();
      changed();
    },
    onPlace(x, y) {
      const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));
      const tenth = (value) => Math.round(10 * clamp(value, MU_RANGE)) / 10;
      state.start.mu[0] = tenth(x);
      if (state.start.mu.length === 2) state.start.mu[1] = tenth(y);
      else state.start.sigma[0] = Math.round(100 * clamp(Math.exp(y), START_SIGMA)) / 100;
      restart();
      changed();
    },
  });
});
const curves = new Chart(part("curves"), {
  x: [0, 100],
  y: [0.1, 10],
  logY: true,
  height: (width) => (width < 500 ? 170 : 200),
  xLabel: "step",
  yLabel: "nats",
  title: "Each student's own divergence against the step",
});

const ground = new Ground(race, cards, {
  isMoving: () => clock.playing,
  onState: (landscape) => (root.dataset.landscape = landscape),
});

// The race ---------------------------------------------------------------------------------------

const clock = playLoop(
  (count) => {
    advance(count);
    draw();
    speak();
    return !finished();
  },
  {
    rate: state.speed,
    onChange(playing) {
      part("play").textContent = playing ? "Pause" : "Play";
      part("play").setAttribute("aria-pressed", String(playing));
      if (!playing) {
        ground.survey();
        speak();
        changed();
      }
    },
  },
);

const halfDistance = () => Math.abs(state.target.mu[1] - state.target.mu[0]) / 2;
const merging = () => state.merging && halfDistance() > MERGED;
const finished = () => !merging() && race.over;

/** Take up to `count` steps. */
function advance(count) {
  if (merging()) {
    const closer = Math.max(MERGED, halfDistance() - 0.008 * count);
    state.target.mu = state.target.mu.map((mu) => Math.sign(mu) * closer);
    retarget();
  }
  for (let n = 0; n < count && !finished(); n++) race.step();
  if (state.start.mu.length === 2) ground.survey(); // the slice through the plane moves with the widths
}

function restart() {
  race.restart(state);
  draw();
  speak();
  if (state.start.mu.length === 2) ground.survey();
}

function retarget() {
  race.retarget(state.target);
  ground.survey();
  if (!clock.playing) {
    draw();
    speak();
  }
}

function draw() {
  stage.draw(race);
  race.lanes.forEach((lane, k) => cards[k].draw(lane, state.target, stage.hills));
  part("counter").querySelector(".value").textContent = race.steps;
  drawCurves();
}

function drawCurves() {
  const span = [100, 200, 400, 800, 1600, LONGEST].find((steps) => steps >= race.steps);
  const all = race.lanes.flatMap(({ values }) => [values[0], values.at(-1)]);
  const power = (value, round) => 10 ** round(Math.log10(value));
  const low = Math.min(curves.y[0], power(Math.max(LEAST, Math.min(...all)), Math.floor));
  const high = Math.max(curves.y[1], power(Math.max(...all), Math.ceil));
  if (race.steps === 0) curves.axes({ x: [0, span], y: [0.1, 10] });
  if (span !== curves.x[1] || low !== curves.y[0] || high !== curves.y[1]) {
    curves.axes({ x: [0, span], y: [low, high] });
  }
  // A point a pixel is enough.
  const every = Math.max(1, Math.floor(race.steps / 300));
  const kept = [];
  for (let step = 0; step < race.steps; step += every) kept.push(step);
  kept.push(race.steps);
  race.lanes.forEach(({ student, values }, k) => {
    const floor = kept.map((step) => Math.max(values[step], LEAST));
    const { divergence } = student.objective;
    curves.line(`student ${k}`, kept, floor, { ...STYLES[divergence], label: NAMES[divergence] });
    const { colour } = STYLES[divergence];
    curves.points(`now ${k}`, kept.slice(-1), floor.slice(-1), { colour, size: 6 - k }); // all seen where they meet
  });
}

function speak() {
  const sentences = race.lanes.map(({ student, gait }) => sentence(student, gait, state.target));
  const text = `Step ${race.steps}. ${sentences.join(" ")}`;
  statusText(part("summary"), text, clock.playing);
  if (clock.playing) return;
  stage.chart.describe(text);
  curves.describe(text);
}

// Controls ---------------------------------------------------------------------------------------

/** Show what the state says in every control, and put it into the address. */
function changed() {
  part("speed").value = SPEEDS.indexOf(state.speed);
  part("speed").setAttribute("aria-valuetext", `${state.speed} steps a second`);
  part("speed").parentElement.querySelector(".value").textContent = `${state.speed} steps/s`;
  part("method").value = state.method;
  part("rate-name").textContent = state.method === "adam" ? "learning rate" : "time per step";
  part("rate").replaceChildren(...RATES[state.method].map((rate) => new Option(rate, rate)));
  part("rate").value = state.rate;
  part("components").value = state.start.mu.length;
  const left = state.target.mu[0] <= state.target.mu[1] ? 0 : 1;
  part("weight").value = state.target.weight[left];
  part("weight").parentElement.querySelector(".value").textContent = number(state.target.weight[left]);
  const told = isStory(state);
  for (const button of part("presets").children) {
    button.setAttribute("aria-pressed", String(told && button.value === state.preset));
  }
  const { name, says } = PRESETS[state.preset];
  part("says").textContent = told ? says : `“${name}”, changed. Reset brings the story back.`;
  writeHash(viewToHash(state, race.moved ? 0 : race.steps));
}

function load(preset) {
  const { target, start, merging = false } = structuredClone(PRESETS[preset]);
  clock.pause();
  Object.assign(state, { preset, target, start, merging });
  Object.assign(state, { method: "adam", rate: 0.1 });
  rebuild();
}

/** After a change of the number of components or of everything. */
function rebuild() {
  root.dataset.components = state.start.mu.length;
  race.restart(state);
  stage.build();
  cards.forEach((card, k) => {
    card.choose(state.divergences[k]);
    card.portrait.setPlane(planeOf(state));
  });
  draw();
  ground.survey();
  speak();
  changed();
}

for (const [value, { name }] of Object.entries(PRESETS)) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", value, textContent: name });
  button.addEventListener("click", () => load(value));
  part("presets").append(button);
}
addCopyLink(part("transport"));
onHashView(() => {
  clock.pause();
  Object.assign(state, readView());
  clock.rate = state.speed;
  openView();
});
part("play").addEventListener("click", () => {
  if (!clock.playing && finished()) {
    if (state.merging) load(state.preset); // with its modes apart again
    else restart();
  }
  clock.toggle();
});
part("step").addEventListener("click", () => {
  clock.pause();
  advance(1);
  draw();
  speak();
  changed();
});
part("finish").addEventListener("click", () => {
  clock.pause();
  while (!finished()) advance(10);
  draw();
  ground.survey();
  speak();
  changed();
});
part("reset").addEventListener("click", () => load(state.preset));
part("speed").addEventListener("input", (event) => {
  clock.rate = state.speed = SPEEDS[event.target.value];
  changed();
});
part("method").addEventListener("change", (event) => {
  state.method = event.target.value;
  restart();
  changed();
});
part("rate").addEventListener("change", (event) => {
  state.rate = Number(event.target.value);
  restart();
  changed();
});
part("components").addEventListener("change", (event) => {
  const { mu, sigma } = state.start;
  state.start =
    event.target.value === "2"
      ? { mu: [Math.max(-6, mu[0] - 1), Math.min(6, mu[0] + 1)], sigma: [sigma[0], sigma[0]] }
      : { mu: [mu[0]], sigma: [sigma[0]] };
  rebuild();
});
part("weight").addEventListener("input", (event) => {
  const left = Number(event.target.value);
  const right = Number((1 - left).toFixed(2));
  state.target.weight = state.target.mu[0] <= state.target.mu[1] ? [left, right] : [right, left];
  retarget();
  changed();
});
onThemeChange(() => ground.survey());
for (const card of cards) card.portrait.onLayout = () => ground.survey();

/** Show the state that the address describes. */
function openView() {
  rebuild();
  advance(state.steps);
  draw();
  speak();
  changed();
}

openView();
root.dataset.ready = "true";
