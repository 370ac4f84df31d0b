// The large picture: target, start and all students, with handles on whatever may be dragged.

import { Chart } from "./chart.js";
import { density } from "./gaussian_engine.js";
import { Handles } from "./handle.js";
import { NAMES, number } from "./gaussian_words.js";
import { STYLES } from "./gaussian_styles.js";

export const MU_RANGE = [-6, 6];
export const TARGET_SIGMA = [0.25, 2];
export const START_SIGMA = [0.25, 6];
const VIEW = [-7, 7];
const POINTS = 281;
const XS = Float64Array.from({ length: POINTS }, (_, i) => -7 + (14 * i) / (POINTS - 1));

/** Values of a mixture's density along the stage. */
export const outline = (mixture) => XS.map((x) => density(mixture, x));
const FLOOR = XS.map(() => 0);
export { FLOOR, XS };

const equal = (mu) => mu.map(() => 1 / mu.length);

export class Stage {
  /** `onTarget` and `onStart` are called after a handle has changed state.target or state.start. */
  constructor(host, legend, state, { onTarget, onStart }) {
    Object.assign(this, { state, legend });
    this.chart = new Chart(host, {
      x: VIEW,
      y: [0, 0.9],
      height: (width) => Math.round(Math.min(300, Math.max(200, 0.42 * width))),
      yTicks: [],
      xLabel: "x",
      margin: { left: 8, right: 8 },
      title: "Target p, start and students q, as densities over x",
      interactive: true,
    });
    this.handles = new Handles(this.chart);
    this.chart.onLayout = () => this.handles.update();
    this.onTarget = onTarget;
    this.onStart = onStart;
  }

  /** New handles, as many as the start has components. */
  build() {
    this.handles.clear();
    const { target, start } = this.state;
    target.mu.forEach((_, k) => {
      const mode = ["first mode of the target", "second mode of the target"][k];
      this.#pair(target, k, mode, "var(--ex-target)", TARGET_SIGMA, this.onTarget);
    });
    start.mu.forEach((_, k) => {
      const who =
        start.mu.length === 1 ? "the students' start" : `start of component ${k + 1}`;
      this.#pair(start, k, who, "var(--ex-ink)", START_SIGMA, this.onStart);
    });
  }

  #pair(mixture, k, whose, colour, sigmaRange, changed) {
    const weight = () => mixture.weight ?? equal(mixture.mu); // a start has none; a target's changes
    const height = (x) => Math.min(density({ ...mixture, weight: weight() }, x), 0.93 * this.chart.y[1]);
    // The grip on the width stands on the outer side, unless that is out of sight.
    const side = () => {
      const outer = mixture.mu[k] < 0 || (mixture.mu[k] === 0 && k === 0) ? -1 : 1;
      return Math.abs(mixture.mu[k] + outer * mixture.sigma[k]) < 6.8 ? outer : -outer;
    };
    const set = (what) => (value) => {
      if (mixture[what][k] === value) return;
      mixture[what][k] = value;
      changed();
    };
    this.handles.add({
      label: `Mean, ${whose}`,
      shape: "mean",
      colour,
      min: MU_RANGE[0],
      max: MU_RANGE[1],
      step: 0.1,
      get: () => mixture.mu[k],
      set: set("mu"),
      place: () => [mixture.mu[k], height(mixture.mu[k])],
      fromPointer: (x) => x,
      text: (value) => `μ ${number(value, 1)}`,
    });
    this.handles.add({
      label: `Width, ${whose}`,
      shape: "width",
      colour,
      min: sigmaRange[0],
      max: sigmaRange[1],
      step: 0.05,
      get: () => mixture.sigma[k],
      set: set("sigma"),
      place: () => {
        const x = mixture.mu[k] + side() * mixture.sigma[k];
        return [Math.min(6.9, Math.max(-6.9, x)), height(x)];
      },
      fromPointer: (x) => (x - mixture.mu[k]) * side(),
      text: (value) => `σ ${number(value)}`,
    });
  }

  draw(race) {
    const { chart } = this;
    const { start } = this.state;
    this.#drawHills(race.target);
    chart.line("begin", XS, outline({ ...start, weight: equal(start.mu) }), {
      colour: "var(--ex-ink)",
      dash: "2 4",
      width: 1.5,
      label: "start",
    });
    const names = ["target", "begin"];
    race.lanes.forEach(({ student }, lane) => {
      const { divergence } = student.objective;
      const q = outline({ mu: student.mu, sigma: student.sigma, weight: equal(student.mu) });
      const name = `student ${lane}`;
      chart.line(name, XS, q, { ...STYLES[divergence], label: NAMES[divergence] });
      names.push(name);
    });
    const key = names.map((name) => chart.layers.get(name).style.label).join();
    if (key !== this.key) chart.legend(this.legend, names);
    this.key = key;
    this.handles.update();
  }

  #drawHills(target) {
    if (this.drawn === target) return;
    this.drawn = target;
    const heights = outline(target);
    /** The target's density along the stage, and how high a picture has to be to hold it. */
    this.hills = { heights, top: Math.max(0.9, 1.12 * Math.max(...heights)) };
    if (this.hills.top !== this.chart.y[1]) this.chart.axes({ y: [0, this.hills.top] });
    const style = { colour: "var(--ex-target)" };
    this.chart.band("target fill", XS, FLOOR, heights, style);
    this.chart.line("target", XS, heights, { ...style, width: 1.5, label: "target p" });
  }
}
