// What the losses are called, and a sentence on each: its gradient, and where it ends.

const WORDS = "Sampled words, called reverse KL";
const FORWARD = "Teacher’s top 4, called forward KL";
const REVERSE = "Teacher’s top 4, called reverse KL";
const WHOLE = "All words";

export const LOSSES = {
  k1_loss: {
    group: WORDS,
    label: "k1 as a loss",
    note: "log q/p of the word, differentiated. Its mean is zero: the student stays, and a sampled one wanders off.",
  },
  k1_reward: {
    group: WORDS,
    label: "k1 in the reward",
    note: "The score ∇log q of the word, weighted by log q/p. Its mean is the gradient of reverse KL.",
  },
  k1_baseline: {
    group: WORDS,
    label: "k1 in the reward, less its mean",
    note: "The weight is log q/p less D(q‖p), its mean. The gradient’s mean stays. Its noise is less at the flat student, and more at the sharp ones.",
  },
  k2_loss: {
    group: WORDS,
    label: "k2 as a loss",
    note: "Half of the squared log q/p, differentiated. Word by word this is k1 in the reward.",
  },
  k3_loss: {
    group: WORDS,
    label: "k3 as a loss",
    note: "p/q − 1 − log p/q, differentiated. Its mean is the gradient of forward KL, not of reverse KL.",
  },
  k3_reward: {
    group: WORDS,
    label: "k3 in the reward",
    note: "The score, weighted by k3. Its mean is reverse KL’s gradient less forward KL’s: near the teacher next to nothing.",
  },
  sampled_bucket: {
    group: WORDS,
    label: "The word and a bucket",
    note: "The KL of two buckets, the word and all others. A word counts with q times more: nothing is learnt where the student is unsure.",
  },
  ...tails(FORWARD, "forward_kl", {
    bucket: "The other words are one bucket. The tail gets the teacher’s mass; who has it within the bucket stays as it was.",
    truncated: "The other words are left out. The sum falls for ever as the tail goes to nothing.",
    clamped: "Left out, and the sum is kept above 0. The tail falls until the sum is 0, and stays there.",
    teacher_renormalised: "The teacher’s four words sum to one, the student’s do not: the tail goes to nothing.",
    both_renormalised: "Both sum to one over the four words. The tail has no gradient: it ends where it began, or near.",
    fixed: "Each other word has −100 nats, that is nothing: in this direction the same as left out.",
    even: "The other words share the teacher’s tail evenly, and so they end.",
  }),
  ...tails(REVERSE, "reverse_kl", {
    bucket: "The other words are one bucket. The tail gets the teacher’s mass; who has it within the bucket stays as it was.",
    truncated: "The other words are left out. The four end at 1/e = 37% of the teacher’s, and the tail has all the rest.",
    clamped: "Left out, and the sum is kept above 0. Where the four have too little the sum is below 0, and nothing moves.",
    teacher_renormalised: "The teacher’s four words sum to one, the student’s do not. They end with 37% in all.",
    both_renormalised: "Both sum to one over the four words. The tail has no gradient: it ends where it began, or near.",
    fixed: "Each other word has −100 nats: the tail is pushed down hard, and goes to nothing.",
    even: "The other words share the teacher’s tail evenly, and so they end.",
  }),
  "whole.forward_kl": { group: WHOLE, label: "Forward KL", note: "No word is left out or sampled." },
  "whole.reverse_kl": { group: WHOLE, label: "Reverse KL", note: "No word is left out or sampled." },
};

function tails(group, direction, notes) {
  const labels = {
    bucket: "The tail in one bucket",
    truncated: "Truncated",
    clamped: "Truncated, clamped at 0",
    teacher_renormalised: "Teacher renormalised",
    both_renormalised: "Both renormalised",
    fixed: "−100 nats outside",
    even: "Tail shared evenly",
  };
  return Object.fromEntries(
    Object.entries(notes).map(([tail, note]) => [
      `${tail}.${direction}`,
      { group, label: `${labels[tail]}, ${direction === "forward_kl" ? "forward" : "reverse"}`, note },
    ]),
  );
}
