// A phase portrait: the landscape in shades, the flow in short arrows, rest points, and the path.

import { Chart } from "./chart.js";
import { interpolate } from "./gaussian_landscape.js";

const BANDS = 9;
const SIGMA_TICKS = [0.25, 0.5, 1, 2, 5].map((sigma) => [Math.log(sigma), String(sigma)]);
const MU_TICKS = [-6, -3, 0, 3, 6].map((mu) => [mu, String(mu).replace("-", "−")]);

export class Portrait {
  /** A portrait in `host`, its path in `colour`. */
  constructor(host, plane, colour) {
    this.colour = colour;
    this.field = null;
    this.chart = new Chart(host, {
      x: plane.x,
      y: plane.y,
      height: (width) => Math.round(Math.min(240, 1.02 * width)),
      margin: { left: 36, right: 6, top: 6 },
      title: "Phase portrait",
      ...axesOf(plane),
    });
    this.chart.canvas();
    this.#layers();
    /** Called when the size has changed and the landscape has to be painted again. */
    this.onLayout = () => {};
    this.chart.onLayout = () => this.onLayout();
  }

  setPlane(plane) {
    this.field = null;
    this.chart.clear();
    const canvas = this.chart.canvas();
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    this.chart.axes(axesOf(plane));
    this.#layers();
  }

  /** All layers, empty, from the lowest to the uppermost. */
  #layers() {
    this.mark([], []);
    this.path([], []);
  }

  /** Paint a survey's landscape and flow; pauses between rows. */
  *paint(field) {
    this.field = field;
    const canvas = this.chart.canvas();
    const { width, height } = canvas;
    if (!width || !height) return;
    const shade = getComputedStyle(canvas).getPropertyValue("--ex-shade").split(",").map(Number);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const ink = shade[0] | (shade[1] << 8) | (shade[2] << 16); // red is the lowest byte
    const band = new Uint8Array(width * height);
    const levels = quantiles(field.value, BANDS);
    for (let row = 0; row < height; row++) {
      shadeRow(field, levels, band, row, width, height);
      if (row % 6 === 5) yield;
    }
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const k = row * width + column;
        const edge =
          (column + 1 < width && band[k] !== band[k + 1]) ||
          (row + 1 < height && band[k] !== band[k + width]);
        const opacity = 0.3 * (band[k] / BANDS) + (edge ? 0.08 : 0);
        pixels[k] = ink | (Math.round(255 * opacity) << 24);
      }
      if (row % 20 === 19) yield;
    }
    // The plane or the size may have changed meanwhile.
    if (this.field !== field || canvas.width !== width || canvas.height !== height) return;
    const context = canvas.getContext("2d");
    context.putImageData(image, 0, 0);
    this.#arrows(context, shade);
  }

  /** Rest points of the flow, and the watersheds between what flows to one and to another. */
  mark(points, watersheds) {
    const kind = (name) => points.filter((point) => point.kind === name);
    const gap = watersheds.flatMap(({ xs, ys }) => xs.map((x, i) => [x, ys[i]]).concat([[NaN, NaN]]));
    this.chart.line("watersheds", gap.map(([x]) => x), gap.map(([, y]) => y), {
      colour: "var(--ex-ink)",
      dash: "1 5",
      width: 2,
    });
    const at = (found) => [found.map((p) => p.x), found.map((p) => p.y)];
    const saddle = { colour: "var(--ex-ink)", shape: "diamond", hollow: true, size: 5 };
    this.chart.points("saddles", ...at(kind("saddle")), saddle);
    this.chart.points("stable", ...at(kind("stable")), { colour: "var(--ex-ink)", size: 4.5 });
  }

  /** The way from the start to where the student is; xs and ys are in data. */
  path(xs, ys) {
    const last = Math.max(0, xs.length - 1);
    const cross = { colour: this.colour, shape: "cross", size: 5, width: 2.5 };
    this.chart.line("path", xs, ys, { colour: this.colour, width: 2.5 });
    this.chart.points("start", xs.slice(0, 1), ys.slice(0, 1), cross);
    this.chart.points("now", xs.slice(last), ys.slice(last), { colour: this.colour, size: 6.5 });
  }

  #arrows(context, shade) {
    const { left, top, right, bottom } = this.chart.plot;
    const scale = context.canvas.width / (right - left);
    const [x0, x1] = this.chart.x;
    const [y0, y1] = this.chart.y;
    const perX = (right - left) / (x1 - x0);
    const perY = (bottom - top) / (y1 - y0);
    context.save();
    context.scale(scale, scale);
    context.strokeStyle = context.fillStyle = `rgba(${shade.join()}, 0.62)`;
    context.lineWidth = 1.1;
    const every = Math.max(20, Math.min(28, (right - left) / 7)); // pixels
    let shift = 0;
    for (let v = every / 2; v < bottom - top; v += 0.87 * every) {
      shift = every / 2 - shift;
      for (let u = every / 4 + shift; u < right - left; u += every) {
        this.#arrow(context, u, v, perX, perY, bottom - top);
      }
    }
    context.restore();
  }

  /** A short piece of the flow's line through a point, in pixels from the plot's upper left. */
  #arrow(context, u, v, perX, perY, height) {
    const direction = (a, b) => {
      const x = this.chart.x[0] + a / perX;
      const y = this.chart.y[0] + (height - b) / perY;
      const [, gx, gy] = interpolate(this.field, x, y);
      const [du, dv] = [-gx * perX, gy * perY];
      const length = Math.hypot(du, dv);
      return length > 1e-5 * perX ? [du / length, dv / length] : null;
    };
    let [a, b] = [u, v];
    let way = null;
    context.beginPath();
    context.moveTo(a, b);
    for (let n = 0; n < 9; n++) {
      const next = direction(a, b);
      if (!next || (way && next[0] * way[0] + next[1] * way[1] < 0.3)) break;
      way = next;
      a += 1.5 * way[0];
      b += 1.5 * way[1];
      context.lineTo(a, b);
    }
    if (!way) return;
    context.stroke();
    const [du, dv] = way;
    context.beginPath();
    context.moveTo(a + 3 * du, b + 3 * dv);
    context.lineTo(a - 2 * du + 2.2 * dv, b - 2 * dv - 2.2 * du);
    context.lineTo(a - 2 * du - 2.2 * dv, b - 2 * dv + 2.2 * du);
    context.fill();
  }
}

function axesOf(plane) {
  const ofMeans = plane.y[0] === plane.x[0];
  return {
    x: plane.x,
    y: plane.y,
    xTicks: MU_TICKS,
    yTicks: ofMeans ? MU_TICKS : SIGMA_TICKS,
    xLabel: ofMeans ? "μ₁" : "μ",
    yLabel: ofMeans ? "μ₂" : "σ",
  };
}

/** Levels that cut the values into as many equal shares: each shade then covers as much ground. */
function quantiles(values, count) {
  const sorted = Float32Array.from(values).sort();
  const levels = [];
  for (let k = 1; k < count; k++) levels.push(sorted[Math.floor((k / count) * sorted.length)]);
  return levels;
}

function shadeRow({ columns, rows, value }, levels, band, row, width, height) {
  const v = (1 - row / (height - 1)) * (rows - 1);
  const j = Math.min(Math.floor(v), rows - 2);
  const t = v - j;
  for (let column = 0; column < width; column++) {
    const u = (column / (width - 1)) * (columns - 1);
    const i = Math.min(Math.floor(u), columns - 2);
    const s = u - i;
    const k = j * columns + i;
    const low = (1 - s) * value[k] + s * value[k + 1];
    const high = (1 - s) * value[k + columns] + s * value[k + columns + 1];
    const here = (1 - t) * low + t * high;
    let level = 0;
    while (level < levels.length && here > levels[level]) level++;
    band[row * width + column] = level;
  }
}
