// What the choices are called, and the sentence that sums a view up.

import * as engine from "./prefixes_engine.js";

export const NAMES = { forward_kl: "forward KL", reverse_kl: "reverse KL", jensen_shannon: "JSD" };
export const FORMULAS = { forward_kl: "D(p‖q)", reverse_kl: "D(q‖p)", jensen_shannon: "JSD" };

export const STUDENTS = {
  all: "every node",
  held: "all but its first word",
  last_word: "from the last word only",
};

export const NOTES = {
  all: "Each node has a distribution of its own, so the student can become the teacher wherever it is taught.",
  held: "The first word stays as it is: a mistake that the student cannot unlearn.",
  last_word: "The student sees the last word only. “Sun until …” and “rain until …” must go on alike.",
};

const MISTAKE = engine.WORDS[0][engine.MISTAKE];

/** Decimals, with a true minus and without a minus nothing. */
export function fixed(value, decimals = 3) {
  const text = Math.abs(value).toFixed(decimals);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** Who writes the prefixes. */
export function writer(share) {
  if (share === 0) return "the teacher";
  if (share === 1) return "the student";
  return `in ${Math.round(100 * share)}% the student`;
}

/** A choice of divergence, writer and later part. */
export function choiceInWords({ divergence, share, later }) {
  const part = later && share > 0 ? ", later part too" : "";
  return `${NAMES[divergence]}, ${writer(share)} writes${part}`;
}

/** What a node's prefix reads like. */
export const prefixInWords = (node) => (node === 0 ? "(nothing)" : engine.prefix(node).join(" "));

/** What the table of Equation 4 says of the choice: is the loss the divergence of whole answers? */
export function equality({ divergence, share }, seen, whole) {
  const isWhole =
    (divergence === "forward_kl" && share === 0) || (divergence === "reverse_kl" && share === 1);
  if (isWhole) return `exactly the ${FORMULAS[divergence]} of whole answers`;
  return `not the ${FORMULAS[divergence]} of whole answers, ${fixed(whole)}`;
}

/** The view in sentences. */
export function sentences(descent) {
  const { view, step, q } = descent;
  const seen = engine.loss(q, view);
  const now = engine.summary(q);
  const after = engine.NODES.findIndex((_, node) => engine.isAfterMistake(node));
  const name = choiceInWords(view);
  const steps = `${step.toLocaleString("en")} ${step === 1 ? "step" : "steps"}`;
  const end = descent.rests ? ", and it rests" : descent.isOver ? ", the last" : "";
  return (
    `${name[0].toUpperCase()}${name.slice(1)}. After ${steps}${end}: the loss is ${fixed(seen.total)} nats, ` +
    `${equality(view, seen, engine.whole(view.divergence, q))}. The student begins with “${MISTAKE}” in ` +
    `${percent(now.mistake)} of its answers. The loss looks there with weight ${fixed(seen.weights[after], 4)}. ` +
    `The student's next words there are ${fixed(now.after, 2)} nats from the teacher's, by reverse KL.`
  );
}

/** A probability as a percentage with two or three digits. */
export function percent(p) {
  if (p > 0 && p < 0.00005) return "less than 0.01%";
  return `${Number((100 * p).toPrecision(p < 0.1 ? 2 : 3))}%`;
}
