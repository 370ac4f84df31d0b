// A colour and a dash for each divergence, so that no picture depends on colour alone.

export const STYLES = {
  forward_kl: { colour: "var(--ex-forward)", dash: "" },
  reverse_kl: { colour: "var(--ex-reverse)", dash: "9 5" },
  jensen_shannon: { colour: "var(--ex-jsd)", dash: "10 4 2 4" },
  adaptive_kl: { colour: "var(--ex-akl)", dash: "3 4" },
  skew_forward_kl: { colour: "var(--ex-skew-forward)", dash: "14 4" },
  skew_reverse_kl: { colour: "var(--ex-skew-reverse)", dash: "10 3 2 3 2 3" },
};
