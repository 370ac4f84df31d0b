// Arrow keys turn the page, N folds and unfolds all notes. Without this script one scrolls.

const slides = [...document.querySelectorAll(".slide")];
const steps = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 };

// The slide whose top is nearest to the top of the window.
function current() {
  const tops = slides.map((slide) => Math.abs(slide.getBoundingClientRect().top));
  return tops.indexOf(Math.min(...tops));
}

function turnTo(index) {
  slides[Math.max(0, Math.min(slides.length - 1, index))].scrollIntoView();
}

addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.key in steps) turnTo(current() + steps[event.key]);
  else if (event.key === "Home") turnTo(0);
  else if (event.key === "End") turnTo(slides.length - 1);
  else if (event.key.toLowerCase() === "n") {
    const notes = [...document.querySelectorAll(".notes")];
    const open = !notes.every((one) => one.open);
    for (const one of notes) one.open = open;
  } else return;
  event.preventDefault();
});
