"""Training with vLLM in earnest, in both modes; `make test-vllm` runs this file (no GPU needed).

The greedy answers of every step, and so the losses, must be those of the transformers engine: each
step's weights have to reach vLLM whole. Not named as a test, since the environment of the other
tests has no vLLM.
"""

import itertools
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from peft import LoraConfig

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments
from kd_lab.rollout.generate import GenerateArguments, generate
from kd_lab.rollout.vllm_server import Server
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.policy_gradient_distil import PolicyGradientDistilTrainer
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from tests.helpers import vllm_fsdp_worker
from tests.helpers.kept_answers import kept_answers
from tests.helpers.toy_pair import TOKENIZER, saved_toy_model, toy_model, toy_rows

STEPS = 8


def student():
    """A head size of 32: vLLM refuses 16 on the CPU. Its padding rows would win if they could."""
    model = toy_model(width=64, layers=2, seed=1)
    with torch.no_grad():
        model.lm_head.weight[len(TOKENIZER) :] *= 5
    return model


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """vLLM's own server, of another model than the one in training; its address."""
    folder = saved_toy_model(tmp_path_factory.mktemp("served") / "model", 64, 2, seed=7)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", folder]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-model-len", "128", "--no-enable-chunked-prefill"]
    process = subprocess.Popen(command, env={**os.environ, "VLLM_SERVER_DEV_MODE": "1"})
    try:
        yield _awaited(process, f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # one that still loads does not listen
            process.kill()


def _awaited(process, address):
    for _ in range(1800):  # a machine that does much else takes its time
        assert process.poll() is None, "the server has ended"
        try:
            return Server(address).base_url
        except OSError:
            time.sleep(1)
    raise AssertionError("the server does not answer")


def trained(tmp_path, name, trainer_class=SeqDistilTrainer, peft_config=None, **settings):
    """Losses, and the token ids that each step was trained on."""
    config = DistilConfig(**{
        "output_dir": str(tmp_path / name), "per_device_train_batch_size": 8, "max_steps": STEPS,
        "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_new_tokens": 12,
        "prefixes": "student", "alpha": 1.0, "divergence": "reverse_kl", "logging_steps": 1,
        "learning_rate": 3e-3, "sampling_temperature": 0.0, "report_to": [], **settings,
    })  # fmt: skip
    trainer = trainer_class(
        student(), toy_model(64, 2, seed=2), config, train_dataset=toy_rows(8),
        processing_class=TOKENIZER, peft_config=peft_config,
    )  # fmt: skip
    written = kept_answers(trainer)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], written


def engine(mode, request):
    if mode == "colocate":
        return {"rollout_engine": "vllm"}
    address = request.getfixturevalue("server")
    return {"rollout_engine": "vllm", "vllm_mode": "server", "vllm_server_base_url": address}


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_on_policy_training_writes_the_answers_of_transformers(mode, request, tmp_path):
    expected, answers = trained(tmp_path, "transformers")
    losses, written = trained(tmp_path, mode, **engine(mode, request))
    assert written == answers
    assert losses == expected
    changes = [before != after for before, after in itertools.pairwise(answers)]
    assert sum(changes) >= 2  # the weights of later steps write other answers
    assert np.mean(losses[-2:]) < 0.9 * np.mean(losses[:2])


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_the_teacher_writes_too(mode, request, tmp_path):
    point = {"prefixes": "teacher", "divergence": "forward_kl", "max_steps": 2}
    assert trained(tmp_path, mode, **point, **engine(mode, request)) == trained(
        tmp_path, "transformers", **point
    )


def test_lora_weights_reach_vllm_merged(tmp_path):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    settings = {"learning_rate": 3e-2, "max_steps": 4}
    expected, answers = trained(tmp_path, "transformers", peft_config=lora, **settings)
    losses, written = trained(tmp_path, "vllm", peft_config=lora, **settings, rollout_engine="vllm")
    assert written == answers
    assert losses == pytest.approx(expected, rel=1e-5)
    assert answers[0] != answers[3]


def test_a_sampled_run_is_fixed_by_its_seed(tmp_path):
    settings = {"sampling_temperature": 1.0, "policy_gradient": True, "teacher_mix": 0.0}
    settings |= {"max_steps": 3, "rollout_engine": "vllm"}
    first = trained(tmp_path, "one", PolicyGradientDistilTrainer, **settings)
    assert trained(tmp_path, "two", PolicyGradientDistilTrainer, **settings) == first
    assert trained(tmp_path, "new", PolicyGradientDistilTrainer, **settings, seed=1) != first


def test_a_served_teacher_answers_as_the_same_model_here(server, tmp_path):
    teacher, served = tmp_path / "teacher", Server(server)
    saved_toy_model(teacher, 64, 2, seed=7)
    served.post("/collective_rpc", method="reload_weights", kwargs={"weights_path": str(teacher)})
    served.post("/reset_prefix_cache")

    def answers(name, temperature, **settings):
        args = GenerateArguments(
            output_dir=str(tmp_path / name), teacher_model_name_or_path=str(teacher),
            max_new_tokens=40, sampling_temperature=temperature, **settings,
        )  # fmt: skip
        store = generate(args, DataArguments(num_conversations=20, num_test_conversations=5))
        return [path.read_text("utf-8") for path in store.paths()]

    where = {"engine": "server", "base_url": server}
    assert answers("served", 0.0, **where) == answers("here", 0.0)
    assert answers("drawn", 1.0, **where) == answers("again", 1.0, **where)


def launched(*words):
    """Two processes, each with its own engine; they share the cores."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--nproc_per_node", "2", "-m", *words], check=True, env=environment)


def test_two_processes_of_fsdp_each_with_its_engine(tmp_path):
    expected = vllm_fsdp_worker.losses(
        DistilConfig(**vllm_fsdp_worker.settings(tmp_path), per_device_train_batch_size=8)
    )
    launched("tests.helpers.vllm_fsdp_worker", str(tmp_path))
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found == pytest.approx(expected, rel=1e-5)


def test_two_processes_share_the_answers_of_a_teacher(tmp_path):
    teacher = saved_toy_model(tmp_path / "teacher", 64, 2, seed=7)
    words = {
        "teacher_model_name_or_path": teacher, "num_conversations": 20, "rows_per_shard": 4,
        "num_test_conversations": 5, "max_new_tokens": 20, "sampling_temperature": 0.0,
    }  # fmt: skip
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    launched(
        "kd_lab", "generate", "--engine", "vllm", "--output_dir", str(tmp_path / "two"), *options
    )
    assert main(["generate", "--output_dir", str(tmp_path / "here"), *options]) == 0
    for shard in sorted((tmp_path / "here").glob("*.jsonl")):
        assert (tmp_path / "two" / shard.name).read_text("utf-8") == shard.read_text("utf-8")
