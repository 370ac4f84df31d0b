"""Every command that writes into a folder takes its lock; a second one is refused by name."""

import pytest

from kd_lab.files import only_one_at_work
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, toy_model
from tests.helpers.written_runs import write_run

TEACHER = ("--teacher_model_name_or_path", "model")
COMMANDS = {
    "data": ("--dataset", "toy", "--num_conversations", "20", "--num_test_conversations", "5"),
    "questions": (*TEACHER, "--num_questions", "4", "--num_test_questions", "1"),
    "generate": (*TEACHER, "--num_conversations", "4"),
    "cache": (*TEACHER, "--num_conversations", "4"),
    "train": ("--model_shape", SHAPE, "--alpha", "0", "--use_cpu", "true"),
    "evaluate": ("--model_name_or_path", "model", "--num_test_conversations", "4"),
    "report": ("sft-1",),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_process_is_refused_by_the_folder_s_name(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    toy_model(32).save_pretrained("model")
    TOKENIZER.save_pretrained("model")
    write_run(tmp_path / "sft-1", {})
    with only_one_at_work(tmp_path / "out"):
        line = refusal(capsys, command, *COMMANDS[command], "--output_dir", "out")
    assert line.startswith("another process is at work in out")
    assert not (tmp_path / "out").exists()  # what was refused leaves no trace
