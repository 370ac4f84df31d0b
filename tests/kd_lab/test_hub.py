"""The hub, played by a server on the loopback address, and a hub that is not there."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets.config
import huggingface_hub.constants
import pytest

from kd_lab.data.conversations import (
    DataArguments,
    check_data_arguments,
    load_conversations,
    sources,
)
from kd_lab.data.hub_dataset import HubDataset, choose_splits, is_hub_name
from kd_lab.hub import check_model_at_hand, hub_commit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.path.startswith(("/api/datasets/kind/talks", "/api/models/kind/model"))
        answer = {"id": "kind/talks", "sha": COMMIT} if known else {"error": "not found"}
        body = json.dumps(answer).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """Sets where the hub is; what the test switches offline is online again after it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub_commit.cache_clear()
    yield lambda address: monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    hub_commit.cache_clear()


@pytest.fixture
def hub(endpoint):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint(f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()


def test_a_dataset_is_known_by_its_commit(hub):
    assert sources(DataArguments("kind/talks", dataset_config="en")) == {
        "kind/talks": f"en@{COMMIT}"
    }
    check_model_at_hand("model_name_or_path", "kind/model")


def test_a_name_that_the_hub_does_not_know_is_refused(hub):
    with pytest.raises(
        ValueError, match=r"the hub shows no dataset kind/walks .status 404.: check"
    ):
        load_conversations(DataArguments("kind/walks"))
    with pytest.raises(ValueError, match="the hub shows no model kind/walks at revision v2"):
        check_model_at_hand("model_name_or_path", "kind/walks", "v2")


def test_without_a_network_one_line_says_how_to_fetch_beforehand(endpoint):
    endpoint("http://127.0.0.1:9")  # nobody listens there
    start = time.monotonic()
    with pytest.raises(
        ValueError,
        match=r"no network.*run `kd-lab data --dataset kind/talks --output_dir data/talks`",
    ):
        load_conversations(DataArguments("kind/talks"))
    with pytest.raises(
        ValueError, match=r"teacher: no network.*`hf download kind/m --local-dir models/m"
    ):
        check_model_at_hand("teacher", "kind/m")
    assert time.monotonic() - start < 10  # the libraries alone try for half a minute


@pytest.mark.parametrize(
    ("source", "is_one"),
    [
        ("HuggingFaceH4/ultrachat_200k", True),
        ("kind/talks.v2", True),
        ("toyy", False),
        ("nowhere/x.jsonl", False),
        ("nowhere/x.json.gz", False),
        ("runs/mine", False),
        ("a/b/c", False),
        ("/a", False),
    ],
)
def test_what_can_be_a_name_on_the_hub(source, is_one):
    assert is_hub_name(source) is is_one


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (["train", "test"], (None, None), ("train", "test")),
        (["train", "validation", "test"], (None, None), ("train", "test")),
        (["train", "validation"], (None, None), ("train", "validation")),
        (
            ["train_sft", "test_sft", "train_gen", "test_gen"],
            (None, None),
            ("train_sft", "test_sft"),
        ),
        (["data"], (None, None), ("data", None)),
        (["en", "de"], ("de", "en"), ("de", "en")),
    ],
)
def test_the_splits_of_a_dataset_of_the_hub(names, asked, chosen):
    assert choose_splits(HubDataset("kind/talks"), names, *asked) == chosen


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["en", "de"], (None, None), "has the splits en, de: give --train_split"),
        (["train", "test"], (None, "train"), "has the splits train, test: give --train_split"),
        (["train"], ("trian", None), "train_split: kind/talks has no split 'trian'; it has train"),
        (["train"], ("train", "train"), "what is tested is trained"),
    ],
)
def test_splits_that_cannot_be_told_are_refused(names, asked, message):
    with pytest.raises(ValueError, match=message):
        choose_splits(HubDataset("kind/talks"), names, *asked)


@pytest.mark.parametrize("dataset", ["toy", "ultrachat"])
def test_the_keys_of_the_hub_are_for_the_hub(dataset):
    for key in ("dataset_config", "dataset_revision"):
        with pytest.raises(ValueError, match=f"{key} is en: it is for datasets of the hub"):
            check_data_arguments(DataArguments(dataset, **{key: "en"}))
