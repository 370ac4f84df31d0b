// Several students that set out from one start towards one target, each by its own divergence.

import { Objective, Student, Target } from "./gaussian_engine.js";
import { gait } from "./gaussian_words.js";

export const LONGEST = 3000; // steps
const LOOK_BACK = 30; // steps, over which a student that rests has not moved
const LOOK_EVERY = 5; // steps
const VISIBLE = 0.02; // of mu and log sigma: what moves less shows in no picture

/** What is remembered of a student's way: where it has been of late, and the path to be drawn. */
function setOut({ z }) {
  return { past: [], path: { xs: [z[0]], ys: [z[1]] } };
}

export class Race {
  /** view: { target, start, divergences, method, rate } as in the page's state. */
  constructor(view) {
    this.restart(view);
  }

  /** All back to the start, perhaps another one. */
  restart(view) {
    this.target = new Target(view.target);
    this.steps = 0;
    /** Has the target moved under way? Then the start and the number of steps do not say all. */
    this.moved = false;
    this.lanes = view.divergences.map((divergence) => {
      const student = new Student(new Objective(this.target, divergence), view.start, view);
      return { student, gait: "moving", values: [student.value], ...setOut(student) };
    });
  }

  /** Another target: the students go on from where they stand, and their trails begin anew. */
  retarget(target) {
    this.target = new Target(target);
    this.moved = this.steps > 0;
    for (const lane of this.lanes) {
      lane.student.follow(new Objective(this.target, lane.student.objective.divergence));
      lane.gait = "moving";
      Object.assign(lane, setOut(lane.student));
      lane.values[lane.values.length - 1] = lane.student.value;
    }
  }

  /** Take one step. */
  step() {
    this.steps += 1;
    for (const lane of this.lanes) {
      const { student, past, path } = lane;
      student.step();
      lane.values.push(student.value);
      const [x, y] = student.z;
      if (Math.abs(x - path.xs.at(-1)) + Math.abs(y - path.ys.at(-1)) > VISIBLE) {
        path.xs.push(x);
        path.ys.push(y);
      }
      if (this.steps % LOOK_EVERY === 0) {
        lane.gait = gait(student, past.length === LOOK_BACK / LOOK_EVERY ? past.shift() : null);
        past.push(Float64Array.from(student.z));
      }
    }
  }

  /** Nothing more will happen: all rest, or the steps are used up. */
  get over() {
    const atRest = this.lanes.every(({ student, gait }) => gait === "resting" || student.lost);
    return atRest || this.steps >= LONGEST;
  }
}
