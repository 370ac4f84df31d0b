"""``kd-lab train`` as a user runs it: what it refuses, what it leaves, and a kill -9 on the way."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Tokenizer

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments
from kd_lab.data.toy_language import conversations
from kd_lab.runs.run_files import read_metrics
from kd_lab.student import StudentArguments
from kd_lab.teacher.of_training import TrainTeacherArguments
from kd_lab.train import run
from kd_lab.trainers.distil_config import DistilConfig, check_one_gpu
from kd_lab.vocabulary import check_same_tokenizer
from tests.helpers.forked_processes import one_process
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, saved_toy_model, toy_model

STUDENT = ["--model_shape", SHAPE, "--num_conversations", "200"]
QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--max_steps", "2"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    return saved_toy_model(tmp_path_factory.mktemp("teacher"), 64, 2, seed=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--alpha", "1.2"], "alpha must lie in [0, 1], not 1.2"),
        (["--divergence", "reverse_lk"], "'reverse_lk'"),
        (["--divergence_settings", "{bata: 0.3}"], "bata"),
        (["--alpha", "0.5"], "alpha is 0.5, so a teacher is needed"),
        (
            ["--policy_gradient", "true", "--divergence", "reverse_kl", "--student_share", "0.5"],
            "policy_gradient is true, so a live teacher is needed",
        ),
        (
            ["--teacher_model_name_or_path", "runs/none/teacher"],
            "teacher_model_name_or_path: there is no folder runs/none/teacher",
        ),
        (["--teacher_cache", "runs/none"], "teacher_cache: there is no folder runs/none"),
        (["--answers", "runs/none"], "answers: there is no folder runs/none"),
        (["--alpha", "0", "--dataset", "none.jsonl"], "none.jsonl"),
        (["--alpha", "0", "--prefixes", "teachers"], "prefixes must be one of"),
        (["--alpha", "0", "--prefixes", "teacher"], "prefixes: teacher needs"),
        (
            ["--alpha", "0", "--prefixes", "student", "--student_share", "0.4"],
            "of 0.4 set prefixes",
        ),
        (["--alpha", "0", "--fp16", "true"], "fp16 is true, and the loss makes its gradients in"),
        (["--alpha", "0", "--dtype", "float16"], "dtype is float16, and the loss makes its"),
        (["--alpha", "0", "--model_name_or_path", "some/model"], "either model_name_or_path or"),
    ],
)
def test_wrong_input_is_one_line(words, said, tmp_path, capsys):
    line = refusal(capsys, "train", *STUDENT, *QUICK, "--output_dir", str(tmp_path / "run"), *words)
    assert said in line
    assert not (tmp_path / "run").exists()


def test_several_gpus_without_a_launcher_are_refused_before_anything_loads(tmp_path):
    config = DistilConfig(output_dir=str(tmp_path / "run"), use_cpu=True, alpha=0.0)
    config._n_gpu = 8  # as transformers counts them
    with pytest.raises(ValueError, match=r"^8 GPUs .*--num_processes 8 .*CUDA_VISIBLE_DEVICES=0"):
        run(StudentArguments("no/such/model"), TrainTeacherArguments(), DataArguments(), config)
    check_one_gpu(0)  # a CPU
    check_one_gpu(1)


def test_a_base_model_learns_to_end_an_answer_as_the_chat_template_does(tmp_path, capsys):
    """As Qwen2.5-1.5B's tokenizer, which ends with <|endoftext|>, in recipes/qwen2.5/ultra_1.5b."""
    base = tmp_path / "base"
    toy_model(eos_token_id=TOKENIZER.pad_token_id).save_pretrained(base)
    TOKENIZER.save_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.eos_token = "<|endoftext|>"
    tokenizer.save_pretrained(base)
    run = ["--alpha", "0", "--output_dir", str(tmp_path / "run"), "--model_name_or_path", str(base)]
    few = ["--num_conversations", "64", *QUICK]

    assert "set eos_token to the token that ends" in refusal(capsys, "train", *run, *few)
    assert "has no token '<|end|>'" in refusal(
        capsys, "train", *run, *few, "--eos_token", "<|end|>"
    )
    assert main(["train", *run, *few, "--eos_token", "<|im_end|>"]) == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "run").eos_token == "<|im_end|>"
    ends = AutoModelForCausalLM.from_pretrained(tmp_path / "run").generation_config.eos_token_id
    assert TOKENIZER.eos_token_id in (ends if isinstance(ends, list) else [ends])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_bfloat16_without_a_gpu_is_refused(tmp_path, capsys):
    words = ["--alpha", "0", "--bf16", "true", "--output_dir", str(tmp_path / "run")]
    assert "bf16 is true and no GPU" in refusal(capsys, "train", *STUDENT, *words)


def test_another_tokenizer_is_refused_before_a_model_loads(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    toy_model().save_pretrained(tmp_path / "other")
    vocabulary = TOKENIZER.get_vocab()
    words = sorted(vocabulary, key=lambda token: vocabulary[token])
    words[300], words[301] = words[301], words[300]
    other = Qwen2Tokenizer({token: i for i, token in enumerate(words)}, [], eos_token="<|im_end|>")
    other.save_pretrained(tmp_path / "other")
    line = refusal(
        capsys, "train", *STUDENT, *QUICK, "--output_dir", str(tmp_path / "run"),
        "--teacher_model_name_or_path", str(tmp_path / "other"),
    )  # fmt: skip
    assert "the tokenizers differ: id" in line


def test_a_run_folder_holds_all_that_tells_how_it_was_made(teacher, tmp_path, capsys):
    run = tmp_path / "run"
    words = [
        *STUDENT, "--use_cpu", "true", "--max_steps", "6", "--logging_steps", "2",
        "--save_steps", "3", "--learning_rate", "1e-2", "--eval_strategy", "steps",
        "--eval_steps", "3", "--num_test_conversations", "20", "--seed", "7",
        "--teacher_model_name_or_path", teacher, "--divergence", "reverse_kl",
        "--output_dir", str(run), "--report_to", "tensorboard",
    ]  # fmt: skip
    assert main(["train", *words]) == 0
    assert f"wrote {run}" in capsys.readouterr().out
    assert not list(run.rglob("*.bin"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    assert {"eval_forward_kl", "eval_reverse_kl"} <= {key for line in lines for key in line}
    assert 0 < lines[-1]["peak_memory_gib"] < 100
    assert list(run.rglob("events.out.tfevents*"))
    versions = json.loads((run / "versions.json").read_text())
    assert versions["seed"] == 7
    card = (run / "README.md").read_text()
    assert "reverse" in card
    for folder in (run, run / "checkpoint-3"):
        model = AutoModelForCausalLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
        assert model.config.vocab_size >= len(tokenizer)

    # The resolved configuration is a recipe that is this run again, bit for bit.
    again = tmp_path / "again"
    recipe = ["--config", str(run / "config.yaml"), "--output_dir", str(again)]
    assert main(["train", *recipe]) == 0
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    # And a folder that holds a run is not written into.
    assert "already holds a finished run" in refusal(capsys, "train", *recipe)


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines if '"loss"' in line]


DATA = ["--dataset", "toy", "--num_conversations", "64"]


@pytest.mark.parametrize("signal", [("hidden",), ("topk", "--topk", str(len(TOKENIZER)))])
def test_a_cached_teacher_trains_like_the_live_one(signal, teacher, tmp_path):
    cache = tmp_path / "cache"
    which = ["--teacher_model_name_or_path", teacher]
    words = ["--teacher_signal", *signal, "--output_dir", str(cache)]
    assert main(["cache", *which, *DATA, *words]) == 0
    shape = [
        "--model_shape",
        SHAPE,
        "--use_cpu",
        "true",
        "--max_steps",
        "4",
        "--logging_steps",
        "1",
    ]
    common = [*shape, *DATA, "--divergence", "reverse_kl", "--save_strategy", "no"]
    for name, source in (("live", which), ("stored", ["--teacher_cache", str(cache)])):
        assert main(["train", *common, *source, "--output_dir", str(tmp_path / name)]) == 0
    assert losses(tmp_path / "stored") == pytest.approx(losses(tmp_path / "live"), rel=5e-3)


def test_the_record_names_the_conversations_that_stored_rows_were_made_of(
    teacher, tmp_path, capsys
):
    mine, cache, run = tmp_path / "mine.jsonl", tmp_path / "cache", tmp_path / "run"
    talks = conversations(40, seed=9)
    mine.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    data = ["--dataset", str(mine), "--conversation_seed", "5"]
    words = ["--teacher_model_name_or_path", teacher, "--output_dir", str(cache)]
    assert main(["cache", *words, *data, "--max_length", "500"]) == 0
    train = ["train", "--model_shape", SHAPE, *QUICK, "--teacher_cache", str(cache)]
    assert main([*train, "--output_dir", str(run)]) == 0  # whose own dataset is another
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["dataset"], config["conversation_seed"]) == (str(mine), 5)
    assert (config["max_length"], config["num_conversations"]) == (500, None)
    assert f"`{mine}` (seed 5), as stored in `{cache}`" in (run / "README.md").read_text()
    again = [*train, "--output_dir", str(run), "--resume_from_checkpoint", "true"]
    assert main(again) == 0

    tested = [*train, "--output_dir", str(tmp_path / "tested"), "--eval_strategy", "epoch"]
    line = refusal(capsys, *tested)
    assert f"{cache} was made of other conversations than this run names for its test set" in line
    assert f"dataset '{mine}', conversation_seed 5 as there" in line

    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(talk) + "\n" for talk in conversations(8, seed=3)))
    tested += ["--test_dataset", str(own)]
    line = refusal(capsys, *tested)
    assert "set conversation_seed 5 as there" in line  # the test set's is drawn with it too
    assert main([*tested, "--conversation_seed", "5"]) == 0
    config = yaml.safe_load((tmp_path / "tested" / "config.yaml").read_text())
    assert (config["dataset"], config["test_dataset"]) == (str(mine), str(own))


def test_answers_of_another_teacher_are_refused(teacher, tmp_path, capsys):
    answers = tmp_path / "answers"
    which = ["--teacher_model_name_or_path", teacher]
    words = ["--output_dir", str(answers), "--max_new_tokens", "8"]
    assert main(["generate", *which, *DATA, *words]) == 0
    common = [
        "--model_shape", SHAPE, *QUICK, "--prefixes", "teacher", "--answers", str(answers),
        "--output_dir", str(tmp_path / "run"),
    ]  # fmt: skip
    other = tmp_path / "other"
    toy_model(64, 2, seed=3).save_pretrained(other)
    TOKENIZER.save_pretrained(other)
    line = refusal(capsys, "train", *common, "--teacher_model_name_or_path", str(other))
    assert "the teacher given now is" in line
    assert main(["train", *common, *which]) == 0
    assert (tmp_path / "run" / "complete").exists()

    # A cache of these answers has the same prefixes, and says so.
    cache = tmp_path / "cache"
    words = ["--answers", str(answers), "--output_dir", str(cache)]
    assert main(["cache", *which, *words]) == 0
    stored = ["--model_shape", SHAPE, *QUICK, "--teacher_cache", str(cache)]
    line = refusal(capsys, "train", *stored, "--output_dir", str(tmp_path / "other_run"))
    assert "set prefixes to teacher, not dataset" in line
    more = ["--prefixes", "teacher", "--output_dir", str(tmp_path / "cached")]
    assert main(["train", *stored, *more]) == 0
    live, cached = (read_metrics(tmp_path / name)[-1] for name in ("run", "cached"))
    assert cached["train_loss"] == pytest.approx(live["train_loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("prefixes", ["dataset", "student"])
def test_a_killed_run_goes_on_to_the_same_weights(prefixes, teacher, tmp_path):
    words = [
        *STUDENT, "--use_cpu", "true", "--disable_tqdm", "true", "--learning_rate", "1e-2",
        "--max_steps", "90", "--save_steps", "10", "--logging_steps", "10",
        "--save_total_limit", "2", "--per_device_train_batch_size", "8", "--prefixes", prefixes,
        "--teacher_model_name_or_path", teacher, "--max_new_tokens", "12", "--alpha", "1",
    ]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    command = ["train", *words, "--output_dir"]
    log = tmp_path / "log"
    process = one_process(main, [*command, str(cut)], log=log)
    while not (cut / "checkpoint-20" / "complete").exists():
        assert process.is_alive(), log.read_text()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (cut / "model.safetensors").exists()
    assert main([*command, str(cut), "--resume_from_checkpoint", "true"]) == 0
    assert main([*command, str(whole)]) == 0
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert logged_steps(cut) == [*range(10, 91, 10), 90]  # none twice; the last is the summary


def test_a_run_that_lacks_its_end_alone_trains_no_further_step(teacher, tmp_path, capsys):
    run = tmp_path / "run"
    words = [
        *STUDENT, *QUICK, "--save_steps", "1", "--logging_steps", "1", "--learning_rate", "1e-2",
        "--lr_scheduler_type", "constant", "--teacher_model_name_or_path", teacher,
        "--output_dir", str(run),
    ]  # fmt: skip
    assert main(["train", *words]) == 0
    weights, steps = (run / "model.safetensors").read_bytes(), logged_steps(run)
    again = ["train", *words, "--resume_from_checkpoint", "true"]
    for killed_before_its_end in (True, False):
        if killed_before_its_end:
            (run / "complete").unlink()
            (run / "model.safetensors").unlink()
        assert main(again) == 0
        assert (run / "model.safetensors").read_bytes() == weights
        assert logged_steps(run) == steps
        assert sorted(path.name for path in run.glob("checkpoint-*")) == [
            "checkpoint-1", "checkpoint-2"
        ]  # fmt: skip
    line = refusal(capsys, *again, "--max_steps", "1")
    assert "checkpoint-2 has trained 2 steps and max_steps is 1" in line


def logged_steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_two_vocabularies_are_compared_once(teacher, tmp_path, monkeypatch):
    compared = []

    def counted(*tokenizers):
        compared.append(tokenizers)
        return check_same_tokenizer(*tokenizers)

    monkeypatch.setattr("kd_lab.vocabulary.check_same_tokenizer", counted)
    words = ["--teacher_model_name_or_path", teacher, "--output_dir", str(tmp_path / "run")]
    assert main(["train", *STUDENT, *QUICK, *words]) == 0
    assert len(compared) == 1


def test_a_finished_run_stays_as_it_is(tmp_path, capsys):
    words = [*STUDENT, *QUICK, "--alpha", "0", "--save_strategy", "no"]
    words += ["--output_dir", str(tmp_path / "run"), "--resume_from_checkpoint", "true"]
    assert main(["train", *words]) == 0
    before = (tmp_path / "run/model.safetensors").read_bytes()
    other = [*words, "--learning_rate", "0.5"]
    assert "learning_rate was 1e-05 and is 0.5" in refusal(capsys, "train", *other)
    assert main(["train", *words]) == 0
    assert "run is finished: there is nothing to do" in capsys.readouterr().out
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("save", [["--save_strategy", "no"], ["--save_steps", "1"]])
def test_weights_that_are_not_finite_after_the_last_step_are_not_saved(save, tmp_path, capsys):
    run = tmp_path / "run"
    words = [*STUDENT, *QUICK, "--alpha", "0", *save, "--output_dir", str(run)]
    words += ["--learning_rate", "1e39", "--lr_scheduler_type", "constant", "--max_steps", "1"]
    assert main(["train", *words]) != 0
    assert "is infinite or NaN after it" in capsys.readouterr().err
    assert not list(run.rglob("*.safetensors"))
    assert not (run / "complete").exists()


def test_a_run_that_was_cut_off_is_no_start(tmp_path, capsys):
    words = [*STUDENT, *QUICK, "--alpha", "0", "--output_dir", str(tmp_path / "run")]
    assert main(["train", *words]) == 0
    (tmp_path / "run/complete").unlink()
    again = ["--model_name_or_path", str(tmp_path / "run"), *QUICK, "--alpha", "0"]
    said = refusal(capsys, "train", *again, "--output_dir", str(tmp_path / "next"))
    assert "is not whole: its run was cut off" in said


def test_a_batch_that_is_dropped_whole_is_refused(tmp_path, capsys):
    words = [
        "--model_shape",
        SHAPE,
        "--num_conversations",
        "200",
        *QUICK,
        "--alpha",
        "0",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    words += ["--dataloader_drop_last", "true", "--per_device_train_batch_size", "500"]
    assert "dataloader_drop_last leaves out all of 200 rows" in refusal(capsys, "train", *words)
