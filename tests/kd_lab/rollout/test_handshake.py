"""A served model that is not what the run expects is refused by the name of the difference."""

import copy
import re
from pathlib import Path

import pytest
from tokenizers.normalizers import Lowercase

from kd_lab.rollout import handshake, vllm_server
from kd_lab.rollout.vllm_server import Server
from tests.helpers.little_server import LittleServer, serving
from tests.helpers.qwen_vocabulary import qwen_tokenizer
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

TALK = {"messages": [{"role": "user", "content": "What is 2 + 2?"}]}
ROWS = [ids[:20] for ids in toy_rows(2)["input_ids"]]


@pytest.fixture
def little():
    with serving(LittleServer(toy_model(), copy.deepcopy(TOKENIZER))) as server:
        yield server


def prompt_of(tokenizer):
    return list(
        tokenizer.apply_chat_template(TALK["messages"], add_generation_prompt=True)["input_ids"]
    )


def test_a_server_of_the_expected_model_passes(little):
    server = Server(little.address + "/v1/")
    assert server.base_url == little.address
    handshake.check_room(server, 128)
    handshake.check_takes_weights(server)
    handshake.check_tokenizer(server, TOKENIZER)
    handshake.check_template(server, [TALK], [prompt_of(TOKENIZER)])
    own = handshake.row_logprobs(toy_model(), ROWS)
    found = vllm_server.row_logprobs(server, ROWS)
    handshake.check_logprobs(found, own, server.base_url, "ours")
    for temperature in (0, 0.7, 1.0, 2.0):
        handshake.check_temperature(server, ROWS[0], temperature)


def test_no_room_for_an_answer(little):
    with pytest.raises(ValueError, match=r"serves 128 tokens .* needs 129: .*--max-model-len 129"):
        handshake.check_room(Server(little.address), 129)


def test_another_version_or_a_server_that_takes_no_weights(little):
    little.version = "0.33.0"
    with pytest.raises(ValueError, match=r"is vLLM 0.33.0, and KD Lab sends weights as vLLM 0.32"):
        handshake.check_takes_weights(Server(little.address))
    little.version, little.takes_weights = "0.32.0", False
    with pytest.raises(
        ValueError, match=r"takes no weights: .*DEV_MODE=1, and --host 127.0.0.1.*404"
    ):
        handshake.check_takes_weights(Server(little.address))


def test_a_server_is_told_to_listen_to_its_own_machine_alone():
    """In the mode that takes weights it obeys whoever reaches it, and vLLM's default is all."""
    root = Path(__file__).parents[3]
    texts = [*root.glob("kd_lab/**/*.py"), *root.glob("site/*.md"), *root.glob("*.md")]
    stated = [
        command
        for path in texts
        for command in re.findall(r"vllm serve (?:[^\n]*\\\n)*[^\n]*", path.read_text("utf-8"))
    ]
    assert stated
    assert all("--host 127.0.0.1" in command for command in stated)


def test_another_tokenizer_is_named_by_an_id(little):
    little.tokenizer = qwen_tokenizer()
    with pytest.raises(ValueError, match=r"another tokenizer: id .* is .* here and .* there"):
        handshake.check_tokenizer(Server(little.address), TOKENIZER)


def test_other_splitting_of_the_same_ids(little):
    little.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(ValueError, match=r"another tokenizer: it splits"):
        handshake.check_tokenizer(Server(little.address), TOKENIZER)


def test_another_chat_template(little):
    little.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match=r"another chat template: prompt 0 has .* from token 0 on"):
        handshake.check_template(Server(little.address), [TALK], [prompt_of(TOKENIZER)])


@pytest.mark.parametrize(("asked", "drawn"), [(1.0, 0.5), (0.7, 1.4), (1.0, 0.0)])
def test_another_temperature(little, asked, drawn):
    little.temperature = drawn
    with pytest.raises(ValueError, match=rf"does not draw at temperature {asked:g}: of "):
        handshake.check_temperature(Server(little.address), ROWS[0], asked)


def test_another_model(little):
    own = handshake.row_logprobs(toy_model(seed=1), ROWS)
    found = vllm_server.row_logprobs(Server(little.address), ROWS)
    with pytest.raises(
        ValueError, match=r"has another model than ours: its log-probabilities of 3"
    ):
        handshake.check_logprobs(found, own, little.address, "ours")


def test_no_server_and_no_vllm(little):
    with pytest.raises(OSError, match=r"no server answers at http://127.0.0.1:9: "):
        Server("http://127.0.0.1:9")
    little.returns_ids = False
    with pytest.raises(ValueError, match=r"returns no token ids: KD Lab needs a vLLM server"):
        handshake.check_temperature(Server(little.address), ROWS[0], 1.0)
