// The page on tokens: two objectives on one answer, token by token.

import * as engine from "./tokens_engine.js";
import { addCopyLink, liveText, onHashView, readHash, writeHash } from "./page.js";

const root = document.querySelector("#tokens");
const $ = (name) => root.querySelector(`[data-id="${name}"]`);
const DATA = new URL("../data/token_pages.json", import.meta.url);
const BEGIN = { a: "token_fkl", b: "token_rkl" };
const EVEN = 0.1; // nats: nearer than that, the two are as good as equal
const SEEN = 0.002; // a probability below it has no bar
const FULL = 3; // nats, at which a token's bar and colour are at their strongest

let study;
let view; // { a, b, question, answer, token }

function start() {
  const sides = engine.sides(study);
  for (const select of [$("a"), $("b")]) {
    select.replaceChildren(...sides.map(({ name, label }) => new Option(label, name)));
  }
  $("question").replaceChildren(
    ...["divides", "first"].map((why) => {
      const group = document.createElement("optgroup");
      group.label = why === "first" ? "first of its kind" : "divides forward and reverse KL most";
      for (const [place, { question, why: own }] of study.questions.entries()) {
        if (own === why) group.append(new Option(question, place));
      }
      return group;
    }),
  );
  view = fromHash();
  for (const side of ["a", "b"]) {
    $(side).addEventListener("change", () => show({ [side]: $(side).value }));
  }
  $("question").addEventListener("change", () => show({ question: Number($("question").value) }));
  $("answer").addEventListener("change", () => show({ answer: Number($("answer").value) }));
  $("swap").addEventListener("click", () => show({ a: view.b, b: view.a }));
  $("reset").addEventListener("click", () => show(beginning()));
  $("row").addEventListener("keydown", walk);
  addCopyLink($("reset").parentElement);
  onHashView(() => {
    show(fromHash());
    root.scrollIntoView();
  });
  root.classList.add("ready");
  show({});
}

/** The question that divides the two most and, of its answers, the first that is a student's. */
function beginning() {
  const question = study.questions.findIndex(({ why }) => why === "divides");
  const { answers } = study.questions[question];
  return { ...BEGIN, question, answer: Math.min(1, answers.length - 1), token: null };
}

function fromHash() {
  const asked = readHash();
  const known = new Set(engine.sides(study).map(({ name }) => name));
  const next = beginning();
  for (const side of ["a", "b"]) if (known.has(asked[side])) next[side] = asked[side];
  const whole = (text, end) => (/^\d+$/.test(text ?? "") && Number(text) < end ? Number(text) : null);
  next.question = whole(asked.question, study.questions.length) ?? next.question;
  const { answers } = study.questions[next.question];
  next.answer = whole(asked.answer, answers.length) ?? Math.min(1, answers.length - 1);
  next.token = whole(asked.token, answers[next.answer].positions.length);
  return next;
}

/** Change the view and draw it. */
function show(change) {
  view = { ...view, ...change };
  if (change.question !== undefined && change.answer === undefined) {
    view.answer = Math.min(1, study.questions[view.question].answers.length - 1);
  }
  const answer = study.questions[view.question].answers[view.answer];
  const compared = engine.compare(study, answer, view.a, view.b);
  // Another answer, or other sides, are opened where the two differ most.
  const isSame = !["a", "b", "question", "answer"].some((name) => name in change);
  view.token = change.token ?? (isSame ? view.token : null) ?? engine.widest(compared);
  drawControls();
  drawRow(compared, engine.leaves(answer));
  drawDistributions(answer.positions[view.token]);
  drawSums(answer);
  liveText($("summary"), summary(answer, compared));
  writeHash(view);
}

function drawControls() {
  const { answers } = study.questions[view.question];
  $("answer").replaceChildren(
    ...answers.map((answer, place) => new Option(`${source(answer)}: ${answer.text}`, place)),
  );
  for (const name of ["a", "b", "question", "answer"]) $(name).value = view[name];
}

function source(answer) {
  return answer.from === "reference" ? "the reference" : `from ${label(answer.from)}`;
}

function label(side) {
  return engine.sides(study).find(({ name }) => name === side).label;
}

/** The answer as a row of tabs, each with a bar: up where A gives the token more, down where B. */
function drawRow(compared, leaves) {
  const tabs = compared.map(({ token, a, b, ratio }, place) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.role = "tab";
    tab.id = `token-${place}`;
    tab.setAttribute("aria-controls", "token-distributions");
    const chosen = place === view.token;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
    const lean = ratio === null || Math.abs(ratio) < EVEN ? "even" : ratio > 0 ? "a" : "b";
    tab.className = `token lean-${lean}`;
    tab.dataset.lean = lean;
    const strength = ratio === null ? 0 : Math.min(1, Math.abs(ratio) / FULL);
    tab.style.setProperty("--strength", strength.toFixed(3));
    const bar = document.createElement("span");
    bar.className = "bar";
    bar.append(document.createElement("i"));
    const word = document.createElement("span");
    word.className = "word";
    word.textContent = engine.readable(token);
    tab.append(bar, word);
    const heard = `${engine.readable(token)}: ${engine.probability(a)} by A, ${engine.probability(b)} by B`;
    tab.setAttribute("aria-label", heard + (place === leaves ? "; here it leaves the grammar" : ""));
    tab.classList.toggle("leaves", place === leaves);
    tab.addEventListener("click", () => {
      show({ token: place });
      focusToken();
    });
    return tab;
  });
  const hadFocus = $("row").contains(document.activeElement);
  $("row").replaceChildren(...tabs);
  if (hadFocus) focusToken();
}

function focusToken() {
  $("row").children[view.token].focus();
}

function walk(event) {
  const last = $("row").children.length - 1;
  const to = {
    ArrowRight: Math.min(last, view.token + 1),
    ArrowLeft: Math.max(0, view.token - 1),
    Home: 0,
    End: last,
  }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  show({ token: to });
  focusToken();
}

function drawDistributions(position) {
  const { rows, others } = engine.distributions(study, position, view.a, view.b);
  const panel = $("distributions");
  panel.setAttribute("aria-labelledby", `token-${view.token}`);
  const answer = study.questions[view.question].answers[view.answer];
  const before = answer.positions.slice(0, view.token).map(({ tokens }) => tokens[0]).join("");
  const silent = position.grammar === null;
  $("prefix").textContent = `${before} …`;
  $("silent").hidden = !silent;
  const showsTruth = !silent && view.a !== engine.GRAMMAR && view.b !== engine.GRAMMAR;
  $("truth-head").hidden = !showsTruth;
  const line = (row, name) => {
    const tr = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    if (row.taken) {
      tr.className = "taken";
      const mark = document.createElement("small");
      mark.textContent = " stands here";
      head.append(mark);
    }
    const both = document.createElement("td");
    both.className = "bars";
    both.setAttribute("aria-hidden", "true");
    for (const side of ["a", "b"]) {
      const bar = document.createElement("i");
      bar.className = `share share-${side}`;
      if ((row[side] ?? 0) < SEEN) bar.classList.add("nothing");
      else bar.style.width = `${100 * row[side]}%`;
      both.append(bar);
    }
    const cells = [row.a, row.b, ...(showsTruth ? [row.truth] : [])].map((p) => {
      const cell = document.createElement("td");
      cell.className = "number";
      cell.textContent = engine.probability(p);
      return cell;
    });
    tr.append(head, ...cells, both);
    return tr;
  };
  $("distribution-rows").replaceChildren(
    ...rows.map((row) => line(row, engine.readable(row.token))),
    line(others, "all others"),
  );
}

function drawSums(answer) {
  const [a, b] = [view.a, view.b].map((side) => engine.sums(study, answer, side));
  const { length } = answer.positions;
  const lines = [
    ["log-probability of the answer", a.logProb, b.logProb],
    ["forward KL from the teacher, summed", a.forward, b.forward],
    ["reverse KL to the teacher, summed", a.reverse, b.reverse],
    [
      "forward KL from the grammar, summed" +
        (a.spoken < length ? ` over the first ${a.spoken} of ${length} tokens: then the answer has left it` : ""),
      a.truth,
      b.truth,
    ],
  ];
  $("sum-rows").replaceChildren(
    ...lines.map(([name, ...values]) => {
      const tr = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      tr.append(
        head,
        ...values.map((value) => {
          const cell = document.createElement("td");
          cell.className = "number";
          cell.textContent = engine.nats(value);
          return cell;
        }),
      );
      return tr;
    }),
  );
}

function summary(answer, compared) {
  const [a, b] = [view.a, view.b].map((side) => engine.sums(study, answer, side).logProb);
  const { token, a: pA, b: pB } = compared[view.token];
  const same = view.a === view.b ? "A and B are the same, so nothing leans. " : "";
  return (
    same +
    `Log-probability of this answer: ${engine.nats(a)} nats by A (${label(view.a)}), ` +
    `${engine.nats(b)} by B (${label(view.b)}). At “${engine.readable(token)}”, token ` +
    `${view.token + 1} of ${compared.length}: ${engine.probability(pA)} against ` +
    `${engine.probability(pB)}. ${truth(answer)}`
  ).trim();
}

function truth(answer) {
  const place = engine.leaves(answer);
  if (place < 0 && [view.a, view.b].includes(engine.GRAMMAR)) return "";
  if (place < 0) return `By the grammar it is ${engine.nats(answer.grammar_log_prob)}.`;
  const left = engine.readable(answer.positions[place].tokens[0]);
  const named = answer.invented.join(" and ");
  return `It leaves the grammar at “${left}”.` + (named && ` It names ${named}; the question does not.`);
}

try {
  const response = await fetch(DATA);
  study = await response.json();
  start();
} catch (error) {
  $("summary").textContent = `The numbers of this page could not be read: ${error.message}`;
}
