// One answer under two distributions: what each gives its tokens, and what both expected in their place.
//
// A side is the name of a model of token_pages.json, or "grammar": the language's true distribution, which
// says nothing (null) after a beginning that it cannot make. No part of this module knows of a page.

export const GRAMMAR = "grammar";
export const END = "<|im_end|>";

/** All sides there are, as { name, label }. */
export function sides(study) {
  return [...study.models, { name: GRAMMAR, label: "the grammar" }];
}

/** What a side gives to each listed token of a position, or null. */
export function distribution(study, position, side) {
  if (side === GRAMMAR) return position.grammar;
  return position.p[study.models.findIndex((model) => model.name === side)];
}

/**
 * An answer's tokens under sides a and b.
 *
 * Returns [{ token, a, b, ratio }]: the probabilities, and log(a/b) in nats; a ratio is infinite
 * where one side rules the token out, and null where the grammar is silent or both rule it out.
 */
export function compare(study, answer, a, b) {
  return answer.positions.map((position) => {
    const [pA, pB] = [a, b].map((side) => distribution(study, position, side)?.[0] ?? null);
    const ratio = pA === null || pB === null || pA + pB === 0 ? null : Math.log(pA) - Math.log(pB);
    return { token: position.tokens[0], a: pA, b: pB, ratio };
  });
}

/** Where the two sides differ most: the place of the largest |log(a/b)|. */
export function widest(compared) {
  let best = 0;
  compared.forEach(({ ratio }, place) => {
    if (Math.abs(ratio ?? 0) > Math.abs(compared[best].ratio ?? 0)) best = place;
  });
  return best;
}

/** The place of the token with which an answer leaves the grammar, or -1 if it never does. */
export function leaves(answer) {
  return answer.positions.findIndex((position) => position.grammar?.[0] === 0);
}

/**
 * Sums over an answer for one side, nats.
 *
 * logProb: log of the whole answer's probability, -Infinity where a token is ruled out. forward and
 * reverse: the KLs to the teacher, summed over the positions; truth: D(grammar‖side), likewise, over
 * the `spoken` positions at which the grammar speaks. Null where a sum has no meaning.
 */
export function sums(study, answer, side) {
  const { positions } = answer;
  const spoken = positions.filter((position) => position.grammar);
  const total = (list, value) => list.reduce((sum, each) => sum + value(each), 0);
  // Once the grammar has ruled out a token, the answer as a whole is ruled out.
  const logProb = total(positions, (position) => {
    const p = distribution(study, position, side);
    return p ? Math.log(p[0]) : 0;
  });
  if (side === GRAMMAR) {
    return { logProb, forward: null, reverse: null, truth: null, spoken: spoken.length };
  }
  const index = study.models.findIndex((model) => model.name === side);
  return {
    logProb,
    forward: total(positions, (position) => position.forward_kl[index]),
    reverse: total(positions, (position) => position.reverse_kl[index]),
    truth: total(spoken, (position) => position.grammar_kl[index]),
    spoken: spoken.length,
  };
}

/**
 * The two next-token distributions at one position, for bars.
 *
 * Returns { rows: [{ token, taken, a, b, truth }], others: { a, b, truth } }: the token that stands
 * there, then those that either side finds likeliest, `count` in all; the rest is summed up.
 */
export function distributions(study, position, a, b, count = 7) {
  const [pA, pB] = [distribution(study, position, a), distribution(study, position, b)];
  const all = position.tokens.map((token, place) => ({
    token,
    taken: place === 0,
    a: pA?.[place] ?? null,
    b: pB?.[place] ?? null,
    truth: position.grammar?.[place] ?? null,
  }));
  const likely = (row) => Math.max(row.a ?? 0, row.b ?? 0);
  const others = all.slice(1).sort((one, two) => likely(two) - likely(one));
  const rows = [all[0], ...others.slice(0, count - 1)].filter((row) => row.taken || likely(row) > 0);
  const rest = (key, given) =>
    given ? Math.max(0, 1 - rows.reduce((sum, row) => sum + row[key], 0)) : null;
  return {
    rows,
    others: { a: rest("a", pA), b: rest("b", pB), truth: rest("truth", position.grammar) },
  };
}

/** A token as it is read: spaces at its edges do not count, and the end has a name. */
export function readable(token) {
  if (token === END) return "(end)";
  return token.trim() || "(space)";
}

/** A probability with two or three significant digits. */
export function probability(p) {
  if (p === null) return "–";
  if (p === 0) return "0";
  if (p >= 0.9995) return "1.00";
  if (p >= 0.0001) return p.toPrecision(p >= 0.1 ? 3 : 2);
  return p.toExponential(1).replace("e-", "e−");
}

/** Nats with two decimals and a true minus. */
export function nats(value, sign = "") {
  if (value === null) return "–";
  if (!Number.isFinite(value)) return value > 0 ? `${sign}∞` : "−∞";
  const text = Math.abs(value).toFixed(2);
  return (value < -0.005 ? "−" : value > 0.005 ? sign : "") + text;
}
