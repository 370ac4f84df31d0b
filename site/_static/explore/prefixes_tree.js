// The tree of answers: a band for each word and model, a circle for each node that a loss may visit.

import { NODES, TEACHER, WORDS, reach } from "./prefixes_engine.js";
import { fixed, prefixInWords } from "./prefixes_words.js";

const SVG = "http://www.w3.org/2000/svg";
const LEAF = 25; // pixels between two answers
const FULL = 20; // pixels, the width of a band that has all probability
const TOP = 22;
const WIDE = 620; // pixels, from which a node has room for two numbers
const NEVER = 0.0005; // a weight that draws no circle
const DARK = 2; // nats, at which a circle is full

/** Where each node and answer stands, in units of LEAF from the top. */
const leaves = NODES.flatMap(({ children }, node) => (children.length ? [] : [node]));
const places = [];
for (let node = NODES.length - 1; node >= 0; node--) {
  const { children } = NODES[node];
  const last = WORDS.at(-1).length;
  const below = children.length
    ? children.map((child) => places[child])
    : WORDS.at(-1).map((_, v) => leaves.indexOf(node) * last + v);
  places[node] = below.reduce((total, place) => total + place, 0) / below.length;
}

export class Tree {
  constructor(host) {
    this.host = host;
    this.svg = element("svg", { role: "img", "aria-labelledby": "tree-title tree-desc" }, host);
    element("title", { id: "tree-title" }, this.svg).textContent =
      "The twelve answers as a tree, under the teacher and the student";
    this.desc = element("desc", { id: "tree-desc" }, this.svg);
    this.picture = element("g", { "aria-hidden": "true" }, this.svg);
    this.#stripes();
    new ResizeObserver(() => {
      if (this.shown && Math.round(host.clientWidth) !== this.width) this.draw(this.shown);
    }).observe(host);
  }

  /** q: the student's distribution at each node; seen: what `loss` says of it. */
  draw(shown) {
    this.shown = shown;
    this.width = Math.round(this.host.clientWidth) || 320;
    const height = TOP + LEAF * leaves.length * WORDS.at(-1).length + 4;
    set(this.svg, { viewBox: `0 0 ${this.width} ${height}`, height });
    this.picture.replaceChildren();
    const { q, seen } = shown;
    this.#heads();
    for (const [model, side] of [[TEACHER, "teacher"], [q, "student"]]) this.#bands(model, side); // prettier-ignore
    this.#answers(q);
    const heights = [reach(TEACHER), reach(q)].map((reached) => reached.map((value) => FULL * value));
    NODES.forEach((_, node) => {
      const [above, below] = heights.map((height) => height[node]);
      this.#node(node, seen.weights[node], seen.divergences[node], above, below);
    });
    this.desc.textContent =
      NODES.map((_, node) => {
        const [weight, nats] = [seen.weights[node], seen.divergences[node]].map((value) => fixed(value));
        return `After ${prefixInWords(node)}: weight ${weight}, ${nats} nats`;
      }).join("; ") + ".";
  }

  #x(level) {
    const right = this.width - (this.width < WIDE ? 46 : 170);
    return 16 + ((right - 16) * level) / WORDS.length;
  }

  #y = (place) => TOP + LEAF * (place + 0.5);

  #stripes() {
    const definitions = element("defs", {}, this.svg);
    const size = { width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(-55)" };
    const pattern = element("pattern", { id: "tree-stripes", ...size }, definitions);
    element("rect", { width: 5, height: 3, class: "stripe" }, pattern);
  }

  #heads() {
    const words = this.width < WIDE ? ["1st", "2nd", "3rd"] : ["first word", "second word", "third word"];
    words.forEach((word, level) => {
      const attributes = { x: this.#x(level + 1), y: 12, "text-anchor": level === 2 ? "start" : "middle" };
      element("text", attributes, this.picture).textContent = word;
    });
  }

  /** The flow of a model's probability: the teacher's above the middle of a node, the student's below. */
  #bands(model, side) {
    const reached = reach(model);
    const isTeacher = side === "teacher";
    NODES.forEach(({ children, level }, node) => {
      const y = this.#y(places[node]);
      let edge = isTeacher ? y - FULL * reached[node] : y;
      model[node].forEach((share, word) => {
        const broad = FULL * reached[node] * share;
        const place = children.length ? places[children[word]] : places[node] + word - (model[node].length - 1) / 2;
        const end = isTeacher ? this.#y(place) - broad : this.#y(place);
        const [x0, x1] = [this.#x(level), this.#x(level + 1)];
        const half = (x0 + x1) / 2;
        const d =
          `M${x0} ${edge}C${half} ${edge} ${half} ${end} ${x1} ${end}V${end + broad}` +
          `C${half} ${end + broad} ${half} ${edge + broad} ${x0} ${edge + broad}Z`;
        element("path", { d, class: `band-${side}` }, this.picture);
        edge += broad;
      });
    });
  }

  #answers(q) {
    const [byTeacher, byStudent] = [reach(TEACHER), reach(q)];
    for (const node of leaves) {
      WORDS.at(-1).forEach((word, v) => {
        const y = this.#y(places[node] + v - (WORDS.at(-1).length - 1) / 2) + 4;
        const text = element("text", { x: this.#x(WORDS.length) + 6, y, class: "word" }, this.picture);
        text.textContent = word;
        if (this.width < WIDE) return;
        const [p, own] = [byTeacher[node] * TEACHER[node][v], byStudent[node] * q[node][v]];
        const numbers = element("text", { x: this.#x(WORDS.length) + 52, y }, this.picture);
        numbers.textContent = `p ${percentage(p)}  q ${percentage(own)}`;
      });
    }
  }

  /** `above` and `below`: pixels that the bands take around the node. */
  #node(node, weight, nats, above, below) {
    const { level, word } = NODES[node];
    const [x, y] = [this.#x(level), this.#y(places[node])];
    const never = weight < NEVER;
    const radius = never ? 4 : 4 + 8 * Math.sqrt(weight);
    const circle = element("circle", { cx: x, cy: y, r: radius, class: never ? "node never" : "node" }, this.picture);
    circle.style.setProperty("--dark", `${Math.round(90 * Math.min(1, nats / DARK))}%`);
    const anchor = level === 0 ? "start" : "middle";
    const left = level === 0 ? 2 : x;
    if (level > 0) {
      const name = element("text", { x: left, y: y - Math.max(radius, above) - 4, "text-anchor": anchor, class: "word" }, this.picture);
      name.textContent = WORDS[level - 1][word];
    }
    const said = element("text", { x: left, y: y + Math.max(radius, below) + 12, "text-anchor": anchor }, this.picture);
    said.textContent = this.width < WIDE ? fixed(nats, 2) : `${fixed(nats, 2)} nats × ${fixed(weight, never ? 4 : 2)}`;
  }
}

const percentage = (p) => `${(100 * p).toFixed(p < 0.1 ? 1 : 0)}%`;

function element(tag, attributes, parent) {
  return set(parent.appendChild(document.createElementNS(SVG, tag)), attributes);
}

function set(made, attributes) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
