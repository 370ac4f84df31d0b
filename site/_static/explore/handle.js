// Handles that stand in a chart and move one value each, by mouse, touch or keyboard.
//
// Each is a slider to assistive technology. Where several lie close together a pointer takes the
// nearest, and its grip is wider than what is drawn.

const SVG = "http://www.w3.org/2000/svg";
const GRIP = 20; // pixels around a handle that belong to it

const SHAPES = {
  mean: "M0 -8a8 8 0 1 0 0 16a8 8 0 1 0 0 -16Z",
  width: "M-10 0l6 -6h8l6 6l-6 6h-8Z", // points both ways
};

/** The handles of one chart. */
export class Handles {
  constructor(chart) {
    this.chart = chart;
    this.all = [];
    chart.overlay.addEventListener("pointerdown", (event) => this.#grab(event));
    // A grip needs the finger for itself; elsewhere on the chart it scrolls the page. (Chromium
    // heeds no touch-action inside an SVG.)
    chart.overlay.addEventListener("touchstart", (event) => event.preventDefault(), {
      passive: false,
    });
  }

  /**
   * Add a handle.
   *
   * @param {{label: string, shape: "mean" | "width", colour: string, min: number, max: number,
   *   step: number, get(): number, set(value: number): void, place(): [number, number],
   *   fromPointer(x: number): number, text(value: number): string}} handle
   *   `place` says where it stands, in data; `fromPointer` turns a pointer's x into the value.
   */
  add(handle) {
    const group = document.createElementNS(SVG, "g");
    group.setAttribute("tabindex", "0");
    group.setAttribute("role", "slider");
    group.setAttribute("aria-label", handle.label);
    group.setAttribute("aria-valuemin", handle.min);
    group.setAttribute("aria-valuemax", handle.max);
    group.setAttribute("class", `handle ${handle.shape}`);
    const grip = group.appendChild(document.createElementNS(SVG, "circle"));
    grip.setAttribute("r", GRIP);
    grip.setAttribute("class", "grip");
    const mark = group.appendChild(document.createElementNS(SVG, "path"));
    mark.setAttribute("d", SHAPES[handle.shape]);
    mark.setAttribute("class", "mark");
    mark.style.fill = handle.colour;
    group.addEventListener("keydown", (event) => this.#key(event, handle));
    this.chart.overlay.append(group);
    this.all.push({ ...handle, set: (value) => handle.set(snap(value, handle)), group });
  }

  clear() {
    for (const { group } of this.all) group.remove();
    this.all = [];
  }

  /** Put every handle where its value says. */
  update() {
    for (const handle of this.all) {
      const [x, y] = this.chart.toScreen(...handle.place());
      const value = handle.get();
      handle.group.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
      handle.group.setAttribute("aria-valuenow", Number(value.toFixed(3)));
      handle.group.setAttribute("aria-valuetext", handle.text(value));
    }
  }

  #key(event, handle) {
    const big = event.shiftKey ? 5 : 1;
    const value = handle.get();
    const moves = {
      ArrowLeft: value - big * handle.step,
      ArrowDown: value - big * handle.step,
      ArrowRight: value + big * handle.step,
      ArrowUp: value + big * handle.step,
      PageDown: value - 5 * handle.step,
      PageUp: value + 5 * handle.step,
      Home: handle.min,
      End: handle.max,
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    handle.set(snap(moves[event.key], handle));
  }

  #grab(event) {
    if (event.button > 0) return;
    const { svg } = this.chart;
    const box = svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let nearest = null;
    for (const handle of this.all) {
      const [x, y] = this.chart.toScreen(...handle.place());
      const distance = Math.hypot(x - px, y - py);
      if (!nearest || distance < nearest.distance) nearest = { handle, distance, offset: x - px };
    }
    if (!nearest || nearest.distance > GRIP + 2) return;
    event.preventDefault();
    const { handle, offset } = nearest;
    handle.group.focus();
    svg.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const [x] = this.chart.toData(moved.clientX + offset, moved.clientY);
      handle.set(handle.fromPointer(x));
    };
    const release = () => {
      svg.removeEventListener("pointermove", move);
      svg.removeEventListener("pointerup", release);
      svg.removeEventListener("pointercancel", release);
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerup", release);
    svg.addEventListener("pointercancel", release);
  }
}

function snap(value, { min, max, step }) {
  const snapped = Math.round(value / step) * step;
  return Number(Math.min(max, Math.max(min, snapped)).toFixed(6));
}
