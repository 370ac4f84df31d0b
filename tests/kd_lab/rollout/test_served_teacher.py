"""A teacher on a server answers all prompts: the same answers, or a refusal before the first."""

import copy
import json

import pytest

from kd_lab.data.conversations import DataArguments
from kd_lab.rollout.generate import GenerateArguments, generate
from tests.helpers.little_server import LittleServer, serving
from tests.helpers.toy_pair import TOKENIZER, saved_toy_model, toy_model

DATA = DataArguments(num_conversations=6, num_test_conversations=2)


@pytest.fixture
def little():
    with serving(LittleServer(toy_model(32, 1), copy.deepcopy(TOKENIZER))) as server:
        yield server


def answers(folder, teacher, **settings):
    args = GenerateArguments(
        output_dir=str(folder), teacher_model_name_or_path=str(teacher), max_new_tokens=8,
        **{"sampling_temperature": 0.0, **settings},
    )  # fmt: skip
    store = generate(args, DATA)
    lines = [line for path in store.paths() for line in path.read_text("utf-8").splitlines()]
    return store, [json.loads(line)["completion_ids"] for line in lines]


def served(little):
    return {"engine": "server", "base_url": little.address}


def test_the_answers_are_those_of_the_same_model_here(little, tmp_path):
    teacher = saved_toy_model(tmp_path / "teacher", 32, 1, 0)
    here, expected = answers(tmp_path / "here", teacher)
    store, found = answers(tmp_path / "served", teacher, **served(little))
    assert len(found) == 6
    assert found == expected
    assert store.settings["teacher"] == here.settings["teacher"]
    assert store.settings["engine"] == "server"
    asked = len(little.asked)
    assert answers(tmp_path / "served", teacher, **served(little))[1] == expected
    assert len(little.asked) == asked  # nothing is missing, so nobody asks


def test_the_tokenizer_and_configuration_suffice(little, tmp_path):
    teacher = tmp_path / "teacher"
    saved_toy_model(teacher, 32, 1, 0)
    (teacher / "model.safetensors").unlink()
    settings = {"sampling_temperature": 0.8}
    store, found = answers(tmp_path / "one", teacher, **settings, **served(little))
    assert store.settings["teacher"] == {"name": "teacher", "commit": "as served"}
    assert answers(tmp_path / "two", teacher, **settings, **served(little))[1] == found


def test_another_model_is_refused_where_the_expected_one_is_here(little, tmp_path):
    teacher = saved_toy_model(tmp_path / "teacher", 32, 1, seed=5)
    with pytest.raises(
        ValueError, match=r"has another model than .*teacher: its log-probabilities"
    ):
        answers(tmp_path / "served", teacher, **served(little))
    assert not [*(tmp_path / "served").glob("shard*")]


def test_another_template_is_refused(little, tmp_path):
    teacher = saved_toy_model(tmp_path / "teacher", 32, 1, 0)
    little.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="another chat template"):
        answers(tmp_path / "served", teacher, **served(little))
