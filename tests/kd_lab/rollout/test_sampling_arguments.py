"""How answers are sampled, and that every command says it with the same words."""

import dataclasses

import pytest

from kd_lab.cli import RENAMED, parse
from kd_lab.evaluation.arguments import EvaluateArguments
from kd_lab.rollout.generate import GenerateArguments
from kd_lab.rollout.questions import QuestionArguments
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.sampling_arguments import SamplingArguments, sampling_of
from kd_lab.teacher.arguments import TeacherArguments
from kd_lab.teacher.cache import CacheArguments
from kd_lab.teacher.of_training import TrainTeacherArguments
from kd_lab.trainers.distil_config import DistilConfig
from tests.helpers.refusal import refusal

WRITE = (GenerateArguments, QuestionArguments, EvaluateArguments, DistilConfig)
HAVE_A_TEACHER = (
    GenerateArguments, QuestionArguments, EvaluateArguments, CacheArguments, TrainTeacherArguments,
)  # fmt: skip


@pytest.mark.parametrize(
    ("shared", "commands"), [(SamplingArguments, WRITE), (TeacherArguments, HAVE_A_TEACHER)]
)
def test_commands_differ_in_defaults_only(shared, commands):
    for field in dataclasses.fields(shared):
        for of in commands:
            (own,) = (other for other in dataclasses.fields(of) if other.name == field.name)
            assert own.type in (field.type, str)  # a teacher can be required


def test_the_options_are_how_answers_are_drawn():
    args = SamplingArguments(
        max_new_tokens=7, sampling_temperature=0.5, top_p=0.9, top_k=3, rollout_batch_size=2
    )
    assert sampling_of(args) == Sampling(7, 0.5, 0.9, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rollout_batch_size": 0}, "rollout_batch_size must be at least 1, not 0"),
        ({"sampling_temperature": -1.0}, r"sampling_temperature must be 0 \(greedy\) or positive"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], not 0.0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
    ],
)
def test_a_setting_outside_its_range_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        sampling_of(SamplingArguments(**change))


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("evaluate", "temperature", "sampling_temperature"),
        ("evaluate", "batch_size", "rollout_batch_size"),
        ("generate", "generation_batch_size", "rollout_batch_size"),
        ("questions", "question_batch_size", "rollout_batch_size"),
        ("questions", "max_question_length", "max_new_tokens"),
    ],
)
def test_an_old_name_is_refused_in_one_line_that_gives_the_new_one(
    command, old, new, tmp_path, capsys
):
    assert RENAMED[command][old] == new
    line = refusal(capsys, command, f"--{old}", "1")
    assert line == f"--{old} is now --{new}"
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"# mine\nseed: 1\n{old}: 1\n".replace("seed: 1", "output_dir: out"))
    assert refusal(capsys, command, "--config", str(recipe)) == f"{recipe}:3: {old} is now {new}"


def test_every_old_name_is_gone_and_every_new_one_is_there():
    for command, names in RENAMED.items():
        model = "model" if command == "evaluate" else "teacher_model"
        words = [f"--{model}_name_or_path", "x", "--output_dir", "out"]
        known = {name for args in parse(command, words) for name in vars(args)}
        assert not known & names.keys()
        assert known >= set(names.values())
