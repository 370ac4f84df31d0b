"""Cross-entropy is of answers that the dataset or the teacher wrote, never of the student's own."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from kd_lab.divergences import jensen_shannon
from kd_lab.trainers.distil_config import DistilConfig
from kd_lab.trainers.seq_distil import SeqDistilTrainer
from tests.helpers.refusal import SHAPE, refusal
from tests.helpers.toy_pair import TOKENIZER, toy_model, toy_rows

VOCABULARY = len(TOKENIZER)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prefixes", "student"], "alpha is 0.5, but no row is left to be fine-tuned on"),
        (["--prefixes", "student", "--alpha", "0"], "say --alpha 1, or set prefixes to dataset"),
        (["--student_share", "1", "--alpha", "0.9"], "alpha is 0.9, but no row is left"),
        (["--student_share", "0.5", "--alpha", "0"], "would train nothing: say --alpha 1, or"),
    ],
)
def test_a_share_without_rows_is_refused_before_anything_loads(words, said, tmp_path, capsys):
    common = ["--model_shape", SHAPE, "--use_cpu", "true", "--output_dir", str(tmp_path / "run")]
    line = refusal(capsys, "train", *common, *words, "--teacher_model_name_or_path", "no/such")
    assert said in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("prefixes", ["dataset", "teacher"])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.3, 2.0), (1.0, 1.0)])
def test_only_given_rows_carry_cross_entropy(prefixes, alpha, temperature, tmp_path):
    """Row by row from whole logits, in float64, divided by all trained tokens of the step."""
    student, teacher = toy_model(32, 1, seed=1).double(), toy_model(64, 2, seed=2).double()
    config = DistilConfig(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8, max_new_tokens=6,
        prefixes=prefixes, student_share=0.5, alpha=alpha, distil_temperature=temperature,
        divergence="jensen_shannon", gradient_accumulation_steps=2,
    )  # fmt: skip
    rows = toy_rows(16)
    trainer = SeqDistilTrainer(
        student, teacher, config, train_dataset=rows, processing_class=TOKENIZER
    )
    student.train()
    batches, count = trainer.get_batch_samples(
        iter(trainer.get_train_dataloader()), 2, torch.device("cpu")
    )
    answered = {tuple(ids) for ids in rows["input_ids"]}
    expected, by_whom = torch.zeros((), dtype=torch.float64), set()
    for batch in batches:
        trainer.compute_loss(student, batch, num_items_in_batch=count).backward()
        for row, by_student in enumerate(batch["by_student"].tolist()):
            ids = batch["input_ids"][row, : int(batch["attention_mask"][row].sum())]
            labels = batch["labels"][row, 1 : len(ids)]
            by_whom.add((by_student, tuple(ids.tolist()) in answered))
            q, p = (
                model(ids[None]).logits[0, :-1][labels != -100][:, :VOCABULARY]
                for model in (student, teacher)
            )
            compared = jensen_shannon(
                (p.detach() / temperature).log_softmax(-1), (q / temperature).log_softmax(-1)
            )
            expected = expected + alpha * temperature**2 * compared.sum() / count
            if not by_student:
                given = cross_entropy(q, labels[labels != -100], reduction="sum")
                expected = expected + (1 - alpha) * given / count
    assert by_whom == {(True, False), (False, prefixes == "dataset")}
    found = {name: part.grad.clone() for name, part in student.named_parameters()}
    student.zero_grad()
    expected.backward()
    for name, part in student.named_parameters():
        torch.testing.assert_close(found[name], part.grad, rtol=1e-8, atol=1e-10)
