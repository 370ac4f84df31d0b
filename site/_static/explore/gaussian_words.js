// What a student has come to, in words: for the cards and for the sentence that is read aloud.

import { leastCurvature } from "./gaussian_landscape.js";

export const NAMES = {
  forward_kl: "Forward KL",
  reverse_kl: "Reverse KL",
  jensen_shannon: "JSD",
  adaptive_kl: "Adaptive KL",
  skew_forward_kl: "Skew forward KL",
  skew_reverse_kl: "Skew reverse KL",
};

export const FORMULAS = {
  forward_kl: "D(p‖q)",
  reverse_kl: "D(q‖p)",
  jensen_shannon: "½D(p‖m) + ½D(q‖m)",
  adaptive_kl: "w·D(p‖q) + (1−w)·D(q‖p)",
  skew_forward_kl: "D(p‖0.1p + 0.9q)",
  skew_reverse_kl: "D(q‖0.9p + 0.1q)",
};

/** A number with a true minus sign and without a minus nothing. */
export function number(value, digits = 2) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/**
 * Has a student come to rest? `past` is its z some thirty steps ago.
 *
 * Little slope and little movement are not enough: on a saddle there is neither, for a while. So
 * no direction may curve downwards.
 *
 * @returns {"moving" | "waiting" | "resting"}
 */
export function gait(student, past) {
  const still =
    past &&
    Math.max(...student.gradient.map(Math.abs)) < 5e-3 &&
    Math.max(...student.z.map((value, i) => Math.abs(value - past[i]))) < 5e-3;
  if (!still) return "moving";
  return leastCurvature(student.objective, student.z) < -1e-3 ? "waiting" : "resting";
}

/** Where a student stands with respect to the target's two modes: "on the right mode" ... */
export function whereabouts({ mu, sigma }, target) {
  const [left, right] = target.mu[0] <= target.mu[1] ? [0, 1] : [1, 0];
  const apart = Math.abs(target.mu[0] - target.mu[1]) > target.sigma[0] + target.sigma[1];
  const modeOf = (k) =>
    [left, right].find(
      (m) =>
        Math.abs(mu[k] - target.mu[m]) < 0.6 * target.sigma[m] &&
        Math.abs(Math.log(sigma[k] / target.sigma[m])) < 0.5,
    );
  const modes = mu.map((_, k) => modeOf(k));
  const name = (mode) => (mode === left ? "left" : "right");
  if (mu.length === 2 && Math.abs(mu[0] - mu[1]) > 0.5 * (sigma[0] + sigma[1])) {
    const both = modes.includes(left) && modes.includes(right);
    return both ? "with one component on each mode" : "with its two components apart";
  }
  const subject = mu.length === 2 ? "with both components " : "";
  if (!apart) return `${subject}on the one hump that the modes make`;
  if (modes[0] !== undefined && modes.every((mode) => mode === modes[0])) {
    return `${subject}on the ${name(modes[0])} mode`;
  }
  const mean = (mu[0] + mu[mu.length - 1]) / 2;
  const sd = (sigma[0] + sigma[sigma.length - 1]) / 2;
  const covers = target.mu.every((m) => Math.abs(m - mean) < 1.6 * sd);
  if (covers) return `${subject}broad over both modes`;
  const nearest = Math.abs(mean - target.mu[left]) < Math.abs(mean - target.mu[right]) ? left : right;
  const broader = sd > 1.5 * target.sigma[nearest];
  return `${subject}near the ${name(nearest)} mode${broader ? ", broader than it" : ""}`;
}

/** One sentence on one student. */
export function sentence(student, state, target) {
  const name = NAMES[student.objective.divergence];
  const nats = `${number(student.value, 3)} nats`;
  if (student.lost) return `${name} has left the grid and is stopped.`;
  if (student.steps === 0) return `${name} starts at ${nats}.`;
  const where = whereabouts(student, target);
  if (state === "resting") return `${name} has settled ${where}, ${nats}.`;
  if (state === "waiting") return `${name} waits on a saddle, ${where}, ${nats}.`;
  return `${name} is still moving, ${nats}.`;
}
