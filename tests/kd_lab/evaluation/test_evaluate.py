"""``kd-lab evaluate`` from models on disk to evaluation.json, on a toy pair with random weights."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from kd_lab.data.conversations import DataArguments, load_conversations
from kd_lab.data.shards import ShardStore
from kd_lab.evaluation.answers import _completions
from kd_lab.evaluation.arguments import EvaluateArguments, check_evaluate_arguments
from kd_lab.evaluation.evaluate import _table, evaluate, run
from kd_lab.rollout.generate import GenerateArguments, generate
from kd_lab.rollout.sampling import Completion
from tests.helpers.toy_pair import TOKENIZER, toy_model

DATA = DataArguments(num_conversations=20, num_test_conversations=12, two_turn_share=0.5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A student and a teacher, saved."""
    folder = tmp_path_factory.mktemp("models")
    for name, width, seed in (("student", 16, 0), ("teacher", 32, 1)):
        toy_model(width, 1, seed=seed).save_pretrained(folder / name)
        TOKENIZER.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def args(folders):
    return EvaluateArguments(
        model_name_or_path=str(folders / "student"),
        teacher_model_name_or_path=str(folders / "teacher"),
        answers_per_prompt=2,
        max_new_tokens=12,
        rollout_batch_size=8,
        bart_model=None,
    )


@pytest.fixture(scope="module")
def result(args):
    run(args, DATA)
    return json.loads(Path(args.model_name_or_path, "evaluation.json").read_text())


def shards(folder):
    return {path: path.stat().st_mtime_ns for path in Path(folder).glob("*/shard-*.jsonl")}


def test_every_metric_has_its_examples_and_its_interval(result):
    metrics = result["metrics"]
    assert {
        "rouge1", "rougeL", "distinct2", "self_bleu", "repetition", "forward_kl", "reverse_kl",
        "total_variation", "top1_agreement", "student_calibration_error", "teacher_entropy",
        "sequence_forward_kl", "sequence_reverse_kl", "sequence_reverse_kl_per_token",
        "precision", "coverage", "outside_mass", "hallucination", "grammar_forward_kl",
        "grammar_reverse_kl_inside",
    } <= set(metrics)  # fmt: skip
    for name, metric in metrics.items():
        weights = metric["weights"] and result["weights"][metric["weights"]]
        assert metric["n"] == len(metric["values"]) == 12, name
        mean = np.average(metric["values"], weights=weights)
        assert metric["mean"] == pytest.approx(mean, rel=1e-5, abs=1e-7), name
        assert metric["low"] <= metric["mean"] <= metric["high"], name
    assert result["missing"] == {"bartscore": "bart_model was not given"}
    assert metrics["outside_mass"]["mean"] > 0.99  # random weights know no grammar
    assert len(result["mass_by_rank"]) == 20


def test_what_must_be_known_of_a_number_stands_below_the_table(result):
    assert "up to 1.55/√N by chance" in str(_table(result).caption)


def test_a_result_says_how_to_repeat_it(result, args):
    assert result["settings"]["max_new_tokens"] == 12
    assert result["settings"]["two_turn_share"] == 0.5
    assert result["versions"]["libraries"]["rouge-score"]
    assert result["student"]["name"] == "student"
    assert len(result["teacher"]["sha256"]) == 64
    speed = result["speed"]
    assert speed["student"]["parameters"] < speed["teacher"]["parameters"]
    assert min(speed[side]["tokens_per_second"] for side in ("student", "teacher")) > 0


def test_rouge_is_that_of_the_stored_answers(result, args):
    folder = Path(args.model_name_or_path, "answers")
    (path,) = folder.glob("student-*/shard-*.jsonl")
    written = [json.loads(line)["completion_ids"] for line in path.read_text().splitlines()]
    texts = TOKENIZER.batch_decode(written, skip_special_tokens=True)
    test = load_conversations(DATA)["test"]["messages"]
    references = [messages[-1]["content"] for messages in test]
    scorer = RougeScorer(["rouge1"])
    f1 = [scorer.score(references[i // 2], text)["rouge1"].fmeasure for i, text in enumerate(texts)]
    expected = np.array(f1).reshape(12, 2).mean(1)
    assert result["metrics"]["rouge1"]["values"] == pytest.approx(expected, abs=1e-6)


def test_answers_are_reused_and_a_lost_shard_is_written_again(result, args):
    folder = Path(args.model_name_or_path, "answers")
    before = shards(folder)
    assert len(before) == 2
    lost = next(path for path in before if path.parent.name.startswith("student"))
    text = lost.read_text()
    lost.unlink()
    again = evaluate(args, DATA)
    assert again["metrics"] == result["metrics"]
    assert lost.read_text() == text
    kept = before.keys() - {lost}
    assert {path: shards(folder)[path] for path in kept} == {path: before[path] for path in kept}


def test_generated_answers_are_taken_and_are_what_would_be_written(args, folders, tmp_path):
    data, models = replace(DATA, num_test_conversations=5), tmp_path / "models"
    shutil.copytree(folders, models)
    ends = [TOKENIZER.eos_token_id, *range(200, 300)]  # as Qwen2.5, more than its tokenizer's
    for name in ("student", "teacher"):
        (models / name / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
        asked = GenerateArguments(
            output_dir=str(tmp_path / name),
            teacher_model_name_or_path=str(models / name),
            split="test",
            max_new_tokens=12,
        )
        generate(asked, data)
    alone = replace(
        args,
        model_name_or_path=str(models / "student"),
        teacher_model_name_or_path=str(models / "teacher"),
        answers_per_prompt=1,
        output_dir=str(tmp_path / "a"),
    )
    stored = replace(
        alone,
        output_dir=str(tmp_path / "b"),
        answers=str(tmp_path / "student"),
        teacher_answers=str(tmp_path / "teacher"),
    )
    metrics = evaluate(alone, data)["metrics"]
    assert evaluate(stored, data)["metrics"] == metrics
    assert metrics["finished"]["mean"] > 0.5
    assert not (tmp_path / "b").exists()
    with pytest.raises(ValueError, match="what is stored comes from the teacher teacher"):
        evaluate(replace(stored, answers=stored.teacher_answers), data)
    with pytest.raises(ValueError, match="answers other prompts than those of this evaluation"):
        evaluate(stored, replace(data, num_test_conversations=4))


def test_settings_are_those_of_generated_answers(folders, tmp_path):
    stored, student = str(tmp_path / "answers"), str(folders / "student")
    drawn = {"max_new_tokens": 4, "sampling_temperature": 0.0, "top_p": 0.9, "top_k": 5}
    data = replace(DATA, num_test_conversations=3)
    asked = {"teacher_model_name_or_path": student, "split": "test"}
    generate(GenerateArguments(output_dir=stored, **asked, **drawn), data)
    args = EvaluateArguments(model_name_or_path=student, answers=stored, bart_model=None)
    settings = evaluate(args, data)["settings"]
    assert {key: settings[key] for key in drawn} == drawn
    assert settings["answers_per_prompt"] == 1
    assert check_evaluate_arguments(replace(args, max_new_tokens=4)).top_k == 5
    others = {"max_new_tokens": 8, "sampling_temperature": 0.7, "top_p": 0.5, "top_k": 2}
    for key, value in {**others, "answers_per_prompt": 5}.items():
        with pytest.raises(ValueError, match=f"^answers: those in {stored} have {key} .*, not "):
            check_evaluate_arguments(replace(args, **{key: value}))
    teacher = replace(args, answers=None, teacher_answers=stored)
    with pytest.raises(
        ValueError, match=r"^teacher_answers: .* max_new_tokens 4, .* student's 512"
    ):
        check_evaluate_arguments(teacher)
    assert check_evaluate_arguments(replace(teacher, max_new_tokens=4)).sampling_temperature == 1


def test_greedy_answers_to_own_questions_without_a_teacher(args, tmp_path):
    row = {
        "messages": [
            {"role": "user", "content": "Is the tour long?"},
            {"role": "assistant", "content": "Yes, it is."},
        ]
    }
    other = {"messages": [{"role": "user", "content": "Why?"}, row["messages"][1]]}
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (other, row)))
    data = DataArguments(dataset="toy", num_conversations=5, test_dataset=str(path))
    greedy = replace(args, sampling_temperature=0.0, output_dir=str(tmp_path / "out"))
    result = evaluate(greedy, data)
    assert "precision" not in result["metrics"]  # not the toy's questions
    assert "sequence_forward_kl" in result["metrics"]  # the teacher's answers are always sampled
    assert "own distribution" in result["missing"]["sequence_reverse_kl"]
    assert result["metrics"]["self_bleu"]["values"] == [1, 1]  # both answers of a prompt are one
    alone = evaluate(replace(greedy, teacher_model_name_or_path=None), data)
    assert alone["teacher"] is None
    assert "forward_kl" not in alone["metrics"]
    assert alone["metrics"]["rouge1"] == result["metrics"]["rouge1"]

    unanswered = {"messages": [{"role": "user", "content": "Who?"}]}
    path.write_text(json.dumps(unanswered) + "\n")
    with pytest.raises(ValueError, match=r"no answer to compare with: 1.* --test_dataset"):
        evaluate(greedy, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers_per_prompt": 0}, "answers_per_prompt must be at least 1, not 0"),
        ({"max_length": 8, "max_prompt_length": 8}, "max_length 8 must exceed max_prompt_length"),
        ({"seed": -1}, "seed must lie in"),
        ({"sampling_temperature": -1.0}, "sampling_temperature must be 0"),
        ({"teacher_dtype": "half"}, "teacher_dtype must be one of .* not 'half'"),
        ({"model_name_or_path": "owner/name"}, "no folder owner/name; .*output_dir"),
        ({"max_prompt_length": 3}, "none of 12 test conversations can be used"),
    ],
)
def test_what_makes_no_sense_is_refused(args, change, message):
    with pytest.raises(ValueError, match=message):
        evaluate(replace(args, **change), DATA)


def test_stored_answers_to_a_prompt_with_a_line_separator_are_read(tmp_path):
    row = {"prompt_ids": [1], "completion_ids": [5, 2], "finished": True, "messages": "ask\u2028 1"}
    settings = {"rows": 1}
    store = ShardStore.create(
        tmp_path, "answers", settings, num_rows=1, rows_per_shard=1, suffix=".jsonl"
    )
    (shard,) = store.missing()
    text = json.dumps(row, ensure_ascii=False) + "\n"
    store.write(shard, partial(Path.write_text, data=text, encoding="utf-8"), 2)
    assert _completions(store) == [Completion([5, 2], True)]
