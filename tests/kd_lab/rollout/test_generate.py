"""``kd-lab generate``: what it stores, and that a kill loses nothing that was finished."""

import json
import signal
import time
from dataclasses import replace

import pytest
from transformers import GenerationConfig

from kd_lab.cli import main
from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.data.examples import generation_prompts
from kd_lab.rollout.generate import GenerateArguments, check_generate_arguments, generate, run
from kd_lab.rollout.sampling import Sampling
from kd_lab.rollout.transformers_engine import write_answers
from kd_lab.teacher.stored import stored_answers
from kd_lab.vocabulary import IGNORED
from tests.helpers.forked_processes import one_process, two_processes
from tests.helpers.toy_pair import ROWS, TOKENIZER, toy_model

DATA = DataArguments(num_conversations=30, num_test_conversations=20, two_turn_share=0.3)
PAD = TOKENIZER.pad_token_id


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    model = toy_model(layers=2)
    model.generation_config = GenerationConfig(
        eos_token_id=[TOKENIZER.eos_token_id, PAD],
        repetition_penalty=1.5,
        temperature=0.1,
        do_sample=True,
    )
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def arguments(teacher, folder, **more):
    settings = {"max_new_tokens": 40, "rows_per_shard": 7, "rollout_batch_size": 5, **more}
    return GenerateArguments(
        output_dir=str(folder), teacher_model_name_or_path=str(teacher), **settings
    )


def lines(folder):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.open()]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


@pytest.mark.parametrize(("split", "count"), [("train", 30), ("test", 20)])
def test_answers_are_the_teachers_own(teacher, tmp_path, split, count, capsys):
    run(arguments(teacher, tmp_path, split=split, max_prompt_length=60), DATA)
    asked = load_conversations(DATA)[split]
    prompts = generation_prompts(asked, TOKENIZER, 60).rows
    expected = write_answers(
        toy_model(layers=2),
        prompts["prompt_ids"][:],
        Sampling(40),
        eos_token_ids=[TOKENIZER.eos_token_id, PAD],
        seed=0,
        batch_size=64,
        vocab_size=len(TOKENIZER),
    )
    answers = lines(tmp_path)
    assert len(answers) == len(expected) == count
    assert [answer["row"] for answer in answers] == list(range(count))
    assert [answer["completion_ids"] for answer in answers] == [e.tokens for e in expected]
    assert [answer["finished"] for answer in answers] == [e.finished for e in expected]
    assert any(e.finished for e in expected)
    for answer, prompt in zip(answers, prompts, strict=True):
        *before, last = answer["messages"]
        assert before == prompt["messages"]
        assert answer["prompt_ids"] == prompt["prompt_ids"]
        words = TOKENIZER.decode(answer["completion_ids"], skip_special_tokens=True)
        assert last == {"role": "assistant", "content": words}
    tokens = sum(len(e.tokens) for e in expected)
    assert f"{count} answers, {tokens:,} tokens" in capsys.readouterr().out
    settings = json.loads((tmp_path / "manifest.json").read_text())["settings"]
    assert settings["teacher"]["name"] == teacher.name
    assert settings["vocab_size"] == len(TOKENIZER) < ROWS
    assert settings["sampling"]["temperature"] == 1.0
    rows = stored_answers(tmp_path)
    for row, answer in zip(rows, answers, strict=True):
        trained = [label for label in row["labels"] if label != IGNORED]
        assert trained == answer["completion_ids"]
        assert row["prompt_length"] == len(answer["prompt_ids"])


@pytest.mark.slow
def test_a_kill_loses_no_finished_shard_and_changes_no_answer(teacher, tmp_path):
    data = replace(DATA, num_conversations=140)
    settings = {"rows_per_shard": 4, "max_new_tokens": 40}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    generate(arguments(teacher, whole, **settings), data)
    words = ["generate", "--output_dir", str(killed)]
    words += ["--teacher_model_name_or_path", str(teacher), "--rollout_batch_size", "5"]
    words += ["--num_conversations", "140", "--num_test_conversations", "20"]
    words += ["--two_turn_share", "0.3"]
    words += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    process = one_process(main, words, log=tmp_path / "log")
    while len(list(killed.glob("shard-*.sidecar"))) < 3 and process.is_alive():
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "log").read_text()
    finished = {
        path.name: path.stat().st_mtime_ns
        for path in killed.glob("*.jsonl")
        if path.with_name(path.name + ".sidecar").exists()
    }
    assert 3 <= len(finished) < 35
    (killed / ".shard-00030.jsonl.1.part").write_text("half a line")
    generate(arguments(teacher, killed, **settings), data)
    assert contents(killed) == contents(whole)
    assert finished == {name: (killed / name).stat().st_mtime_ns for name in finished}


@pytest.mark.slow
def test_two_processes_share_the_shards_and_write_the_same(teacher, tmp_path):
    generate(arguments(teacher, tmp_path / "one"), DATA)
    words = ["generate", "--output_dir", str(tmp_path / "two")]
    settings = {"max_new_tokens": 40, "rows_per_shard": 7} | vars(DATA)
    settings |= {"teacher_model_name_or_path": teacher}
    for name, value in settings.items():
        words += [f"--{name}", str(value)] if value is not None else []
    output = two_processes(main, words, logs=tmp_path / "logs")
    assert "16 of 16 answers" in output  # the first process's: shards 0, 2 and 4
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_what_was_written_otherwise_is_not_mixed_in(teacher, tmp_path):
    generate(arguments(teacher, tmp_path), DATA)
    before = contents(tmp_path)
    for name, value in (
        ("sampling_temperature", 0.5),
        ("generation_seed", 1),
        ("max_new_tokens", 41),
        ("split", "test"),
        ("teacher_dtype", "bfloat16"),
    ):
        known = {"sampling_temperature": "sampling.temperature", "teacher_dtype": "dtype"}
        with pytest.raises(ValueError, match=known.get(name, name)):
            generate(arguments(teacher, tmp_path, **{name: value}), DATA)
    assert contents(tmp_path) == before
    generate(arguments(teacher, tmp_path, rollout_batch_size=3), DATA)  # decides no answer


def test_a_corrupted_shard_is_named_and_written_again(teacher, tmp_path, caplog):
    generate(arguments(teacher, tmp_path), DATA)
    before = contents(tmp_path)
    shard = tmp_path / "shard-00002.jsonl"
    shard.write_bytes(shard.read_bytes().replace(b"a", b"b", 1))
    generate(arguments(teacher, tmp_path), DATA)
    assert "shard-00002.jsonl differs" in caplog.text
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"engine": "tgi"}, "engine must be one of"),
        ({"teacher_dtype": "int8"}, "teacher_dtype must be one of"),
        ({"split": "dev"}, "split must be one of"),
        ({"rows_per_shard": 0}, "rows_per_shard must be at least 1"),
        ({"generation_seed": -1}, "generation_seed must lie in"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"top_p": 0.0}, "top_p must be in"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(more, message):
    with pytest.raises(ValueError, match=message):
        check_generate_arguments(arguments("no teacher", "nowhere", **more))


def test_answers_that_the_teacher_has_no_room_for_are_refused(teacher, tmp_path):
    with pytest.raises(
        ValueError, match=r"has 1,024 positions, .* with max_new_tokens 1,024, needs"
    ):
        generate(arguments(teacher, tmp_path / "new", max_new_tokens=1024), DATA)
    assert not (tmp_path / "new").exists()
