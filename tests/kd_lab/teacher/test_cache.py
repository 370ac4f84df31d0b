"""A cache survives kills and flipped bytes, and is never mixed with or taken for another."""

import json
import logging
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM

from kd_lab.cli import main
from kd_lab.data.shards import ShardStore
from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.rollout.generate import GenerateArguments, generate
from kd_lab.teacher.cache import cache_teacher, run
from kd_lab.teacher.stored import StoredTeacher, stored_answers
from tests.helpers.cache_problem import DATA, HEAD_ROWS, arguments, cached, save_teacher
from tests.helpers.forked_processes import one_process, two_processes


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


@pytest.mark.slow
def test_killed_in_the_middle(teacher, tmp_path):
    data = replace(DATA, num_conversations=120)
    small = {"teacher_signal": "topk", "topk": 64, "rows_per_shard": 2}
    run(arguments(teacher, tmp_path / "at_once", **small), data)
    folder = tmp_path / "killed"
    given = {**vars(arguments(teacher, folder, **small)), **vars(data)}
    options = [f"--{key}={value}" for key, value in given.items() if value is not None]
    process = one_process(main, ["cache", *options], log=tmp_path / "log")
    while process.is_alive() and not (folder / "shard-00004.safetensors.sidecar").exists():
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    store = ShardStore.create(folder, "cache", *settings_of(tmp_path / "at_once"))
    finished = [s for s in store.shards() if s not in store.missing()]
    assert 5 <= len(finished) < 60
    with pytest.raises(ValueError, match=r"shards are there; run the same `kd-lab cache` again"):
        StoredTeacher(folder)
    before = {s: store.path(s).stat().st_mtime_ns for s in finished}
    run(arguments(teacher, folder, **small), data)
    assert before == {s: store.path(s).stat().st_mtime_ns for s in finished}
    assert contents(folder) == contents(tmp_path / "at_once")


def settings_of(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return [manifest[key] for key in ("settings", "num_rows", "rows_per_shard", "suffix")]


@pytest.mark.parametrize("name", ["shard-00002.safetensors", "head.safetensors"])
def test_a_flipped_byte(teacher, tmp_path, name, caplog):
    cached(teacher, tmp_path)
    whole = contents(tmp_path)
    flipped = bytearray(whole[name])
    flipped[-9] ^= 4
    (tmp_path / name).write_bytes(flipped)
    with pytest.raises(ValueError, match=rf"{name} .*run the same `kd-lab cache` again"):
        StoredTeacher(tmp_path)
    other = tmp_path / "shard-00001.safetensors"
    before = other.stat().st_mtime_ns
    with caplog.at_level(logging.WARNING):
        run(arguments(teacher, tmp_path), DATA)
    assert f"{name} differs from what was written" in caplog.text
    assert contents(tmp_path) == whole
    assert other.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"teacher_signal": "topk"}, {}, "teacher_signal = 'hidden', and now it is 'topk'"),
        ({"teacher_dtype": "bfloat16"}, {}, "dtype = 'float32', and now it is 'bfloat16'"),
        ({"rows_per_shard": 9}, {}, "rows_per_shard = 8, and now it is 9"),
        ({}, {"conversation_seed": 1}, "source.conversation_seed = 0, and now it is 1"),
        ({"teacher_model_name_or_path": "other"}, {}, "teacher.sha256 = "),
    ],
)
def test_other_settings_are_not_mixed(
    teacher, tokenizer, hidden_cache, tmp_path, settings, data, message
):
    if "teacher_model_name_or_path" in settings:
        other = save_teacher(tmp_path / teacher.name, tokenizer, seed=1)
        settings = {"teacher_model_name_or_path": str(other)}
    before = contents(hidden_cache)
    with pytest.raises(ValueError, match=message):
        cache_teacher(arguments(teacher, hidden_cache, **settings), replace(DATA, **data))
    assert contents(hidden_cache) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"teacher_signal": "logits"},
            r"teacher_signal must be one of \('hidden', 'topk'\), not 'logits'",
        ),
        ({"topk": 0}, "topk must be at least 1, not 0"),
        ({"distil_temperature": 0.0}, "distil_temperature must be positive"),
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"teacher_signal": "topk", "topk": 600}, "topk is 600, and the teacher has 599 tokens"),
        ({"teacher_model_name_or_path": "/nowhere/at_all"}, "there is no folder|no model"),
        ({"answers": "/nowhere/at_all"}, "no folder .*; write it with `kd-lab generate`"),
    ],
)
def test_refusals(teacher, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        cache_teacher(arguments(teacher, tmp_path / "cache", **settings), DATA)
    assert not (tmp_path / "cache").exists()


def test_teachers_that_cannot_be_cached(tokenizer, tmp_path):
    config = Gemma2Config(vocab_size=HEAD_ROWS, hidden_size=16, intermediate_size=16,
                          num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
                          head_dim=8, final_logit_softcapping=0.01)  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path / "capped")
    tokenizer.save_pretrained(tmp_path / "capped")
    with pytest.raises(ValueError, match="its logits are not its last hidden states"):
        cache_teacher(arguments(tmp_path / "capped", tmp_path / "a"), DATA)
    model = AutoModelForCausalLM.from_pretrained(save_teacher(tmp_path / "broken", tokenizer))
    model.model.norm.weight.data[3] = torch.inf
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(FloatingPointError, match=r"hidden states of .*broken are infinite or NaN"):
        cache_teacher(arguments(tmp_path / "broken", tmp_path / "b"), DATA)


def test_what_a_cache_does_not_fit(teacher, tokenizer, hidden_cache, tmp_path):
    stored = StoredTeacher(hidden_cache)
    stored.check_fits(tokenizer, temperature=3.0)
    top = cached(teacher, tmp_path, teacher_signal="topk", topk=2, distil_temperature=2.0)
    top.check_fits(tokenizer, temperature=2.0)
    with pytest.raises(ValueError, match=r"top 2 at temperature 2.0, not 3.0"):
        top.check_fits(tokenizer, temperature=3.0)
    other = toy_tokenizer()
    other.add_tokens(["<|think|>"])
    with pytest.raises(ValueError, match="another tokenizer than the student's"):
        stored.check_fits(other, temperature=1.0)


# ---- answers


def test_answers_become_training_rows(tmp_path):
    store = ShardStore.create(tmp_path, "answers", {}, 3, 2, ".jsonl")
    for shard in store.missing():
        lines = [
            {"row": row, "prompt_ids": [5, 6, row], "completion_ids": [7] * row + [598],
             "messages": [{"role": "assistant", "content": "one\u2028two"}], "finished": True}
            for row in shard.rows
        ]  # fmt: skip
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        store.write(shard, lambda path, text=text: path.write_text(text), tokens=1)
    rows = stored_answers(tmp_path)
    assert rows[:2]["input_ids"] == [[5, 6, 0, 598], [5, 6, 1, 7, 598]]
    assert rows[2] == {
        "input_ids": [5, 6, 2, 7, 7, 598],
        "labels": [-100, -100, -100, 7, 7, 598],
        "prompt_length": 3,
    }


def test_the_teachers_own_answers(teacher, tokenizer, tmp_path):
    answers = str(tmp_path / "answers")
    args = GenerateArguments(
        output_dir=answers, teacher_model_name_or_path=str(teacher), max_new_tokens=6
    )
    generate(args, DATA).finish()
    rows = stored_answers(answers)
    stored = cached(teacher, tmp_path / "cache", answers=answers)
    for column in rows.column_names:
        assert stored.rows()[column][:] == rows[column][:]
    model = AutoModelForCausalLM.from_pretrained(teacher)
    with torch.no_grad():
        states = model.model(torch.tensor(rows["input_ids"][4])[None]).last_hidden_state[0]
    expected = states[rows["prompt_length"][4] - 1 : -1]
    torch.testing.assert_close(stored.signal([4])["hidden"].float(), expected, rtol=1e-2, atol=1e-3)
    other = save_teacher(tmp_path / "other", tokenizer, seed=1)
    with pytest.raises(ValueError, match=r"and the teacher given now is other"):
        cached(other, tmp_path / "new", answers=answers)
    tokenizer = toy_tokenizer()
    tokenizer.add_tokens(["<|think|>"])
    retold = shutil.copytree(teacher, tmp_path / "retold")
    tokenizer.save_pretrained(retold)
    with pytest.raises(ValueError, match=r"answers was written with another tokenizer"):
        cached(retold, tmp_path / "new", answers=answers)


@pytest.mark.slow
def test_two_processes_share_the_work(teacher, hidden_cache, tmp_path):
    folder = tmp_path / "cache"
    given = {**vars(arguments(teacher, folder)), **vars(DATA)}
    options = [f"--{key}={value}" for key, value in given.items() if value is not None]
    two_processes(main, ["cache", *options], logs=tmp_path / "logs")
    assert contents(folder) == contents(hidden_cache)


def test_a_student_of_another_chat_template_is_refused(hidden_cache, tokenizer):
    stored = StoredTeacher(hidden_cache)
    stored.check_fits(tokenizer, 1.0)
    other = toy_tokenizer()
    other.chat_template = other.chat_template.replace("assistant", "helper")
    with pytest.raises(ValueError, match="another chat template than the student's"):
        stored.check_fits(other, 1.0)
    other.chat_template = None  # a base model, which says nothing else
    stored.check_fits(other, 1.0)
