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

const shownAt = new WeakMap();

/**
 * Show `text` in `element`: twice a second while figures move, and to listeners only when they rest.
 */
export function statusText(element, text, isMoving) {
  if (!isMoving) {
    liveText(element, text);
    return;
  }
  element.setAttribute("aria-live", "off");
  clearTimeout(waiting.get(element));
  const now = performance.now();
  if (now - (shownAt.get(element) ?? -Infinity) < 500) return;
  shownAt.set(element, now);
  element.textContent = text;
}

/** The view that the address holds after its #, as an object of strings. */
export function readHash() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

let hashTimer = 0;
let putHash = () => {};

/**
 * Put a view into the address, so that it can be linked; at most four times a second.
 *
 * It replaces the address: Back leads to the page before, or to the view before a link was followed.
 */
export function writeHash(view) {
  clearTimeout(hashTimer);
  const address = location.href;
  putHash = () => {
    clearTimeout(hashTimer);
    putHash = () => {};
    if (location.href !== address) return; // Back was quicker: the page will hold another view
    const hash = new URLSearchParams(view).toString().replaceAll("%2C", ",");
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  };
  hashTimer = setTimeout(putHash, 250);
}

/**
 * Call `open` when the address comes to hold another view: by a link, by Back, or typed.
 *
 * A link to a heading of the page holds no view and changes nothing.
 */
export function onHashView(open) {
  addEventListener("hashchange", () => {
    if (location.hash.includes("=")) open();
  });
}

/** A button at the end of `host` that copies the address of the view as it stands. */
export function addCopyLink(host) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "copy-link", textContent: "Copy link" });
  button.setAttribute("aria-live", "polite");
  let timer = 0;
  button.addEventListener("click", async () => {
    putHash();
    let text = "Link copied";
    try {
      await navigator.clipboard.writeText(location.href);
    } catch {
      text = "Copy it from the address bar"; // the browser has refused
    }
    button.textContent = text;
    clearTimeout(timer);
    timer = setTimeout(() => (button.textContent = "Copy link"), 2500);
  });
  host.append(button);
}

/** Call `redraw` whenever the page changes between light and dark. */
export function onThemeChange(redraw) {
  new MutationObserver(redraw).observe(document.body, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
