"""Ctrl-C ends every command in one line that says how to go on, and loses nothing finished."""

import os
import signal
import time
from pathlib import Path

import pytest

from kd_lab.cli import main
from kd_lab.files import LOCK
from kd_lab.interrupts import heard_everywhere
from kd_lab.refusals import GOES_ON
from tests.helpers.forked_processes import one_process
from tests.helpers.refusal import SHAPE
from tests.helpers.toy_pair import TOKENIZER, toy_model

MODEL = ("--teacher_model_name_or_path", "model")
MANY = ("--num_conversations", "200000")
LONG = {
    "data": MANY,
    "questions": (*MODEL, "--num_questions", "100000", "--rollout_batch_size", "1024"),
    "generate": (*MODEL, *MANY, "--max_new_tokens", "64"),
    "cache": (*MODEL, *MANY),
    "train": (
        "--model_shape", SHAPE, "--alpha", "0", "--use_cpu", "true", "--save_steps", "1",
        "--num_conversations", "64", "--max_steps", "100000", "--save_total_limit", "1",
    ),
    "evaluate": ("--model_name_or_path", "model", "--num_test_conversations", "100000"),
}  # fmt: skip


def command(words: tuple[str, ...], folder: Path) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ["KD_LAB_CACHE"] = str(folder / "rows")
    return main(words)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupts")
    toy_model(32).save_pretrained(folder / "model")
    TOKENIZER.save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize("name", LONG)
def test_a_stopped_command_says_in_one_line_how_to_go_on(name, place):
    out, log = place / f"out-{name}", place / f"{name}.log"
    words = (name, *LONG[name], "--output_dir", out.name)
    process = one_process(command, words, place, log=log)
    sign = out / "config.yaml" if name == "train" else out / LOCK
    ends = time.monotonic() + 100
    while not sign.exists() and process.is_alive() and time.monotonic() < ends:
        time.sleep(0.02)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    said = log.read_text()
    assert process.exitcode == 130, said
    assert "Traceback" not in said
    assert said.splitlines()[-1] == f"kd-lab: stopped; {GOES_ON[name]}"


def test_an_interrupt_that_an_object_s_end_swallows_is_raised_again():
    class Swallows:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def swallow_and_wait() -> None:
        with heard_everywhere():
            Swallows()
            for _ in range(500):
                time.sleep(0.01)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # torchrun's may be in place
    try:
        with pytest.raises(KeyboardInterrupt):
            swallow_and_wait()
    finally:
        signal.signal(signal.SIGINT, before)


def test_of_several_processes_the_first_speaks(monkeypatch, capsys):
    def stop(*_: object, tell: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kd_lab.cli._run", stop)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == f"kd-lab: stopped; {GOES_ON['report']}\n"
    monkeypatch.setenv("RANK", "1")
    assert main(["report"]) == 130
    assert capsys.readouterr().err == ""
