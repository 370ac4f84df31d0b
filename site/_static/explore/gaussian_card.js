// One student's card: which divergence it follows, its numbers, its density, its phase portrait.

import { Chart } from "./chart.js";
import { Portrait } from "./gaussian_portrait.js";
import { FLOOR, outline, XS } from "./gaussian_stage.js";
import { STYLES } from "./gaussian_styles.js";
import { FORMULAS, NAMES, number, whereabouts } from "./gaussian_words.js";

const HTML = `
  <label class="what"><span class="swatch"></span>
    <select aria-label="Divergence"></select></label>
  <p class="formula"></p>
  <p class="numbers"><span class="nats"></span>
    <span class="mu"></span> <span class="sigma"></span></p>
  <div class="density"></div>
  <div class="portrait"></div>
  <p class="state"></p>`;

export class Card {
  /** `onChoose(name)` when another divergence is chosen; `onPlace(x, y)` for a tap on the plane. */
  constructor(host, plane, { onChoose, onPlace }) {
    host.className = "panel student";
    host.innerHTML = HTML;
    this.host = host;
    this.part = (name) => host.querySelector(`.${name}`);
    this.select = host.querySelector("select");
    for (const [value, text] of Object.entries(NAMES)) this.select.add(new Option(text, value));
    this.select.addEventListener("change", () => onChoose(this.select.value));
    this.density = new Chart(this.part("density"), {
      x: [-7, 7],
      y: [0, 0.9],
      xTicks: [],
      yTicks: [],
      height: (width) => (width < 190 ? 58 : 72),
      margin: { left: 36, right: 6, top: 4, bottom: 4 },
      title: "Target and student",
    });
    this.portrait = new Portrait(this.part("portrait"), plane, "");
    this.part("portrait").addEventListener("click", (event) => {
      const { chart } = this.portrait;
      const [x, y] = chart.toData(event);
      const inside = x > chart.x[0] && x < chart.x[1] && y > chart.y[0] && y < chart.y[1];
      if (inside) onPlace(x, y);
    });
  }

  /** Show another divergence. */
  choose(divergence) {
    this.divergence = divergence;
    this.select.value = divergence;
    this.host.dataset.divergence = divergence;
    this.host.style.setProperty("--mine", STYLES[divergence].colour);
    this.portrait.colour = STYLES[divergence].colour;
    this.part("formula").textContent = FORMULAS[divergence];
  }

  /** One lane of the race; `hills` are the stage's. */
  draw({ student, gait, path }, target, hills) {
    const { mu, sigma } = student;
    const q = { mu, sigma, weight: mu.map(() => 1 / mu.length) };
    this.#hills(hills);
    const shape = outline(q);
    const { colour } = STYLES[this.divergence];
    this.density.band("fill", XS, FLOOR, shape, { colour });
    this.density.line("student", XS, shape, { colour });
    this.portrait.path([...path.xs, student.z[0]], [...path.ys, student.z[1]]);

    const list = (values) => values.map((value) => number(value)).join(", ");
    this.part("nats").textContent = `${number(student.value, 3)} nats`;
    this.part("mu").textContent = `μ ${list(q.mu)}`;
    this.part("sigma").textContent = `σ ${list(q.sigma)}`;
    const where = whereabouts(q, target);
    const still = { waiting: `waits on a saddle, ${where}`, resting: `settled ${where}` };
    const moving = student.steps === 0 ? "at the start" : "moving";
    this.part("state").textContent = student.lost ? "has left the grid" : (still[gait] ?? moving);
    this.host.dataset.state = student.lost ? "lost" : gait;
    this.density.describe(`${NAMES[this.divergence]}: μ ${list(q.mu)}, σ ${list(q.sigma)}.`);
  }

  /** The target, drawn only when it has changed. */
  #hills({ heights, top }) {
    if (this.heights === heights) return;
    this.heights = heights;
    if (top !== this.density.y[1]) this.density.axes({ y: [0, top] });
    this.density.band("target", XS, FLOOR, heights, { colour: "var(--ex-target)" });
  }

  /** Say of the portrait what is seen: how many points the flow may end in. */
  describe(points) {
    const stable = points.filter((point) => point.kind === "stable");
    const list = stable.map(
      (p) => `μ ${number(p.x)}, σ ${number(Math.exp(p.y))} at ${number(p.value, 3)} nats`,
    );
    this.portrait.chart.describe(
      `The flow of ${NAMES[this.divergence]} has ${stable.length} stable point` +
        `${stable.length === 1 ? "" : "s"}: ${list.join("; ")}.`,
    );
  }
}
