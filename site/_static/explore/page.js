// What every explorable page needs besides its charts: a clock, a voice and an address.

// Inside another page's iframe the figure stands alone (frame.css).
document.documentElement.classList.toggle("framed", window !== window.parent);

/** Does the reader's system ask for little motion? */
export const prefersLittleMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/**
 * A clock that calls `step(count)` with the number of steps that have come due, once a frame.
 *
 * `step` returns false when there is nothing left to do, and the clock stops. Where little motion
 * is asked for, it shows a still every half second, after as many steps as the time is worth.
 *
 * @param {(count: number) => boolean | void} step
 * @param {{rate?: number, reducedMotion?: boolean, onChange?: (playing: boolean) => void}} options
 *   `rate` in steps a second; `onChange` is told when the clock starts or stops.
 * @returns {{play(): void, pause(): void, toggle(): void, playing: boolean, rate: number}}
 */
export function playLoop(step, options = {}) {
  const { reducedMotion = prefersLittleMotion(), onChange = () => {} } = options;
  let frame = 0;
  let before = 0;
  let due = 0;
  const loop = {
    rate: options.rate ?? 30,
    playing: false,
    play() {
      if (loop.playing) return;
      loop.playing = true;
      before = performance.now();
      due = 1; // the first step comes at once
      frame = requestAnimationFrame(tick);
      onChange(true);
    },
    pause() {
      if (!loop.playing) return;
      loop.playing = false;
      cancelAnimationFrame(frame);
      onChange(false);
    },
    toggle() {
      if (loop.playing) loop.pause();
      else loop.play();
    },
  };
  function tick(now) {
    const elapsed = now - before;
    if (!reducedMotion || elapsed >= 500) {
      // A tab that was away for a minute does not catch up a minute.
      due += (Math.min(elapsed, reducedMotion ? 500 : 100) / 1000) * loop.rate;
      before = now;
      const count = Math.floor(due);
      due -= count;
      if (count > 0 && step(count) === false) {
        loop.pause();
        return;
      }
    }
    if (loop.playing) frame = requestAnimationFrame(tick);
  }
  return loop;
}

const waiting = new WeakMap();

/**
 * Say `text` in `element`, politely; of several within `wait` milliseconds only the last is said.
 */
export function liveText(element, text, wait = 300) {
  element.setAttribute("aria-live", "polite");
  clearTimeout(waiting.get(element));
  waiting.set(
    element,
    setTimeout(() => {
      if (element.textContent !== text) element.textContent = text;
    }, wait),
  );
}

/** The view that the address holds after its #, as an object of strings. */
export function readHash() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

let hashTimer = 0;

/** Put a view into the address, so that it can be linked; at most four times a second. */
export function writeHash(view) {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => {
    const hash = new URLSearchParams(view).toString().replaceAll("%2C", ",");
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }, 250);
}

/** Call `redraw` whenever the page changes between light and dark. */
export function onThemeChange(redraw) {
  new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
