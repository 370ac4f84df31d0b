// The ground a student walks on: divergence and slope over a plane, rest points, watersheds.
//
// All are generators that pause after a little work (a fraction of a millisecond), so that a page
// can do them between two frames; what they find is what they return. No page is needed.

/** One Gaussian: the plane of mu and log sigma, which is all there is. */
export const ONE = {
  x: [-7, 7],
  y: [Math.log(0.2), Math.log(8)],
  place: (x, y) => [x, y],
};

/** Two Gaussians: the plane of their means, at the widths that they have now. */
export const twoMeans = (logSigma0, logSigma1) => ({
  x: [-7, 7],
  y: [-7, 7],
  place: (x, y) => [x, y, logSigma0, logSigma1],
});

/**
 * Divergence and slope at a lattice of the plane, row by row from the lowest y.
 *
 * @returns { plane, columns, rows, value, slopeX, slopeY }, the last three of columns * rows.
 */
export function* survey(objective, plane, columns, rows) {
  const field = { plane, columns, rows };
  for (const name of ["value", "slopeX", "slopeY"]) field[name] = new Float32Array(columns * rows);
  const gradient = new Float64Array(plane.place(0, 0).length);
  for (let row = 0; row < rows; row++) {
    const y = plane.y[0] + (row / (rows - 1)) * (plane.y[1] - plane.y[0]);
    for (let column = 0; column < columns; column++) {
      const x = plane.x[0] + (column / (columns - 1)) * (plane.x[1] - plane.x[0]);
      const z = plane.place(x, y);
      const index = row * columns + column;
      field.value[index] = objective.at(z, gradient, strideFor(objective, z));
      // The plane's axes are the first two coordinates, for one Gaussian and for two.
      field.slopeX[index] = gradient[0];
      field.slopeY[index] = gradient[1];
      if (column % 8 === 7) yield;
    }
  }
  return field;
}

function strideFor(objective, z) {
  return objective.coarseStride(Math.exp(Math.min(...z.slice(z.length / 2))));
}

/** Value and slope of a survey between its points: [value, slopeX, slopeY] at (x, y). */
export function interpolate({ plane, columns, rows, value, slopeX, slopeY }, x, y) {
  const u = clamp(((x - plane.x[0]) / (plane.x[1] - plane.x[0])) * (columns - 1), columns - 1);
  const v = clamp(((y - plane.y[0]) / (plane.y[1] - plane.y[0])) * (rows - 1), rows - 1);
  const [i, j] = [Math.min(Math.floor(u), columns - 2), Math.min(Math.floor(v), rows - 2)];
  const [s, t] = [u - i, v - j];
  const k = j * columns + i;
  return [value, slopeX, slopeY].map(
    (a) =>
      (1 - t) * ((1 - s) * a[k] + s * a[k + 1]) +
      t * ((1 - s) * a[k + columns] + s * a[k + columns + 1]),
  );
}

const clamp = (value, high) => Math.min(Math.max(value, 0), high);

/**
 * Where gradient flow comes to rest in a plane of one Gaussian: { x, y, value, kind }, kind being
 * "stable", "saddle" or "unstable", from left to right. Newton's method from every lattice point at
 * which the slope is gentler than all around, and from every cell in which both slopes change sign.
 */
export function* restPoints(objective, field) {
  const { plane, columns, rows } = field;
  const found = [];
  for (let j = 0; j < rows; j++) {
    for (let i = 0; i < columns; i++) {
      if (!gentlest(field, i, j) && !turning(field, i, j)) continue;
      const start = [
        plane.x[0] + (i / (columns - 1)) * (plane.x[1] - plane.x[0]),
        plane.y[0] + (j / (rows - 1)) * (plane.y[1] - plane.y[0]),
      ];
      const point = yield* newton(objective, plane, start);
      const known = found.some((p) => Math.abs(p.x - point?.x) + Math.abs(p.y - point?.y) < 1e-2);
      if (point && !known) found.push(point);
    }
  }
  return found.sort((a, b) => a.x - b.x);
}

function gentlest({ columns, rows, slopeX, slopeY }, i, j) {
  const steepness = (k) => slopeX[k] ** 2 + slopeY[k] ** 2;
  const here = steepness(j * columns + i);
  for (let dj = -1; dj <= 1; dj++) {
    for (let di = -1; di <= 1; di++) {
      const [a, b] = [i + di, j + dj];
      const inside = a >= 0 && a < columns && b >= 0 && b < rows;
      if (inside && steepness(b * columns + a) < here) return false;
    }
  }
  return true;
}

function turning({ columns, rows, slopeX, slopeY }, i, j) {
  if (i + 1 >= columns || j + 1 >= rows) return false;
  const corners = [0, 1, columns, columns + 1].map((k) => j * columns + i + k);
  const turns = (a) => corners.some((k) => a[k] >= 0) && corners.some((k) => a[k] < 0);
  return turns(slopeX) && turns(slopeY);
}

function* newton(objective, plane, [x, y]) {
  const gradient = new Float64Array(2);
  for (let turn = 0; turn < 40; turn++) {
    const value = objective.at([x, y], gradient);
    const [gx, gy] = gradient;
    const [[a, b], [c, d]] = jacobian(objective, x, y);
    yield;
    const determinant = a * d - b * c;
    if (Math.hypot(gx, gy) < 1e-9) {
      if (Math.abs(determinant) < 1e-7) return null; // far away all is flat, and nothing rests
      const kind = determinant < 0 ? "saddle" : a + d > 0 ? "stable" : "unstable";
      return { x, y, value, kind };
    }
    const stepX = (d * gx - b * gy) / determinant;
    const stepY = (a * gy - c * gx) / determinant;
    // A long step is a step out of the neighbourhood that the tangent describes.
    const scale = Math.min(1, 0.5 / Math.hypot(stepX, stepY));
    x -= scale * stepX;
    y -= scale * stepY;
    const inside = x > plane.x[0] && x < plane.x[1] && y > plane.y[0] && y < plane.y[1];
    if (!inside) return null; // NaN is not inside either
  }
  return null;
}

/** The slope's derivatives, [[xx, xy], [yx, yy]]; a Hessian but for adaptive KL's frozen weight. */
function jacobian(objective, x, y, h = 1e-4) {
  const [east, west] = [new Float64Array(2), new Float64Array(2)];
  const [north, south] = [new Float64Array(2), new Float64Array(2)];
  objective.at([x + h, y], east);
  objective.at([x - h, y], west);
  objective.at([x, y + h], north);
  objective.at([x, y - h], south);
  return [0, 1].map((i) => [(east[i] - west[i]) / (2 * h), (north[i] - south[i]) / (2 * h)]);
}

/**
 * The watershed through a saddle: two curves { xs, ys } from it to the plane's edge, on either side
 * of which the flow goes different ways. They are what flows into the saddle, followed upstream.
 */
export function* watershed(objective, plane, saddle) {
  const [[a, b], [c, d]] = jacobian(objective, saddle.x, saddle.y);
  // The flow converges along the eigenvector of the larger eigenvalue.
  const half = (a + d) / 2;
  const eigenvalue = half + Math.sqrt(Math.max(0, half * half - (a * d - b * c)));
  const [vx, vy] = Math.abs(b) > Math.abs(c) ? [b, eigenvalue - a] : [eigenvalue - d, c];
  const norm = Math.hypot(vx, vy);
  const gradient = new Float64Array(2);
  const uphill = (x, y) => {
    objective.at([x, y], gradient, strideFor(objective, [x, y]));
    const length = Math.hypot(gradient[0], gradient[1]);
    return [gradient[0] / length, gradient[1] / length];
  };
  const curves = [];
  for (const side of norm > 0 ? [-1, 1] : []) {
    let [x, y] = [saddle.x + (side * 0.02 * vx) / norm, saddle.y + (side * 0.02 * vy) / norm];
    const curve = { xs: [saddle.x, x], ys: [saddle.y, y] };
    for (let n = 0; n < 400; n++) {
      const [ux, uy] = uphill(x, y);
      const [mx, my] = uphill(x + 0.02 * ux, y + 0.02 * uy);
      x += 0.04 * mx;
      y += 0.04 * my;
      yield;
      if (!(x > plane.x[0] && x < plane.x[1] && y > plane.y[0] && y < plane.y[1])) break;
      curve.xs.push(x);
      curve.ys.push(y);
    }
    curves.push(curve);
  }
  return curves;
}

/**
 * The least curvature of the divergence at z, over all directions: below zero, a way leads down
 * from here though the slope may be nothing.
 */
export function leastCurvature(objective, z, h = 1e-4) {
  const n = z.length;
  const [up, down] = [new Float64Array(n), new Float64Array(n)];
  const hessian = [...z].map((_, i) => {
    const at = (shift) => Float64Array.from(z, (value, k) => value + (k === i ? shift : 0));
    objective.at(at(h), up);
    objective.at(at(-h), down);
    return Float64Array.from(up, (value, k) => (value - down[k]) / (2 * h));
  });
  // Power iteration on bound - H, whose greatest eigenvalue is bound - (H's least).
  const bound = Math.max(...hessian.map((row) => row.reduce((sum, v) => sum + Math.abs(v), 0)));
  let vector = Float64Array.from({ length: n }, (_, i) => 1 / (i + 1.5));
  let greatest = 0;
  for (let turn = 0; turn < 200; turn++) {
    const next = vector.map((v, i) => {
      let sum = bound * v;
      for (let k = 0; k < n; k++) sum -= 0.5 * (hessian[i][k] + hessian[k][i]) * vector[k];
      return sum;
    });
    greatest = Math.hypot(...next);
    vector = next.map((v) => v / greatest);
  }
  return bound - greatest;
}
