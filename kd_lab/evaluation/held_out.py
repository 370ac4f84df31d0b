"""The held-out conversations: the prompts to answer, and their reference answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kd_lab.data.conversations import DataArguments, source_of
from kd_lab.data.examples import NoRows
from kd_lab.data.held_out import HELD_OUT
from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.row_kinds import NO_REFERENCE, TRAINING_ROW
from kd_lab.data.row_store import RowStore
from kd_lab.data.sources import NAMED, Source, has_test_split
from kd_lab.runs.evaluations import read_yaml
from kd_lab.runs.run_files import CONFIG
from kd_lab.teacher.stored import stored_source

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerBase


class HeldOut(NamedTuple):
    """n held-out conversations, without and with their last answer."""

    prompts: list[list[int]]
    last_messages: list[str]  # what each prompt asks last
    references: list[str]  # how it was answered
    rows: PackedRows  # of the whole conversations


def check_not_trained(model: str, data: DataArguments) -> None:
    """Refuse to test a run on conversations that it trained on, if its folder shows that.

    Raises:
        ValueError: the run held out nothing of this source, or less, or another part of it.
    """
    config = Path(model).expanduser() / CONFIG
    if not config.is_file():
        return
    trained = read_yaml(config)
    if isinstance(trained, dict) and trained_and_tested(_source_of(trained), data):
        another = "" if data.test_dataset is None else "another "
        raise ValueError(
            f"{model} was trained on conversations of {data.test_dataset or data.dataset} that "
            f"this would test on, since it did not hold them out: give {another}--test_dataset, "
            "or train with the --test_share and --conversation_seed of this evaluation"
        )


def _source_of(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that name the source of a run's rows: its own, or its stored rows'."""
    return stored_source(config) or config


def trained_and_tested(trained: Mapping[str, Any], tested: DataArguments) -> bool:
    """Whether a run trained on conversations that these arguments would test on.

    It did if both take one source without a test split, and the run held out less of it or another
    part. A run that evaluates nothing holds out nothing unless ``test_share`` says so. As a
    ``test_dataset``, such a source is tested whole.

    Args:
        trained: the run's settings, as in its config.yaml; or those of a folder of stored answers,
            which also have ``split``.
    Raises:
        ValueError: as ``load_conversations``, for a missing source.
    """
    has_own = tested.test_dataset is not None
    source = Source(tested.test_dataset) if tested.test_dataset is not None else source_of(tested)
    if source.name in NAMED or Source(str(trained.get("dataset"))).place != source.place:
        return False
    if has_own and trained.get("dataset_config") is not None:  # test_dataset has the default one
        return False
    if trained.get("split") == "test":
        return True
    if has_test_split(source):
        return False
    if has_own:
        return True
    evaluates = trained.get("eval_strategy", "no") != "no"
    if trained.get("test_dataset") is not None:
        held_out = 0.0
    else:
        held_out = trained.get("test_share") or (HELD_OUT if evaluates else 0.0)
    same_draw = trained.get("conversation_seed") == tested.conversation_seed
    return not same_draw or held_out < (tested.test_share or HELD_OUT)


def load_test_set(
    data: DataArguments,
    tokenizer: "PreTrainedTokenizerBase",
    max_prompt_length: int,
    max_length: int,
) -> HeldOut:
    """The test conversations that end with an answer and are not too long.

    Raises:
        ValueError: there is none.
    """
    try:
        examples = RowStore(data, tokenizer, ["test"]).test_rows(max_prompt_length, max_length)
    except NoRows as error:
        if NO_REFERENCE not in error.dropped:
            raise
        advice = "give a --test_dataset of conversations that end with an answer"
        raise ValueError(f"{error}: {advice}") from error
    rows = examples.rows
    return HeldOut(
        prompts=rows["prompt_ids"][:],
        last_messages=[messages[-1]["content"] for messages in rows["messages"]],
        references=rows["reference"][:],
        rows=PackedRows.of(rows.select_columns([*TRAINING_ROW])),
    )
