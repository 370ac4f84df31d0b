// The stories: where to set out, and what to see. tests/site/test_gaussians.py checks each ending.

import { POST_TARGET } from "./gaussian_engine.js";

const onPostTarget = (mu, sigma) => ({ target: POST_TARGET, start: { mu, sigma } });

export const PRESETS = {
  figure1: {
    name: "Figure 1",
    ...onPostTarget([5], [5]),
    says:
      "One broad Gaussian, far to the right of both modes. Forward KL and JSD spread over both " +
      "modes, reverse KL takes the right one; adaptive KL leans on it and stays half-way. " +
      "(The post starts reverse KL at σ = 1.)",
  },
  figure2: {
    name: "Figure 2",
    ...onPostTarget([-1, 1], [5, 5]),
    says:
      "Two Gaussians, one for each mode. All four arrive at zero. Each waits first where both " +
      "components lie on top of each other, and reverse KL waits longer than forward KL.",
  },
  third: {
    name: "A third resting place",
    ...onPostTarget([0.5], [2.5]),
    says:
      "“Mode-seeking”, from here, seeks no mode: reverse KL has a stable point in the middle, " +
      "μ = 0 and σ = 2.49, at 5.136 nats, fenced in by two saddles (◇).",
  },
  saddle: {
    name: "A saddle",
    ...onPostTarget([4, 5], [5, 5]),
    says:
      "Two Gaussians that set out on the same side. Reverse KL puts both on the right mode and " +
      "stays at ln 2. Forward KL lingers near the diagonal μ₁ = μ₂ for 200 steps, then finds " +
      "its way.",
  },
  merge: {
    name: "Modes that merge",
    ...onPostTarget([3], [0.5]),
    merging: true,
    says:
      "The students start on the right mode and the two modes draw together as you play. Count " +
      "the stable points (●) while they merge: at the end there is one, and all students agree.",
  },
};

/** Does a state still set out as its story does? While modes merge, their places may move. */
export function isStory({ preset, target, start, merging, method, rate }) {
  const story = PRESETS[preset];
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  return (
    same(start, story.start) &&
    same(target.sigma, story.target.sigma) &&
    same(target.weight, story.target.weight) &&
    (merging ?? false) === (story.merging ?? false) &&
    (merging || same(target.mu, story.target.mu)) &&
    method === "adam" &&
    rate === 0.1
  );
}
