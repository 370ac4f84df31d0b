// Gaussians that descend onto a mixture of two: the arithmetic of toy/mixture_fit.py, in the browser.
//
// p is the target (the teacher), q the student: components of fixed, equal weight whose means and
// log-sigmas move. Both are summed on the same even grid as in toy/mixture.py, where log-density
// plus log-spacing is a log-probability. Gradients are written by hand: every divergence gives
// dD/d(log q) at each point of the grid, and the chain rule to (mu, log sigma) is the same for all.
//
// Nothing here knows of a page; a test runs it beside the Python.

export const GRID = { low: -40, high: 40, points: 1601 };
const SPACING = (GRID.high - GRID.low) / (GRID.points - 1);
const LOG_SPACING = Math.log(SPACING);
const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI);

/** The post's target: ½N(-3, 0.5²) + ½N(3, 0.5²). */
export const POST_TARGET = { mu: [-3, 3], sigma: [0.5, 0.5], weight: [0.5, 0.5] };

/** Density of a mixture { mu, sigma, weight } at x. */
export function density({ mu, sigma, weight }, x) {
  let sum = 0;
  for (let k = 0; k < mu.length; k++) {
    const z = (x - mu[k]) / sigma[k];
    sum += (weight[k] / sigma[k]) * Math.exp(-0.5 * z * z - HALF_LOG_2PI);
  }
  return sum;
}

/** The target's distribution on the grid: log-probabilities, probabilities, and adaptive KL's head. */
export class Target {
  constructor({ mu, sigma, weight }) {
    Object.assign(this, { mu: [...mu], sigma: [...sigma], weight: [...weight] });
    this.logp = new Float64Array(GRID.points);
    this.p = new Float64Array(GRID.points);
    const height = mu.map((_, k) => Math.log(weight[k] / sigma[k]) - HALF_LOG_2PI + LOG_SPACING);
    for (let i = 0; i < GRID.points; i++) {
      const x = GRID.low + i * SPACING;
      let logp = -Infinity;
      for (let k = 0; k < mu.length; k++) {
        logp = logAdd(logp, height[k] - 0.5 * ((x - mu[k]) / sigma[k]) ** 2);
      }
      this.logp[i] = logp;
      this.p[i] = Math.exp(logp);
    }
    const edges = mu.flatMap((m, k) => [m - REACH * sigma[k], m + REACH * sigma[k]]);
    this.low = Math.min(...edges);
    this.high = Math.max(...edges);
    this.narrowest = Math.min(...sigma);
  }

  get head() {
    this.sorted ??= headMask(this.p, 0.5);
    return this.sorted;
  }

  set head(mask) {
    this.sorted = mask;
  }
}

/** The fewest most likely points whose mass reaches `mu` (adaptive KL's head), as 0s and 1s. */
function headMask(p, mu) {
  // Two points of a symmetric target are as likely as each other, up to rounding, and one of them
  // may have to go into the head alone. Python leaves that to its rounding; here it is the right.
  const order = [...p.keys()].sort((i, j) =>
    Math.abs(p[i] - p[j]) > 1e-12 * Math.max(p[i], p[j]) ? p[j] - p[i] : j - i,
  );
  const head = new Uint8Array(p.length);
  let mass = 0;
  for (const i of order) {
    if (mass >= mu) break;
    head[i] = 1;
    mass += p[i];
  }
  return head;
}

function logAdd(a, b) {
  const [low, high] = a < b ? [a, b] : [b, a];
  return low === -Infinity ? high : high + Math.log1p(Math.exp(low - high));
}

// Beyond 12 sigmas a density is below 1e-31: nothing there adds to a sum.
const REACH = 12;

// Each takes the distributions over points `from`..`to` (every `stride`-th), writes dD/d(log q) into `push`
// and returns D, both to be multiplied by the stride. As in kd_lab/divergences.py, D(a‖b) is summed
// as a·log(a/b) - a + b.
const DIVERGENCE_SUMS = {
  forward_kl({ logp, p }, logq, q, push, from, to, stride) {
    let sum = 0;
    for (let i = from; i <= to; i += stride) {
      push[i] = q[i] - p[i];
      sum += p[i] * (logp[i] - logq[i]) + push[i];
    }
    return sum;
  },
  reverse_kl({ logp, p }, logq, q, push, from, to, stride) {
    let sum = 0;
    for (let i = from; i <= to; i += stride) {
      push[i] = q[i] * (logq[i] - logp[i]);
      sum += push[i] + p[i] - q[i];
    }
    return sum;
  },
  jensen_shannon({ logp, p }, logq, q, push, from, to, stride) {
    let sum = 0;
    for (let i = from; i <= to; i += stride) {
      const m = 0.5 * (p[i] + q[i]);
      const logm = m > 0 ? Math.log(m) : logq[i];
      push[i] = 0.5 * q[i] * (logq[i] - logm);
      sum += 0.5 * p[i] * (logp[i] - logm) + push[i];
    }
    return sum;
  },
  adaptive_kl({ logp, p, head }, logq, q, push, from, to, stride) {
    let headGap = 0;
    let allGap = 0;
    let forward = 0;
    let reverse = 0;
    for (let i = from; i <= to; i += stride) {
      const gap = Math.abs(p[i] - q[i]);
      allGap += gap;
      if (head[i]) headGap += gap;
      const logRatio = logq[i] - logp[i];
      forward += q[i] - p[i] - p[i] * logRatio;
      reverse += q[i] * logRatio + p[i] - q[i];
    }
    const w = allGap > 0 ? headGap / allGap : 0.5;
    for (let i = from; i <= to; i += stride) {
      push[i] = w * (q[i] - p[i]) + (1 - w) * q[i] * (logq[i] - logp[i]);
    }
    return w * forward + (1 - w) * reverse;
  },
  skew_forward_kl({ logp, p }, logq, q, push, from, to, stride, alpha = 0.1) {
    let sum = 0;
    for (let i = from; i <= to; i += stride) {
      const m = alpha * p[i] + (1 - alpha) * q[i];
      const logm = m > 0 ? Math.log(m) : logq[i];
      push[i] = m > 0 ? (1 - alpha) * q[i] * (1 - p[i] / m) : 0;
      sum += p[i] * (logp[i] - logm) + m - p[i];
    }
    return sum;
  },
  skew_reverse_kl({ p }, logq, q, push, from, to, stride, alpha = 0.1) {
    let sum = 0;
    for (let i = from; i <= to; i += stride) {
      const m = (1 - alpha) * p[i] + alpha * q[i];
      const logm = m > 0 ? Math.log(m) : logq[i];
      const term = q[i] * (logq[i] - logm);
      push[i] = m > 0 ? term + alpha * q[i] * (1 - q[i] / m) : 0;
      sum += term + m - q[i];
    }
    return sum;
  },
};

/** The names of the divergences, those of kd_lab/divergences.py. */
export const DIVERGENCES = Object.keys(DIVERGENCE_SUMS);

// What a sum works in; one at a time is at work.
const logq = new Float64Array(GRID.points);
const q = new Float64Array(GRID.points);
const push = new Float64Array(GRID.points);
const share = new Float64Array(GRID.points); // of the first of two components in q

/** The divergence of one or two Gaussians of equal weight from a target, and its gradient. */
export class Objective {
  constructor(target, divergence) {
    if (!(divergence in DIVERGENCE_SUMS)) throw new Error(`unknown divergence ${divergence}`);
    Object.assign(this, { target, divergence, sum: DIVERGENCE_SUMS[divergence] });
  }

  /**
   * D in nats at z = [mu_1..mu_K, log sigma_1..log sigma_K]; its gradient goes into `gradient`.
   * `stride` sums every so many points of the grid only; `coarseStride` says how many will do.
   */
  at(z, gradient, stride = 1) {
    const { target } = this;
    const K = z.length / 2;
    let { low, high } = target;
    for (let k = 0; k < K; k++) {
      const reach = REACH * Math.exp(z[K + k]);
      low = Math.min(low, z[k] - reach);
      high = Math.max(high, z[k] + reach);
    }
    const from = Math.max(0, Math.floor((low - GRID.low) / SPACING / stride)) * stride;
    const to = Math.min(GRID.points - 1, Math.ceil((high - GRID.low) / SPACING));
    if (K === 1) oneGaussian(z, from, to, stride);
    else twoGaussians(z, from, to, stride);
    const value = this.sum(target, logq, q, push, from, to, stride) * stride;
    for (let k = 0; k < K; k++) {
      const inverse = Math.exp(-z[K + k]);
      let byMu = 0;
      let byLogSigma = 0;
      for (let i = from; i <= to; i += stride) {
        const u = (GRID.low + i * SPACING - z[k]) * inverse;
        const pushed = K === 1 ? push[i] : push[i] * (k === 0 ? share[i] : 1 - share[i]);
        byMu += pushed * u;
        byLogSigma += pushed * (u * u - 1);
      }
      gradient[k] = byMu * inverse * stride;
      gradient[K + k] = byLogSigma * stride;
    }
    return value;
  }

  /** How many points of the grid may be skipped where the narrowest sigma is `sigma`. */
  coarseStride(sigma) {
    // Such a sum of a Gaussian is right to 20 digits; of log p, where one mode takes over from the
    // other within a point or two, to three or four: enough for a picture, not for a step.
    return Math.max(1, Math.floor((0.6 * Math.min(sigma, this.target.narrowest)) / SPACING));
  }
}

function oneGaussian(z, from, to, stride) {
  const inverse = Math.exp(-z[1]);
  const height = LOG_SPACING - z[1] - HALF_LOG_2PI;
  for (let i = from; i <= to; i += stride) {
    const u = (GRID.low + i * SPACING - z[0]) * inverse;
    logq[i] = height - 0.5 * u * u;
    q[i] = Math.exp(logq[i]);
  }
}

function twoGaussians(z, from, to, stride) {
  const [inverse0, inverse1] = [Math.exp(-z[2]), Math.exp(-z[3])];
  const common = LOG_SPACING - HALF_LOG_2PI - Math.LN2;
  for (let i = from; i <= to; i += stride) {
    const x = GRID.low + i * SPACING;
    const [u0, u1] = [(x - z[0]) * inverse0, (x - z[1]) * inverse1];
    const log0 = common - z[2] - 0.5 * u0 * u0;
    const log1 = common - z[3] - 0.5 * u1 * u1;
    const ratio = Math.exp(-Math.abs(log0 - log1)); // of the lesser to the greater
    logq[i] = Math.max(log0, log1) + Math.log(1 + ratio);
    q[i] = Math.exp(logq[i]);
    share[i] = (log0 > log1 ? 1 : ratio) / (1 + ratio);
  }
}

/**
 * A student on its way. `method` is "adam" (torch's, the post's choice) or "flow": the ordinary
 * differential equation dz/dt = -gradient, by `rate` of time a step.
 *
 * After each step `z`, `gradient` and `value` (nats) belong together. `lost` becomes true where more
 * than about 1e-6 of its mass would fall off the grid, and then it stays where it is.
 */
export class Student {
  constructor(objective, { mu, sigma }, { method = "adam", rate = 0.1 } = {}) {
    Object.assign(this, { objective, method, rate, steps: 0, lost: false });
    this.z = Float64Array.from([...mu, ...sigma.map(Math.log)]);
    this.gradient = new Float64Array(this.z.length);
    this.first = new Float64Array(this.z.length); // Adam's moments
    this.second = new Float64Array(this.z.length);
    this.time = 0.01; // the flow's inner step, which adapts itself
    this.value = objective.at(this.z, this.gradient);
  }

  get mu() {
    return [...this.z.subarray(0, this.z.length / 2)];
  }

  get sigma() {
    return [...this.z.subarray(this.z.length / 2)].map(Math.exp);
  }

  /** Go on towards another target, or by another divergence, from here. */
  follow(objective) {
    this.objective = objective;
    this.value = objective.at(this.z, this.gradient);
  }

  step() {
    if (this.lost) return;
    const before = Float64Array.from(this.z);
    if (this.method === "adam") this.#adam();
    else this.#flow(this.rate);
    if (!onGrid(this.z)) {
      this.z.set(before);
      this.value = this.objective.at(this.z, this.gradient);
      this.lost = true;
      return;
    }
    this.steps += 1;
  }

  #adam() {
    const t = this.steps + 1;
    const [bias1, bias2] = [1 - 0.9 ** t, Math.sqrt(1 - 0.999 ** t)];
    for (let i = 0; i < this.z.length; i++) {
      const g = this.gradient[i];
      this.first[i] += 0.1 * (g - this.first[i]);
      this.second[i] = 0.999 * this.second[i] + 0.001 * g * g;
      const scale = Math.sqrt(this.second[i]) / bias2 + 1e-8;
      this.z[i] -= ((this.rate / bias1) * this.first[i]) / scale;
    }
    if (onGrid(this.z)) this.value = this.objective.at(this.z, this.gradient);
  }

  /** Bogacki and Shampine's pair of orders 3 and 2, its inner steps chosen by their difference. */
  #flow(duration) {
    const { z, gradient, objective } = this;
    const n = z.length;
    const slopes = [gradient, new Float64Array(n), new Float64Array(n), new Float64Array(n)];
    const [k1, k2, k3, k4] = slopes;
    const trial = new Float64Array(n);
    for (let left = duration; left > 1e-12; ) {
      const h = Math.min(this.time, left);
      for (let i = 0; i < n; i++) trial[i] = z[i] - 0.5 * h * k1[i];
      objective.at(trial, k2);
      for (let i = 0; i < n; i++) trial[i] = z[i] - 0.75 * h * k2[i];
      objective.at(trial, k3);
      for (let i = 0; i < n; i++) trial[i] = z[i] - (h / 9) * (2 * k1[i] + 3 * k2[i] + 4 * k3[i]);
      const value = onGrid(trial) ? objective.at(trial, k4) : NaN;
      let error = 0;
      for (let i = 0; i < n; i++) {
        const difference = (h / 72) * (-5 * k1[i] + 6 * k2[i] + 8 * k3[i] - 9 * k4[i]);
        error = Math.max(error, Math.abs(difference) / FLOW_TOLERANCE);
      }
      const accepted = error <= 1 && !Number.isNaN(value);
      if (accepted) {
        z.set(trial);
        gradient.set(k4);
        this.value = value;
        left -= h;
      }
      // A step cut short by the end of the duration says nothing of the next one's length.
      if (!accepted || h === this.time) {
        const factor = Number.isFinite(error) ? 0.9 * Math.cbrt(1 / Math.max(error, 1e-6)) : 0.2;
        this.time = Math.min(0.5, h * Math.min(3, Math.max(0.2, factor)));
      }
      if (this.time < 1e-9) return; // no flow can be followed from here
    }
  }
}

const FLOW_TOLERANCE = 1e-6; // of mu and log sigma, in one inner step

function onGrid(z) {
  const K = z.length / 2;
  for (let k = 0; k < K; k++) {
    const sigma = Math.exp(z[K + k]);
    const room = GRID.high - Math.abs(z[k]);
    if (!(room > 4.9 * sigma && sigma > 0.9 * SPACING)) return false;
  }
  return true;
}
