// A language of twelve answers as a tree, a teacher p and a student q on it, and what a loss sees of them.
//
// A node is a prefix: the empty one, the three of one word, the six of two. At each stand two
// distributions of the next word. The loss is Σ w(node)·D(node): w is how often a writer of
// prefixes comes by, D the divergence there, nats. No part of this module knows of a page.

// “Tomorrow there will be …”
export const WORDS = [["sun", "rain", "fish"], ["until", "after"], ["noon", "dusk"]]; // prettier-ignore
export const MISTAKE = 2; // the first word that the teacher next to never writes
export const RATE = 1; // of gradient descent on the logits
export const LAST = 1000; // steps at most
const RESTS = 1e-6; // no logit moves further in a step

const sum = (values) => values.reduce((total, value) => total + value, 0);
const dot = (a, b) => sum(a.map((value, i) => value * b[i]));

/** All prefixes, the shorter first: { level, parent, word: its place in WORDS, children }. */
export const NODES = [];
let above = [{ level: -1, place: null }];
for (let level = 0; level < WORDS.length; level++) {
  const here = [];
  for (const { place } of above) {
    for (const word of level === 0 ? [null] : WORDS[level - 1].keys()) {
      if (place !== null) NODES[place].children.push(NODES.length);
      here.push({ level, place: NODES.length });
      NODES.push({ level, parent: place, word, children: [] });
    }
  }
  above = here;
}

/** The words of a node's prefix. */
export function prefix(node) {
  const { parent, word, level } = NODES[node];
  return parent === null ? [] : [...prefix(parent), WORDS[level - 1][word]];
}

/** p of the next word at each node. */
export const TEACHER = [
  [0.5999, 0.4, 0.0001],
  [0.7, 0.3], // sun
  [0.4, 0.6], // rain
  [0.9, 0.1], // fish
  [0.04, 0.96], // sun until
  [0.95, 0.05], // sun after
  [0.97, 0.03], // rain until
  [0.06, 0.94], // rain after
  [0.1, 0.9], // fish until
  [0.8, 0.2], // fish after
];

/**
 * What a student can learn: the row of its table that each node reads, and whether the first stays.
 * Nodes that read one row have one distribution.
 */
export const STUDENTS = {
  all: { rows: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], holds: false },
  held: { rows: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], holds: true },
  last_word: { rows: [0, 1, 2, 3, 4, 5, 4, 5, 4, 5], holds: false },
};

/** The logits of a student that gives its first mistake a probability, one list a row. */
export function startOf(student, mistake) {
  const rest = (1 - mistake) / 2;
  const flat = [0.5, 0.5];
  const whole = [[rest, rest, mistake], flat, flat, [0.1, 0.9], flat, flat, flat, flat, [0.9, 0.1], [0.1, 0.9]];
  const { rows } = STUDENTS[student];
  const shared = [...whole.slice(0, 4), flat, flat];
  const own = rows.length === new Set(rows).size;
  return (own ? whole : shared).map((distribution) => distribution.map(Math.log));
}

export function softmax(z) {
  const top = Math.max(...z);
  const weights = z.map((value) => Math.exp(value - top));
  const total = sum(weights);
  return weights.map((value) => value / total);
}

// ---- Divergences of two distributions, and their gradients to the student's logits.

const kl = (a, b) => sum(a.map((value, v) => (value > 0 ? value * Math.log(value / b[v]) : 0)));
const middle = (p, q) => p.map((value, v) => (value + q[v]) / 2);
/** The gradient to the logits from the one to q, up to a constant. */
const throughSoftmax = (byQ, q) => q.map((value, v) => value * (byQ[v] - dot(q, byQ)));

export const DIVERGENCES = {
  forward_kl: { of: kl, gradient: (p, q) => q.map((value, v) => value - p[v]) },
  reverse_kl: {
    of: (p, q) => kl(q, p),
    gradient: (p, q) => throughSoftmax(q.map((value, v) => Math.log(value / p[v])), q),
  },
  jensen_shannon: {
    of: (p, q) => (kl(p, middle(p, q)) + kl(q, middle(p, q))) / 2,
    gradient: (p, q) => {
      const m = middle(p, q);
      return throughSoftmax(q.map((value, v) => Math.log(value / m[v]) / 2), q);
    },
  },
};

/** The student's distribution at each node. */
export const distributions = (student, z) => STUDENTS[student].rows.map((row) => softmax(z[row]));

/** The probability of each node's prefix under a model. */
export function reach(model) {
  const reached = [];
  NODES.forEach(({ parent, word }, node) => {
    reached[node] = parent === null ? 1 : reached[parent] * model[parent][word];
  });
  return reached;
}

/** The probabilities of the twelve answers. */
export function answers(model) {
  const reached = reach(model);
  const last = NODES.flatMap(({ level }, node) => (level === WORDS.length - 1 ? [node] : []));
  return last.flatMap((node) => model[node].map((value) => reached[node] * value));
}

/**
 * What a loss sees of a student: { weights, divergences, parts, total }, the first three by node.
 *
 * share: of the prefixes that the student writes, the teacher writes the others.
 */
export function loss(q, { divergence, share }) {
  const [byTeacher, byStudent] = [reach(TEACHER), reach(q)];
  const weights = byTeacher.map((value, node) => (1 - share) * value + share * byStudent[node]);
  const divergences = TEACHER.map((p, node) => DIVERGENCES[divergence].of(p, q[node]));
  const parts = weights.map((value, node) => value * divergences[node]);
  return { weights, divergences, parts, total: sum(parts) };
}

/** The divergence of whole answers, nats. */
export const whole = (divergence, q) => DIVERGENCES[divergence].of(answers(TEACHER), answers(q));

/**
 * The gradient of the loss to each node's logits, in two parts: { here, later }.
 *
 * here takes the weights as given; later is how the student's words change them: a word that leads
 * to much divergence is pushed down. A method at token level leaves the second out.
 */
export function gradients(q, { divergence, share }) {
  const { weights, divergences } = loss(q, { divergence, share });
  const here = TEACHER.map((p, node) =>
    DIVERGENCES[divergence].gradient(p, q[node]).map((value) => weights[node] * value),
  );
  const ahead = []; // the mean sum of divergences from a node on, if the student goes on
  for (let node = NODES.length - 1; node >= 0; node--) {
    const { children } = NODES[node];
    ahead[node] = divergences[node] + sum(children.map((child, v) => q[node][v] * ahead[child]));
  }
  const byStudent = reach(q);
  const later = NODES.map(({ children }, node) => {
    if (!children.length) return q[node].map(() => 0);
    const byQ = children.map((child) => ahead[child]);
    return throughSoftmax(byQ, q[node]).map((value) => share * byStudent[node] * value);
  });
  return { here, later };
}

/** The same to the rows of the student's table; the later part only if the view takes it. */
function rowGradients(z, view) {
  const { rows, holds } = STUDENTS[view.student];
  const { here, later } = gradients(distributions(view.student, z), view);
  const total = z.map((row) => row.map(() => 0));
  rows.forEach((row, node) => {
    if (row === 0 && holds) return;
    total[row].forEach((_, v) => (total[row][v] += here[node][v] + (view.later ? later[node][v] : 0)));
  });
  return total;
}

/** Gradient descent on the logits. `history` has the steps that a logarithmic axis can tell apart. */
export class Descent {
  /** view: { divergence, share, student, mistake, later: does the gradient have its later part? } */
  constructor(view) {
    this.view = view;
    this.z = startOf(view.student, view.mistake);
    Object.assign(this, { step: 0, moved: Infinity, history: [] });
    this.#remember();
  }

  get q() {
    return distributions(this.view.student, this.z);
  }

  get rests() {
    return this.moved < RESTS;
  }

  get isOver() {
    return this.rests || this.step >= LAST;
  }

  advance() {
    const gradient = rowGradients(this.z, this.view);
    this.z = this.z.map((row, r) => row.map((value, v) => value - RATE * gradient[r][v]));
    this.moved = RATE * Math.max(...gradient.flat().map(Math.abs));
    this.step++;
    this.#remember();
  }

  #remember() {
    const place = Math.floor(30 * Math.log10(Math.max(1, this.step)));
    if (this.history.at(-1)?.place === place && this.step > 1) return;
    const { q } = this;
    this.history.push({ step: this.step, place, loss: loss(q, this.view).total, ...summary(q) });
  }
}

/** Of a student: both KLs of whole answers, its first mistake, and what it costs to go on from there. */
export function summary(q) {
  const byStudent = reach(q);
  const after = NODES.flatMap((_, node) => (isAfterMistake(node) ? [node] : []));
  const mistake = q[0][MISTAKE];
  const seen = after.map((node) => byStudent[node] / mistake);
  const nats = after.map((node) => kl(q[node], TEACHER[node]));
  return { forward: whole("forward_kl", q), reverse: whole("reverse_kl", q), mistake, after: dot(seen, nats) };
}

/** Does a node's prefix begin with the mistake? */
export function isAfterMistake(node) {
  const { level, parent, word } = NODES[node];
  return level === 0 ? false : level === 1 ? word === MISTAKE : isAfterMistake(parent);
}
