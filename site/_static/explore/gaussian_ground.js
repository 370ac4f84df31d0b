// When the landscapes are computed: between frames, coarse while something moves, fine at rest.

import { Objective } from "./gaussian_engine.js";
import { ONE, restPoints, survey, twoMeans, watershed } from "./gaussian_landscape.js";

const BUDGET = 4; // milliseconds of this between two frames
const LATER = Symbol("later"); // yielded where there is nothing to do in this frame
const STILL = 120; // milliseconds without a change that count as rest

/** The plane in which students from this start are shown. */
export const planeOf = ({ start }) => (start.mu.length === 1 ? ONE : twoMeans(0, 0));

export class Ground {
  /**
   * `cards` show what belongs to `race`. `isMoving()` tells whether the students are under way;
   * `onState` is told "pending" when a survey becomes due and "ready" when the last one is done.
   */
  constructor(race, cards, { isMoving, onState }) {
    Object.assign(this, { race, cards, isMoving, onState });
    this.wanted = false; // a survey is due
    this.work = null; // the one under way, a generator
    this.changed = 0; // when the ground last moved
  }

  /** Survey anew, as soon as the survey under way is done. */
  survey() {
    if (!this.wanted && !this.work) requestAnimationFrame(() => this.#labour());
    this.wanted = true;
    this.changed = performance.now();
    this.onState("pending");
  }

  #labour() {
    const until = performance.now() + BUDGET;
    if (!this.work && this.wanted) {
      this.wanted = false;
      this.work = this.#surveys();
    }
    while (this.work && performance.now() < until) {
      const { done, value } = this.work.next();
      if (done) this.work = null;
      if (value === LATER) break;
    }
    if (this.work || this.wanted) requestAnimationFrame(() => this.#labour());
    else this.onState("ready");
  }

  *#surveys() {
    const { lanes, target } = this.race;
    const objectives = lanes.map(({ student }) => new Objective(target, student.objective.divergence));
    const planes = lanes.map(({ student: { z } }) => (z.length === 2 ? ONE : twoMeans(z[2], z[3])));
    const one = planes[0] === ONE;
    // Has the number of components changed meanwhile? Then these are pictures of nothing.
    const stale = () => one !== (this.race.lanes[0].student.z.length === 2);
    const fields = [];
    for (let k = 0; k < planes.length; k++) {
      fields.push(yield* survey(objectives[k], planes[k], one ? 29 : 25, one ? 21 : 25));
      if (stale()) return;
      yield* this.cards[k].portrait.paint(fields[k]);
    }
    if (one) yield* this.#markRestPoints(objectives, fields, stale);
    // The plane of two means moves with the students, that of one Gaussian only with the target.
    const restless = () =>
      (!one && this.isMoving()) || performance.now() - this.changed < STILL;
    while (restless() && !this.wanted) yield LATER;
    for (let k = 0; k < planes.length; k++) {
      if (this.wanted) return; // the fine survey waits for the last of the coarse ones
      fields[k] = yield* survey(objectives[k], planes[k], one ? 85 : 57, one ? 61 : 57);
      if (stale()) return;
      yield* this.cards[k].portrait.paint(fields[k]);
    }
    if (one) yield* this.#markRestPoints(objectives, fields, stale);
  }

  *#markRestPoints(objectives, fields, stale) {
    for (let k = 0; k < fields.length; k++) {
      const points = yield* restPoints(objectives[k], fields[k]);
      const curves = [];
      for (const saddle of points.filter((point) => point.kind === "saddle")) {
        curves.push(...(yield* watershed(objectives[k], ONE, saddle)));
      }
      if (stale()) return;
      this.cards[k].portrait.mark(points, curves);
      this.cards[k].describe(points);
    }
  }
}
