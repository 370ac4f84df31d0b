// A colour and a dash for each divergence, so that no picture depends on colour alone.
//
// Forward KL's line is broad, and drawn first: JSD's often lies on it.

export const STYLES = {
  forward_kl: { colour: "var(--ex-forward)", dash: "", width: 5 },
  reverse_kl: { colour: "var(--ex-reverse)", dash: "9 5", width: 2.5 },
  jensen_shannon: { colour: "var(--ex-jsd)", dash: "10 4 2 4", width: 2.5 },
  adaptive_kl: { colour: "var(--ex-akl)", dash: "3 4", width: 2.5 },
  skew_forward_kl: { colour: "var(--ex-skew-forward)", dash: "14 4", width: 2.5 },
  skew_reverse_kl: { colour: "var(--ex-skew-reverse)", dash: "10 3 2 3 2 3", width: 2.5 },
};
