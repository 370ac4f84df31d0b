"""A run goes on with the rows and the models that it began with."""

import shutil

import pytest
from transformers import AutoModelForCausalLM

from kd_lab.cli import main
from kd_lab.runs.marker import mark_whole
from tests.helpers.refusal import refusal
from tests.helpers.toy_pair import saved_toy_model

QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "2"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("rows", "its training rows are others"),
        ("teacher", "its teacher is another model"),
        ("start", "its start is another model"),
    ],
)
def test_a_run_does_not_go_on_with_other_rows_or_another_model(
    changed, said, tmp_path, capsys, monkeypatch
):
    data, teacher, start = (tmp_path / name for name in ("data", "teacher", "start"))
    words = [
        *QUICK, "--model_name_or_path", str(start), "--dataset", str(data), "--num_conversations",
        "null",
        "--teacher_model_name_or_path", str(teacher), "--save_steps", "2", "--output_dir",
        str(tmp_path / "run"),
    ]  # fmt: skip

    def prepare(data_seed: int, teacher_seed: int, start_width: int) -> None:
        shutil.rmtree(data, ignore_errors=True)
        few = ["--num_conversations", "40", "--conversation_seed", str(data_seed)]
        assert main(["data", "--dataset", "toy", *few, "--output_dir", str(data)]) == 0
        for folder, width, seed in ((teacher, 64, teacher_seed), (start, start_width, 1)):
            saved_toy_model(folder, width, 2, seed=seed)
            mark_whole(folder)

    prepare(0, 2, 32)
    assert main(["train", *words]) == 0
    again = ["--max_steps", "4", "--resume_from_checkpoint", "true"]
    prepare(*{"rows": (1, 2, 32), "teacher": (0, 3, 32), "start": (0, 2, 16)}[changed])
    with monkeypatch.context() as patch:
        patch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # no model loads
        assert said in refusal(capsys, "train", *words, *again)
    prepare(0, 2, 32)
    assert main(["train", *words, *again]) == 0
