// Small charts in SVG: axes, lines, bands and points, each kept by its name and redrawn in place.
//
// The drawing has one unit to the pixel and is laid out anew when its width changes, so that text
// keeps its size on a phone.

export { liveText, playLoop } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
let charts = 0;

/**
 * A chart in a <div>, or in an <svg> that is there already.
 *
 *     const chart = new Chart(div, { x: [0, 100], y: [1e-3, 10], logY: true, xLabel: "step",
 *                                    yLabel: "nats", title: "Divergence against step" });
 *     chart.line("forward KL", steps, values, { colour: "var(--ex-forward)" });
 *     chart.describe("Forward KL falls from 1.79 to 1.11 nats.");
 *
 * x, y: [low, high] of the axes. xTicks, yTicks: values, or [value, label] pairs, where the chart's
 * own choice will not do; [] draws none. height: pixels, or a function of the width. interactive:
 * the chart holds handles, so it must not be announced as one picture. Colours are CSS colours,
 * variables included.
 */
export class Chart {
  constructor(host, options) {
    this.options = { xLabel: "", yLabel: "", height: 240, title: "", describe: "", ...options };
    this.x = options.x;
    this.y = options.y;
    this.layers = new Map();
    this.id = `chart-${charts++}`;
    const isSvg = host instanceof SVGSVGElement;
    this.svg = isSvg ? host : host.appendChild(document.createElementNS(SVG, "svg"));
    this.box = isSvg ? host.parentElement : host;
    this.box.classList.add("chart");
    set(this.svg, {
      role: options.interactive ? "group" : "img",
      "aria-labelledby": `${this.id}-title`,
      "aria-describedby": `${this.id}-desc`,
    });
    this.title = this.#add("title", { id: `${this.id}-title` });
    this.desc = this.#add("desc", { id: `${this.id}-desc` });
    const clip = this.#add("clipPath", { id: `${this.id}-clip` });
    this.clipRect = this.#add("rect", {}, clip);
    this.frame = this.#add("g", { "aria-hidden": "true" });
    this.marks = this.#add("g", { "clip-path": `url(#${this.id}-clip)`, "aria-hidden": "true" });
    /** A group above all marks, not clipped, for handles and notes of the page's own. */
    this.overlay = this.#add("g");
    this.title.textContent = this.options.title;
    this.desc.textContent = this.options.describe;
    this.onLayout = () => {};
    this.#layOut();
    new ResizeObserver(() => {
      if (Math.round(this.box.clientWidth) !== this.width) this.#layOut();
    }).observe(this.box);
  }

  /** Change the axes' ranges or ticks: any of x, y, xTicks, yTicks, logX, logY, xLabel, yLabel. */
  axes(changes) {
    Object.assign(this.options, changes);
    this.x = this.options.x;
    this.y = this.options.y;
    this.#layOut();
  }

  /** The text that stands for the picture where it cannot be seen. */
  describe(text) {
    if (this.desc.textContent !== text) this.desc.textContent = text;
  }

  /** A line through (xs, ys); a value that is not finite breaks it. style: colour, dash, width. */
  line(name, xs, ys, style = {}) {
    this.#layer(name, "path", "line", style, (path) => set(path, { d: this.#path(xs, ys) }));
  }

  /** The area between two lines, such as a 95% interval. */
  band(name, xs, lows, highs, style = {}) {
    this.#layer(name, "path", "band", style, (path) => {
      const there = this.#path(xs, highs);
      const back = this.#path([...xs].reverse(), [...lows].reverse());
      set(path, { d: there && back ? `${there}L${back.slice(1)}Z` : "" });
    });
  }

  /** A symbol at each (x, y). style: colour, size, hollow, shape ("circle", "diamond", "cross", or a function). */
  points(name, xs, ys, style = {}) {
    this.#layer(name, "path", "point", style, (path) => {
      const size = style.size ?? 5;
      let d = "";
      for (let i = 0; i < xs.length; i++) {
        const [x, y] = this.toScreen(xs[i], ys[i]);
        if (Number.isFinite(x + y)) d += (SYMBOLS[style.shape ?? "circle"] ?? style.shape)(x, y, size);
      }
      set(path, { d });
    });
  }

  /** Take one layer away. */
  remove(name) {
    this.layers.get(name)?.element.remove();
    this.layers.delete(name);
  }

  /** Take all layers away; axes, handles and canvas stay. */
  clear() {
    for (const name of [...this.layers.keys()]) this.remove(name);
  }

  /** Fill a <ul> with a swatch and the name of each line; `names` chooses which and their order. */
  legend(list, names = [...this.layers.keys()]) {
    list.classList.add("legend");
    list.replaceChildren(
      ...names.map((name) => {
        const style = this.layers.get(name).style;
        const item = document.createElement("li");
        const swatch = document.createElementNS(SVG, "svg");
        set(swatch, { width: 28, height: 10, viewBox: "0 0 28 10", "aria-hidden": "true" });
        const line = this.#add("path", { d: "M1 5H27", class: "line" }, swatch);
        set(line, { fill: "none", "stroke-dasharray": style.dash ?? "none" });
        set(line, { "stroke-width": style.width ?? 2.5, opacity: style.opacity ?? 1 });
        line.style.stroke = style.colour;
        item.append(swatch, style.label ?? name);
        return item;
      }),
    );
  }

  /** A canvas exactly under the plot area, in device pixels; stretched when its size changes. */
  canvas() {
    if (!this.under) {
      this.under = document.createElement("canvas");
      this.under.setAttribute("aria-hidden", "true");
      this.box.prepend(this.under);
      this.#placeCanvas();
    }
    return this.under;
  }

  /** Data to pixels of the drawing. */
  toScreen(x, y) {
    const { left, top, right, bottom } = this.plot;
    return [
      left + along(x, this.x, this.options.logX) * (right - left),
      bottom - along(y, this.y, this.options.logY) * (bottom - top),
    ];
  }

  /** Where in the data a pointer is: an event, or clientX and clientY. */
  toData(where, clientY) {
    const [x, y] = clientY === undefined ? [where.clientX, where.clientY] : [where, clientY];
    const box = this.svg.getBoundingClientRect();
    const { left, top, right, bottom } = this.plot;
    return [
      at((x - box.left - left) / (right - left), this.x, this.options.logX),
      at((bottom - (y - box.top)) / (bottom - top), this.y, this.options.logY),
    ];
  }

  #add(tag, attributes = {}, parent = this.svg) {
    return set(parent.appendChild(document.createElementNS(SVG, tag)), attributes);
  }

  #layer(name, tag, kind, style, draw) {
    let layer = this.layers.get(name);
    if (!layer) {
      layer = { element: this.#add(tag, { "data-name": name }, this.marks) };
      this.layers.set(name, layer);
    }
    const { element } = layer;
    const look = JSON.stringify(style);
    if (layer.look !== look) this.#dress(element, kind, style);
    Object.assign(layer, { style, look, draw });
    draw(element);
  }

  #dress(element, kind, style) {
    set(element, { class: `${kind} ${style.className ?? ""}` });
    if (style.colour) {
      const crossed = style.shape === "cross";
      const hollow = style.hollow || crossed;
      element.style.fill = kind === "line" ? "none" : hollow ? "var(--ex-paper)" : style.colour;
      element.style.stroke = kind === "line" || hollow ? style.colour : "";
    }
    if (kind === "line") element.style.strokeDasharray = style.dash ?? "";
    element.style.strokeWidth = style.width ?? "";
    element.style.opacity = style.opacity ?? "";
  }

  #path(xs, ys) {
    // As toScreen, without an array for each point: lines are redrawn sixty times a second.
    const { left, top, right, bottom } = this.plot;
    const { logX, logY } = this.options;
    let d = "";
    let pen = "M";
    for (let i = 0; i < xs.length; i++) {
      const x = left + along(xs[i], this.x, logX) * (right - left);
      const y = bottom - along(ys[i], this.y, logY) * (bottom - top);
      if (Number.isFinite(x + y)) {
        d += pen + Math.round(10 * x) / 10 + " " + Math.round(10 * y) / 10;
        pen = "L";
      } else pen = "M";
    }
    return d;
  }

  #layOut() {
    const { options } = this;
    this.width = Math.round(this.box.clientWidth) || 320;
    this.height =
      typeof options.height === "function" ? options.height(this.width) : options.height;
    set(this.svg, { viewBox: `0 0 ${this.width} ${this.height}`, height: this.height });
    // How many labels fit depends on the size, and the margin on the labels' length.
    const yTicks = this.#ticks(this.y, options.logY, options.yTicks, this.height / 36);
    const longest = Math.max(0, ...yTicks.map(([, label]) => label.length));
    const margin = {
      left: 8 + 7 * longest + (options.yLabel ? 16 : 0),
      right: 10,
      top: 8,
      bottom: (options.xTicks?.length === 0 ? 6 : 22) + (options.xLabel ? 16 : 0),
      ...options.margin,
    };
    this.plot = {
      left: margin.left,
      top: margin.top,
      right: this.width - margin.right,
      bottom: this.height - margin.bottom,
    };
    const { left, top, right, bottom } = this.plot;
    set(this.clipRect, { x: left, y: top, width: right - left, height: bottom - top });
    const xTicks = this.#ticks(this.x, options.logX, options.xTicks, (right - left) / 56);
    this.frame.replaceChildren();
    for (const [value, label] of xTicks) {
      const [x] = this.toScreen(value, this.y[0]);
      this.#add("path", { class: "grid", d: `M${x} ${top}V${bottom}` }, this.frame);
      this.#text(label, { x, y: bottom + 15, "text-anchor": "middle" });
    }
    for (const [value, label] of yTicks) {
      const [, y] = this.toScreen(this.x[0], value);
      this.#add("path", { class: "grid", d: `M${left} ${y}H${right}` }, this.frame);
      this.#text(label, { x: left - 6, y: y + 4, "text-anchor": "end" });
    }
    this.#add("path", { class: "axis", d: `M${left} ${bottom}H${right}` }, this.frame);
    const middle = { "text-anchor": "middle", class: "label" };
    if (options.xLabel) {
      this.#text(options.xLabel, { x: (left + right) / 2, y: this.height - 4, ...middle });
    }
    if (options.yLabel) {
      const place = `translate(12 ${(top + bottom) / 2}) rotate(-90)`;
      this.#text(options.yLabel, { transform: place, ...middle });
    }
    this.#placeCanvas();
    for (const { element, draw } of this.layers.values()) draw(element);
    this.onLayout();
  }

  #placeCanvas() {
    if (!this.under) return;
    const { left, top, right, bottom } = this.plot;
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round((right - left) * scale);
    const height = Math.round((bottom - top) * scale);
    if (width !== this.under.width || height !== this.under.height) {
      // A canvas that changes its size is wiped; a stretched picture is better than none.
      const before = document.createElement("canvas");
      before.width = this.under.width;
      before.height = this.under.height;
      if (before.width && before.height) before.getContext("2d").drawImage(this.under, 0, 0);
      this.under.width = width;
      this.under.height = height;
      if (before.width && before.height) {
        this.under.getContext("2d").drawImage(before, 0, 0, width, height);
      }
    }
    Object.assign(this.under.style, {
      left: `${left}px`,
      top: `${top}px`,
      width: `${right - left}px`,
      height: `${bottom - top}px`,
    });
  }

  #text(text, attributes) {
    this.#add("text", attributes, this.frame).textContent = text;
  }

  #ticks(range, isLog, given, room) {
    const values = given ?? (isLog ? logTicks(range, room) : evenTicks(range, room));
    return values.map((tick) => (Array.isArray(tick) ? tick : [tick, tickLabel(tick)]));
  }
}

const SYMBOLS = {
  circle: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
  diamond: (x, y, r) => `M${x} ${y - r}L${x + r} ${y}L${x} ${y + r}L${x - r} ${y}Z`,
  cross: (x, y, r) => `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`,
};

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

function along(value, range, isLog) {
  const low = range[0];
  const high = range[1];
  return isLog ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
}

function at(share, [low, high], isLog) {
  return isLog ? low * (high / low) ** share : low + share * (high - low);
}

function evenTicks([low, high], room) {
  const rough = (high - low) / Math.max(2, Math.min(room, 10));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) {
    ticks.push(Number((k * step).toPrecision(12)));
  }
  return ticks;
}

function logTicks([low, high], room) {
  const decades = Math.log10(high / low);
  const factors = decades * 3 <= room ? [1, 2, 5] : [1];
  const every = Math.ceil((decades * factors.length) / Math.max(room, 2));
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1e-9; power++) {
    if (power % every) continue;
    for (const factor of factors) {
      const tick = Number((factor * 10 ** power).toPrecision(12));
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
    }
  }
  return ticks;
}

const superscript = (n) => [...String(n)].map((c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]).join("");

function tickLabel(value) {
  if (value === 0) return "0";
  const power = Math.log10(Math.abs(value));
  if (power >= 5 || power <= -4) {
    const whole = Math.floor(power + 1e-9);
    const lead = Number((value / 10 ** whole).toPrecision(3));
    return (lead === 1 ? "" : `${lead}·`) + `10${superscript(whole)}`;
  }
  return (value < 0 ? "−" : "") + String(Number(Math.abs(value).toPrecision(10)));
}
