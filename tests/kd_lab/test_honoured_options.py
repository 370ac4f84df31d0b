"""No inherited option is passed over: each is honoured, or refused unless at its default."""

import dataclasses

import pytest
from trl import ModelConfig, SFTConfig

from kd_lab.cli import parse
from kd_lab.honoured_options import HONOURED, PASSED_OVER
from kd_lab.student import StudentArguments
from kd_lab.trainers.distil_config import DistilConfig
from tests.helpers.refusal import SHAPE, refusal

INHERITED = {
    field.name: field for of in (SFTConfig, ModelConfig) for field in dataclasses.fields(of)
}
STUDENT = ["--model_shape", SHAPE, "--use_cpu", "true", "--alpha", "0"]


def test_every_inherited_option_is_on_one_of_the_lists():
    """TRL or transformers brought another option: say whether it has an effect here."""
    assert INHERITED.keys() == HONOURED | PASSED_OVER.keys()
    assert not HONOURED & PASSED_OVER.keys()


def another(name: str) -> object:
    """A value that is not the option's default."""
    default = INHERITED[name].default
    if isinstance(default, bool):
        return not default
    if isinstance(default, float | int):
        return default + 1
    return ["inputs"] if name in ("include_for_metrics", "label_names") else "another"


@pytest.mark.parametrize("name", PASSED_OVER)
def test_an_option_that_reaches_nothing_is_refused(name, tmp_path):
    if name in {field.name for field in dataclasses.fields(ModelConfig)}:
        arguments, given = StudentArguments, {"model_name_or_path": "some/model"}
    else:
        arguments, given = DistilConfig, {"output_dir": str(tmp_path), "use_cpu": True}
    with pytest.raises(ValueError, match=f"{name} is .* and would have no effect"):
        arguments(**given, **{name: another(name)})


def test_the_refusal_is_one_line_before_anything_loads(tmp_path, capsys):
    line = refusal(
        capsys, "train", *STUDENT, "--output_dir", str(tmp_path / "run"),
        "--label_smoothing_factor", "0.3",
    )  # fmt: skip
    assert line == (
        "label_smoothing_factor is 0.3 and would have no effect: the loss here is fused, and has "
        "no such part; leave it out (its default is 0.0)"
    )
    assert not (tmp_path / "run").exists()


def test_an_option_said_at_its_default_is_accepted(tmp_path):
    parse("train", [*STUDENT, "--output_dir", str(tmp_path), "--loss_type", "nll"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{even_batches: false}", "even_batches is False, but each process takes its own batches"),
        ("{even_batches: null}", "even_batches is None, but each process"),
        ("{split_batches: true}", "split_batches is True, but each process"),
        ("{dispatch_batches: true}", "dispatch_batches is True, but each process"),
        ("{use_seedable_sampler: false}", "a resumed run would see its rows in another order"),
        ("{gradient_accumulation_kwargs: {num_steps: 4}}", "gradient_accumulation_kwargs has num_"),
        ("{even_batch: false}", "accelerator_config has no key 'even_batch' (known: split_batches"),
    ],
)
def test_how_accelerate_deals_rows_is_not_up_to_its_configuration(settings, said, tmp_path, capsys):
    words = [*STUDENT, "--output_dir", str(tmp_path / "run"), "--accelerator_config", settings]
    assert said in refusal(capsys, "train", *words)
    assert not (tmp_path / "run").exists()


def test_what_accelerate_honours_is_accepted(tmp_path):
    settings = "{non_blocking: true, even_batches: true, dispatch_batches: false, "
    settings += "gradient_accumulation_kwargs: {sync_each_batch: true}}"
    words = [*STUDENT, "--output_dir", str(tmp_path), "--accelerator_config", settings]
    *_, config = parse("train", words)
    assert config.accelerator_config.non_blocking
