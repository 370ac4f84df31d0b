// The rank study as committed: which curve, which verdict and which words belong to a setting.
//
// A setting is { sharpness, rank, rate, epsilon }: places on the axes of rank_audit.json, and
// whether 1e-10 stands inside the logarithm. No part of this module knows of a page.

export const DISTANCES = {
  weight_distance: "weight distance",
  centred_weight_distance: "centred weight distance",
  probability_distance: "probability distance",
};

const MINUS = "−";

/** The six divergences of a setting that its charts can show, the two of the verdict first. */
export function shownDivergences(setting) {
  const [own, other] = setting.epsilon ? ["_epsilon", ""] : ["", "_epsilon"];
  return {
    pair: [`forward_kl${own}`, `reverse_kl${own}`],
    otherArithmetic: [`forward_kl${other}`, `reverse_kl${other}`],
    between: ["jensen_shannon", "adaptive_kl"],
  };
}

/** { steps, mean, least, greatest } of one student over the seeds. */
export function curve(curves, setting, distance, divergence) {
  const { axes } = curves;
  const path = [
    axes.distance.indexOf(distance),
    setting.sharpness,
    setting.rank,
    setting.rate,
    axes.divergence.indexOf(divergence),
  ];
  const [mean, least, greatest] = [curves.mean, curves.least, curves.greatest].map((nested) =>
    path.reduce((level, place) => level[place], nested),
  );
  return { steps: axes.step, mean, least, greatest };
}

/** Who is nearer to the teacher: { who, forward, reverse, difference, low, high, seeds }. */
export function verdict(audit, setting, distance, step) {
  const { axes } = audit;
  const path = [
    axes.distance.indexOf(distance),
    step,
    setting.sharpness,
    setting.rank,
    setting.rate,
  ];
  const at = (nested) => path.reduce((level, place) => level[place], nested);
  const suffix = setting.epsilon ? "_epsilon" : "";
  const mean = (name) => {
    const bySeed = at(audit.values)[axes.divergence.indexOf(name + suffix)];
    return bySeed.reduce((sum, value) => sum + value, 0) / bySeed.length;
  };
  const compared = audit.forward_against_reverse[setting.epsilon ? "epsilon" : "exact"];
  return {
    who: at(compared.verdict),
    forward: mean("forward_kl"),
    reverse: mean("reverse_kl"),
    difference: at(compared.mean_difference),
    low: at(compared.low),
    high: at(compared.high),
    seeds: axes.seed.length,
  };
}

/** The verdict in a sentence. */
export function sentence(audit, setting, distance, step) {
  const told = verdict(audit, setting, distance, step);
  const name = DISTANCES[distance];
  const after = `After ${audit.axes.step[step].toLocaleString("en")} steps`;
  const numbers =
    `${name} ${digits(told.forward)} under forward KL, ${digits(told.reverse)} under reverse KL, ` +
    `difference ${signed(told.difference)} [${signed(told.low)}, ${signed(told.high)}] ` +
    `over ${told.seeds} seeds`;
  switch (told.who) {
    case "forward":
      return `${after} forward KL is nearer to the teacher: ${numbers}.`;
    case "reverse":
      return `${after} reverse KL is nearer to the teacher: ${numbers}.`;
    case "arrived":
      return `${after} both have arrived, and what is left is rounding: ${numbers}.`;
    default:
      return `${after} the two are not separated: ${numbers}, and the interval holds 0.`;
  }
}

/** The setting in words. */
export function settingInWords(audit, setting) {
  const { axes } = audit;
  return (
    `Rank ${axes.rank[setting.rank]}, learning rate ${axes.learning_rate[setting.rate]}, ` +
    `${setting.epsilon ? "1e-10 inside the logarithm" : "exact logarithm"}, ` +
    `${SHARPNESS[axes.sharpness[setting.sharpness]]}`
  );
}

export const SHARPNESS = { post: "teacher as sharp as the post's", unit: "teacher with logits of variance 1" };

/** All settings in the order of the map: panels of sharpness and arithmetic, rows of rates. */
export function allSettings(audit) {
  const { axes } = audit;
  const settings = [];
  for (const epsilon of [false, true]) {
    for (const rate of axes.learning_rate.keys()) {
      for (const sharpness of axes.sharpness.keys()) {
        for (const rank of axes.rank.keys()) settings.push({ sharpness, rank, rate, epsilon });
      }
    }
  }
  return settings;
}

/** How far apart the two are, as a share of the greater distance: 0 to 1. */
export function relativeGap({ forward, reverse, difference }) {
  const greater = Math.max(forward, reverse);
  return greater > 0 ? Math.min(1, Math.abs(difference) / greater) : 0;
}

/** How many settings each verdict has: { forward, reverse, arrived, "not separated" }. */
export function tally(audit, distance, step) {
  const counts = { forward: 0, reverse: 0, arrived: 0, "not separated": 0 };
  for (const setting of allSettings(audit)) counts[verdict(audit, setting, distance, step).who]++;
  return counts;
}

/** Three significant digits, with a true minus. */
export function digits(value) {
  const rounded = Number(value.toPrecision(3));
  const size = Math.abs(rounded);
  const text = size !== 0 && size < 1e-3 ? rounded.toExponential() : String(rounded);
  return text.replaceAll("-", MINUS);
}

const signed = (value) => (value > 0 ? "+" : "") + digits(value);
