"""One optimizer step against TRL's GKDTrainer, and answers against plain ``generate``.

    python benchmarks/training_step.py --json assets/results/bench_training_step.json
    python benchmarks/training_step.py --repeats 1 --only qwen_vocab

qwen_vocab  a student and a teacher of Qwen2.5's shape and vocabulary, 2 layers, 4 x 256 tokens
smol        SmolLM2-135M-Instruct into every other layer of it, 4 x 256 tokens
rollout     greedy answers of SmolLM2 to short and long questions: kd_lab.rollout, and ``generate``
            on the prompts in file order, with the same batch size; the ratio of tokens per second

A step is forward and backward of student and teacher, gradient clipping and AdamW. The loss is
forward KL on the rows as they are (GKD's lambda 0 and beta 0). Each trainer runs in its own process
(one_trainer.py), theirs and ours in turn, since machines drift. The ratios are medians over pairs.
Peak memory is resident memory above the parameters, gradients and optimizer state. Both losses must
agree, and so must the answers, or nothing is reported.
"""

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kd_lab.files import write_text
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.transformers_engine import write_answers
from kd_lab.smollm2 import FOLDER as SMOLLM2
from toy.script import run_script

WORKER = Path(__file__).with_name("one_trainer.py")
PAIRS = ("qwen_vocab", "smol")
CASES = (*PAIRS, "rollout")
STEPS = 2  # timed in each process, after one that makes the optimizer's state
BATCH_SIZE, MAX_NEW_TOKENS = 16, 128
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}  # GKD takes its softmax in bfloat16 then
PLACES = ("France", "Japan", "Egypt", "Peru", "Norway", "Kenya", "Italy", "Canada")
THINGS = ("rain", "bread", "a bicycle", "the moon", "a library", "the heart", "music", "a volcano")
QUESTIONS = (
    [f"What is the capital of {place}? Answer with one word." for place in PLACES]
    + [f"In one sentence, where is {place}?" for place in PLACES]
    + [f"What is {thing}? Answer in one short sentence." for thing in THINGS]
    + [f"Explain in detail how people use {thing}." for thing in THINGS]
    + [f"Write a story about {thing}." for thing in THINGS]
    + [f"Give three facts about {thing}." for thing in THINGS]
)


def run_trainer(kind: str, case: str, dtype: str) -> dict[str, Any]:
    """One process's loss, and the median of its steps: seconds and MiB."""
    command = [sys.executable, str(WORKER), kind, case, dtype, str(STEPS)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise ValueError(f"{' '.join(command[1:])} failed:\n{run.stderr.strip()[-2000:]}")
    measured = json.loads(run.stdout.splitlines()[-1])
    steps = measured["steps"]
    medians = {name: statistics.median(step[name] for step in steps) for name in steps[0]}
    return {"loss": measured["loss"], **medians}


def compare_trainers(case: str, dtype: str, repeats: int, advance: Callable[[], None]) -> dict:
    """TRL's GKDTrainer and ours in turn: ratios, and what they are ratios of."""
    runs: dict[str, list[dict[str, Any]]] = {"gkd": [], "ours": []}
    for repeat in range(repeats):
        for kind in ("gkd", "ours") if repeat % 2 == 0 else ("ours", "gkd"):
            runs[kind].append(run_trainer(kind, case, dtype))
            advance()
    gkd, ours = runs["gkd"][0]["loss"], runs["ours"][0]["loss"]
    if not math.isclose(gkd, ours, rel_tol=LOSS_TOLERANCE[dtype]):
        raise ValueError(f"{case}: the losses differ, {gkd} (GKD) and {ours} (ours)")

    def ratio(name: str) -> float:
        pairs = zip(runs["ours"], runs["gkd"], strict=True)
        return statistics.median(mine[name] / theirs[name] for mine, theirs in pairs)

    return {"time_vs_gkd": ratio("seconds"), "memory_vs_gkd": ratio("peak_mib"), "runs": runs}


def answer_in_file_order(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], end: int, pad: int
) -> list[list[int]]:
    """``generate`` on one batch of prompts after the other; answers up to their end token."""
    answers = []
    for start in range(0, len(prompts), BATCH_SIZE):
        some = prompts[start : start + BATCH_SIZE]
        width = max(map(len, some))
        ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in some])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in some])
        written = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=MAX_NEW_TOKENS
        )
        for answer in written[:, width:].tolist():
            length = answer.index(end) + 1 if end in answer else len(answer)
            answers.append(answer[:length])
    return answers


def compare_rollouts(dtype: str, repeats: int, advance: Callable[[], None]) -> dict:
    """The same greedy answers both ways, in turn: the ratio of tokens per second."""
    model = AutoModelForCausalLM.from_pretrained(SMOLLM2, dtype=getattr(torch, dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(SMOLLM2)
    questions = random.Random(0).sample(QUESTIONS, len(QUESTIONS))
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in questions
    ]
    end = tokenizer.eos_token_id

    def ours() -> list[list[int]]:
        completions = write_answers(
            model, prompts, Sampling(MAX_NEW_TOKENS, temperature=0),
            eos_token_ids=[end], seed=0, batch_size=BATCH_SIZE,
        )  # fmt: skip
        return [completion.tokens for completion in completions]

    writers = {
        "file_order": lambda: answer_in_file_order(model, prompts, end, tokenizer.pad_token_id),
        "ours": ours,
    }
    speeds: dict[str, list[float]] = {name: [] for name in writers}
    answers: dict[str, list[list[int]]] = {}
    for repeat in range(repeats):
        for name in writers if repeat % 2 == 0 else reversed(writers):
            start = time.perf_counter()
            answers[name] = writers[name]()
            seconds = time.perf_counter() - start
            speeds[name].append(sum(map(len, answers[name])) / seconds)
            advance()
    pairs = list(zip(answers["ours"], answers["file_order"], strict=True))
    same = sum(mine == theirs for mine, theirs in pairs) / len(pairs)
    if same < 0.9:  # rounding differs with the batch, and may turn a near tie the other way
        raise ValueError(f"rollout: only {same:.0%} of the answers are those of generate")
    return {
        "ratio": statistics.median(
            mine / theirs for mine, theirs in zip(speeds["ours"], speeds["file_order"], strict=True)
        ),
        "tokens_per_second": speeds,
        "same_answers": same,
        "answer_tokens": sorted(map(len, answers["ours"])),
    }


def show(case: str, measured: dict) -> None:
    console = Console()
    if case == "rollout":
        speeds = {name: statistics.median(x) for name, x in measured["tokens_per_second"].items()}
        lengths = measured["answer_tokens"]
        console.print(
            f"rollout: {speeds['ours']:.0f} tokens/s, in file order {speeds['file_order']:.0f}: "
            f"{measured['ratio']:.2f}x ({len(lengths)} answers of {lengths[0]} to {lengths[-1]} "
            f"tokens, {measured['same_answers']:.0%} the same)",
            soft_wrap=True,
        )
        return
    table = Table(title=f"{case}: one optimizer step, median of {len(measured['runs']['ours'])}")
    for column in ("", "seconds", "MiB", "loss"):
        table.add_column(column, justify="left" if not column else "right")
    for kind, runs in measured["runs"].items():
        seconds, peak, loss = (
            statistics.median(run[name] for run in runs) for name in ("seconds", "peak_mib", "loss")
        )
        table.add_row(kind, f"{seconds:.2f}", f"{peak:,.0f}", f"{loss:.4f}")
    table.add_row(
        "ours / gkd", f"{measured['time_vs_gkd']:.2f}", f"{measured['memory_vs_gkd']:.2f}", ""
    )
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", choices=CASES, nargs="+", default=CASES, metavar="CASE")
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args(argv)
    cases, dtype, repeats = arguments.only, arguments.dtype, arguments.repeats
    if repeats < 1:
        raise ValueError("--repeats must be at least 1")
    if set(cases) - {"qwen_vocab"} and not SMOLLM2.exists():
        raise ValueError(f"{SMOLLM2} is missing: fetch it with `python -m kd_lab.smollm2`")

    detail = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("training step", total=2 * repeats * len(cases))
        advance = lambda: progress.advance(task)  # noqa: E731
        for case in cases:
            if case == "rollout":
                detail[case] = compare_rollouts(dtype, repeats, advance)
            else:
                detail[case] = compare_trainers(case, dtype, repeats, advance)
            show(case, detail[case])
    if arguments.json:
        result: dict[str, Any] = {
            case: {name: detail[case][name] for name in ("time_vs_gkd", "memory_vs_gkd")}
            for case in PAIRS
            if case in detail
        }
        if "rollout" in detail:
            result["rollout_vs_file_order"] = detail["rollout"]["ratio"]
        result["settings"] = {
            "dtype": dtype,
            "repeats": repeats,
            "threads": torch.get_num_threads(),
            **{name: version(name) for name in ("torch", "transformers", "trl")},
        }
        result["detail"] = detail
        write_text(arguments.json, json.dumps(result, indent=1) + "\n")
        print(f"wrote {arguments.json}")


if __name__ == "__main__":
    run_script(main)
