// A view of the page as an address: target, start, divergences, settings and the number of steps.

import { DIVERGENCES } from "./gaussian_engine.js";
import { PRESETS } from "./gaussian_presets.js";
import { LONGEST } from "./gaussian_race.js";
import { MU_RANGE, START_SIGMA, TARGET_SIGMA } from "./gaussian_stage.js";
import { readHash } from "./page.js";

const FIRST = {
  preset: "figure1",
  divergences: ["forward_kl", "reverse_kl", "jensen_shannon", "adaptive_kl"],
  method: "adam",
  rate: 0.1,
  speed: 30,
};

/** The state that the address describes; whatever it leaves out or garbles is the preset's. */
export function readView() {
  const hash = readHash();
  const numbers = (text, count, low, high) => {
    const values = (text ?? "").split(",").map(Number);
    const sound = values.length === count && values.every((v) => v >= low && v <= high);
    return text && sound ? values : null;
  };
  const preset = hash.story in PRESETS ? hash.story : FIRST.preset;
  const { target, start, merging = false } = structuredClone(PRESETS[preset]);
  const state = { ...structuredClone(FIRST), preset, target, start, merging };

  const [startMu, startSigma] = (hash.start ?? "").split(";");
  const count = startMu?.split(",").length;
  const mu = count <= 2 && numbers(startMu, count, ...MU_RANGE);
  const sigma = count <= 2 && numbers(startSigma, count, ...START_SIGMA);
  if (mu && sigma) state.start = { mu, sigma };

  const [targetMu, targetSigma, left] = (hash.target ?? "").split(";");
  const modes = numbers(targetMu, 2, ...MU_RANGE);
  const widths = numbers(targetSigma, 2, ...TARGET_SIGMA);
  const weight = numbers(left, 1, 0.05, 0.95);
  if (modes && widths && weight) {
    state.target = { mu: modes, sigma: widths, weight: [weight[0], 1 - weight[0]] };
  }
  const names = (hash.by ?? "").split(",");
  if (names.length === 4 && names.every((name) => DIVERGENCES.includes(name))) {
    state.divergences = names;
  }
  if (["adam", "flow"].includes(hash.method)) state.method = hash.method;
  if (["0.03", "0.1", "0.3"].includes(hash.rate)) state.rate = Number(hash.rate);
  if (["5", "15", "30", "60", "120", "240"].includes(hash.speed)) state.speed = Number(hash.speed);
  state.steps = Math.round(numbers(hash.steps, 1, 0, LONGEST)?.[0] ?? 0);
  return state;
}

/** The part of an address that `readView` reads. */
export function viewToHash(state, steps) {
  const list = (values) => values.map((value) => Number(value.toFixed(3))).join();
  const { target, start } = state;
  return {
    story: state.preset,
    target: `${list(target.mu)};${list(target.sigma)};${list(target.weight.slice(0, 1))}`,
    start: `${list(start.mu)};${list(start.sigma)}`,
    by: state.divergences.join(),
    method: state.method,
    rate: state.rate,
    speed: state.speed,
    steps,
  };
}
