// One softmax and what is differentiated in its place: gradients, their noise, and where descent ends.
//
// p is the teacher and q = softmax(z) the student; every gradient is one to z, as in toy/one_softmax.py,
// whose numbers these are. No part of this module knows of a page.

// "Tomorrow there will be …"
export const WORDS = ["sun", "rain", "wind", "fog", "snow", "hail", "ice", "fish"];
export const TEACHER = [0.4, 0.27, 0.12, 0.08, 0.06, 0.04, 0.02, 0.01];
export const STUDENTS = {
  flat: Array(8).fill(0.125),
  near: [0.36, 0.29, 0.13, 0.07, 0.07, 0.05, 0.02, 0.01],
  "too sharp": [0.7, 0.24, 0.035, 0.013, 0.007, 0.003, 0.001, 0.001],
  collapsed: [0.02, 0.93, 0.015, 0.01, 0.01, 0.008, 0.004, 0.003],
};
export const TOP = 4; // the teacher's likeliest words, which a loss of top k knows; they come first
export const RATE = 0.4; // of gradient descent
export const LAST = 5000; // steps at most
const NOTHING = -100; // nats, for a word outside of the top k where someone gives it a fixed value
const RESTS = 1e-6; // no logit moves further in a step

const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => sum(a.map((value, i) => value * b[i]));
const norm = (a) => Math.sqrt(dot(a, a));
const minus = (a, b) => a.map((value, i) => value - b[i]);
const logs = (a) => a.map(Math.log);

/** Σ a·log a/b over words, nats. */
const kl = (a, b) => sum(a.map((value, i) => (value > 0 ? value * Math.log(value / b[i]) : 0)));

export function softmax(z) {
  const top = Math.max(...z);
  const weights = z.map((value) => Math.exp(value - top));
  const total = sum(weights);
  return weights.map((value) => value / total);
}

// ---- Losses of sampled words: the gradient of a word y is c_y·(e_y - q). Each is c for all y.

const SAMPLED = {
  k1_loss: (p, q) => q.map(() => 1),
  k1_reward: (p, q) => minus(logs(q), logs(p)),
  k1_baseline: (p, q) => SAMPLED.k1_reward(p, q).map((value) => value - kl(q, p)),
  k2_loss: (p, q) => SAMPLED.k1_reward(p, q),
  k3_loss: (p, q) => q.map((value, i) => 1 - p[i] / value),
  k3_reward: (p, q) => q.map((value, i) => p[i] / value - 1 - Math.log(p[i] / value)),
  sampled_bucket: (p, q) =>
    q.map((value, i) => value * (Math.log(value / p[i]) - Math.log((1 - value) / (1 - p[i])))),
};

/** The gradient of a mean over drawn words: counts[y] words y of n. */
export function sampledGradient(name, p, q, counts) {
  const n = sum(counts);
  const weights = SAMPLED[name](p, q).map((c, y) => (c * counts[y]) / n);
  const total = sum(weights);
  return weights.map((weight, v) => weight - q[v] * total);
}

/** E‖g - E g‖² of one word's gradient. */
function spread(name, p, q) {
  const c = SAMPLED[name](p, q);
  const squares = c.map((value, y) => value ** 2 * (1 - 2 * q[y] + dot(q, q))); // ‖c_y (e_y - q)‖²
  const mean = sampledGradient(name, p, q, q);
  return dot(q, squares) - dot(mean, mean);
}

// ---- Losses of the teacher's top k, by what they do with the other words. Each is d_v = ∂loss/∂log q_v,
// and the gradient is d - q·Σd.

const isTop = (v) => v < TOP;
const inside = (values) => values.map((value, v) => (isTop(v) ? value : 0));
const tail = (values) => sum(values.slice(TOP));

const AS_IT_IS = {
  truncated: (p) => inside(p),
  clamped: (p) => inside(p),
  teacher_renormalised: (p) => inside(p).map((value) => value / (1 - tail(p))),
  fixed: (p) => p.map((value, v) => (isTop(v) ? value : Math.exp(NOTHING))),
  even: (p) => p.map((value, v) => (isTop(v) ? value : tail(p) / (p.length - TOP))),
};

const byLogQ = (direction, teacher, q) =>
  direction === "forward_kl"
    ? teacher.map((value) => -value)
    : q.map((value, v) => (teacher[v] > 0 ? value * (Math.log(value / teacher[v]) + 1) : 0));

const throughSoftmax = (d, q) => minus(d, q.map((value) => value * sum(d)));

/** The gradient of a KL that knows the teacher's TOP likeliest words. */
function topGradient(name, direction, p, q) {
  if (name in AS_IT_IS) {
    const teacher = AS_IT_IS[name](p);
    const loss = direction === "forward_kl" ? kl(teacher, q) : kl(inside(q), teacher);
    if (name === "clamped" && loss <= 0) return q.map(() => 0);
    return throughSoftmax(byLogQ(direction, teacher, q), q);
  }
  if (name === "both_renormalised") {
    const student = inside(q).map((value) => value / (1 - tail(q)));
    return throughSoftmax(byLogQ(direction, AS_IT_IS.teacher_renormalised(p), student), student);
  }
  // The bucket.
  const d = q.map((value, v) => {
    if (direction === "forward_kl") return isTop(v) ? -p[v] : (-tail(p) * value) / tail(q);
    return value * (Math.log(isTop(v) ? value / p[v] : tail(q) / tail(p)) + 1);
  });
  return throughSoftmax(d, q);
}

// ---- What can be chosen.

const TAILS = ["bucket", "truncated", "clamped", "teacher_renormalised", "both_renormalised", "fixed", "even"];
const DIRECTIONS = ["forward_kl", "reverse_kl"];

/** All choices by name: { kind: "sampled" | "top" | "whole", part, direction: what the name promises }. */
export const CHOICES = Object.fromEntries([
  ...Object.keys(SAMPLED).map((part) => [part, { kind: "sampled", part, direction: "reverse_kl" }]),
  ...DIRECTIONS.flatMap((direction) => [
    ...TAILS.map((part) => [`${part}.${direction}`, { kind: "top", part, direction }]),
    [`whole.${direction}`, { kind: "whole", part: "whole", direction }],
  ]),
]);

/** Of D(p‖q) or D(q‖p). */
export function exactGradient(direction, p, q) {
  if (direction === "forward_kl") return minus(q, p);
  const ratio = minus(logs(q), logs(p));
  const mean = dot(q, ratio);
  return q.map((value, v) => value * (ratio[v] - mean));
}

export function expectedGradient(choice, p, q) {
  const { kind, part, direction } = CHOICES[choice];
  if (kind === "sampled") return sampledGradient(part, p, q, q);
  return kind === "top" ? topGradient(part, direction, p, q) : exactGradient(direction, p, q);
}

/**
 * How far a loss is from the divergence that it is called by, at one student.
 *
 * Returns { exact, expected, length, cosine, bias, variance, error }: two gradients; the expected
 * one's length over the exact one's, the cosine of the two (null where one is 0), ‖E g - exact‖,
 * E‖g - E g‖² of one word, and the error of a mean over n words, in units of the exact one's length.
 */
export function measure(choice, p, q, n) {
  const { kind, part, direction } = CHOICES[choice];
  const exact = exactGradient(direction, p, q);
  const expected = expectedGradient(choice, p, q);
  const size = norm(exact);
  const cosine = norm(expected) > 1e-9 && size > 1e-9 ? dot(exact, expected) / (size * norm(expected)) : null;
  const bias = norm(minus(expected, exact)) / size;
  const variance = kind === "sampled" ? spread(part, p, q) / size ** 2 : 0;
  const error = Math.sqrt(bias ** 2 + variance / n);
  return { exact, expected, length: norm(expected) / size, cosine, bias, variance, error };
}

/** D(p‖q), D(q‖p), and the student's mass outside of the teacher's top k. */
export function distance(p, q) {
  return { forward: kl(p, q), reverse: kl(q, p), tail: tail(q) };
}

// ---- Chance, from a seed: mulberry32.

export function chance(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/** How often each word is among n that are drawn from q. */
export function draw(q, n, random) {
  const counts = q.map(() => 0);
  for (let i = 0; i < n; i++) {
    let left = random();
    let y = 0;
    while (y < q.length - 1 && (left -= q[y]) >= 0) y++;
    counts[y]++;
  }
  return counts;
}

/**
 * Gradient descent on z, twice: by the expected gradient, and by that of n sampled words a step.
 *
 * A loss that draws no words has no second student. `history` keeps the steps that a logarithmic
 * axis can tell apart, as { step, expected, sampled }, each a `distance` or null.
 */
export class Descent {
  constructor(choice, p, start, n, seed = 1) {
    Object.assign(this, { choice, p, n, random: chance(seed), step: 0, moved: Infinity, history: [] });
    this.expected = logs(start);
    this.sampled = CHOICES[choice].kind === "sampled" ? logs(start) : null;
    this.#remember();
  }

  get student() {
    return softmax(this.expected);
  }

  get sampledStudent() {
    return this.sampled && softmax(this.sampled);
  }

  /** Whether the expected gradient moves nothing any more. */
  get rests() {
    return this.moved < RESTS;
  }

  get isOver() {
    return this.step >= LAST || (this.rests && !this.sampled);
  }

  /** One step of both; returns how often each word was drawn. */
  advance() {
    const gradient = expectedGradient(this.choice, this.p, this.student);
    this.expected = this.expected.map((z, v) => z - RATE * gradient[v]);
    this.moved = RATE * Math.max(...gradient.map(Math.abs));
    let counts = null;
    if (this.sampled) {
      const q = this.sampledStudent;
      counts = draw(q, this.n, this.random);
      const { part } = CHOICES[this.choice];
      const noisy = sampledGradient(part, this.p, q, counts);
      this.sampled = this.sampled.map((z, v) => z - RATE * noisy[v]);
    }
    this.step++;
    this.#remember();
    return counts;
  }

  #remember() {
    const place = Math.floor(30 * Math.log10(Math.max(1, this.step)));
    const last = this.history.at(-1);
    const now = { step: this.step, expected: distance(this.p, this.student), sampled: null, place };
    if (this.sampled) now.sampled = distance(this.p, this.sampledStudent);
    // The newest one is always kept, in the place of a near one before it.
    if (last && last.step > 0 && last.place === place) this.history.pop();
    this.history.push(now);
  }
}
