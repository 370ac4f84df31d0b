"""A whole distillation on one page: read it from top to bottom, change a line, run it again.

    python toy/distil_on_one_page.py           # forward KL at the answers of the dataset
    python toy/distil_on_one_page.py --divergence reverse_kl --prefixes student

A teacher and a smaller student learn a toy language. Hotel guests ask; the desk answers in one of
twenty ways of known probability. Then the student learns from the teacher's distributions. kd_lab
does the same for real models; there the logits are never whole (kd_lab/loss/).
"""

import argparse
import math
from functools import cache

import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from kd_lab.data.toy_language import answers, conversations, log_prob, questions
from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.divergences import DIVERGENCES, get_divergence
from kd_lab.loss.plain import plain_distillation_loss
from kd_lab.vocabulary import IGNORED

tokenizer = toy_tokenizer()
END, PAD = tokenizer.eos_token_id, tokenizer.pad_token_id


def small_model(width, layers, seed):
    """An untrained language model of the architecture of Qwen2.5."""
    torch.manual_seed(seed)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    ends = {"eos_token_id": END, "pad_token_id": PAD, "bos_token_id": None}
    config = Qwen2Config.from_dict({**shape, **ends, "tie_word_embeddings": False})
    return AutoModelForCausalLM.from_config(config)


@cache
def prompt_ids(question):
    """The question as the model sees it, up to the start of its answer."""
    asked = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)


@cache
def answer_ids(answer):
    """The answer, then the token that ends it."""
    return [*tokenizer(answer, add_special_tokens=False)["input_ids"], END]


def as_batch(prompts, completions):
    """Padded token ids [B, T], their mask, and labels: the token where trained, else -100."""
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for i, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        labels[i, len(prompt) : len(row)] = ids[i, len(prompt) : len(row)]
    return ids, mask, labels


@torch.no_grad()
def write(model, prompts):
    """One sampled answer to each prompt, as token ids up to its end."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (longest - len(p)) + p for p in prompts])  # padded on the left
    written = model.generate(
        ids, attention_mask=(ids != PAD).long(), do_sample=True, top_k=0, max_new_tokens=16
    )[:, longest:].tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in written]


def distillation_loss(student, teacher, batch, divergence, alpha):
    """α·D(teacher, student) + (1 - α)·cross-entropy, in nats per token of the answers."""
    ids, mask, labels = batch
    student_logits = student(input_ids=ids, attention_mask=mask).logits  # [B, T, V]
    with torch.no_grad():  # at alpha 0, plain fine-tuning, nobody asks the teacher
        asked = teacher(input_ids=ids, attention_mask=mask).logits if alpha else student_logits
    return plain_distillation_loss(student_logits, asked, labels, divergence, alpha=alpha)[0]


def train(student, teacher, steps, learning_rate, divergence, alpha, prefixes="dataset", seed=0):
    """Train the student; each step: questions, answers, two forward passes, backward, update."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps, pct_start=0.07)
    talks = conversations(64 * steps, seed)
    for step in range(steps):
        talk = [row["messages"] for row in talks[64 * step : 64 * (step + 1)]]
        prompts = [prompt_ids(question["content"]) for question, _ in talk]
        if prefixes == "dataset":  # the only question of the map that is not the divergence:
            completions = [answer_ids(answer["content"]) for _, answer in talk]
        else:  # who wrote the answer up to the position at which p and q are compared?
            completions = write(teacher if prefixes == "teacher" else student, prompts)
        batch = as_batch(prompts, completions)
        loss = distillation_loss(student, teacher, batch, divergence, alpha)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 4) == 0:
            print(f"  step {step + 1:4}  loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def precision_and_coverage(model, asked, samples=8):
    """Precision: the share of correct answers. Coverage: the true mass on well covered answers.

    An answer is correct if the language has it, and well covered if the student gives it a tenth of
    its true probability.
    """
    torch.manual_seed(0)
    prompts = [prompt_ids(question) for question in asked]
    right, covered = 0, 0.0
    for _ in range(samples):
        for question, answer in zip(asked, write(model, prompts), strict=True):
            text = str(tokenizer.decode(answer[:-1]))
            right += answer[-1] == END and log_prob(question, text) > -math.inf
    for question, prompt in zip(asked, prompts, strict=True):
        texts, due = zip(*answers(question), strict=True)
        ids, mask, labels = as_batch([prompt] * len(texts), [answer_ids(text) for text in texts])
        logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        logp = logits.log_softmax(-1).gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
        given = (logp * (labels[:, 1:] != IGNORED)).sum(1).exp()  # q of each whole answer, [20]
        covered += sum(p for p, q in zip(due, given.tolist(), strict=True) if q >= 0.1 * p)
    return right / (samples * len(asked)), covered / len(asked)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--divergence", choices=list(DIVERGENCES), default="forward_kl")
    parser.add_argument("--prefixes", choices=("dataset", "teacher", "student"), default="dataset")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    options = parser.parse_args()
    most = 4 if options.quick else 10**9
    teacher, student = small_model(64, 2, seed=1), small_model(32, 1, seed=2)
    divergence, asked = get_divergence(options.divergence), questions("test")[: min(100, most)]
    for who, model, rate, steps in ("teacher", teacher, 5e-3, 600), ("student", student, 1e-2, 450):
        print(f"the {who} learns the language from answers alone: alpha is 0")
        train(model, teacher, min(steps, most), rate, divergence, alpha=0, seed=steps)
        print("  precision {:.3f}, coverage {:.3f}".format(*precision_and_coverage(model, asked)))
    print(f"the student learns by {options.divergence}; the {options.prefixes} writes the answers")
    train(student, teacher, min(150, most), 3e-3, divergence, 1, options.prefixes, seed=3)
    print("  precision {:.3f}, coverage {:.3f}".format(*precision_and_coverage(student, asked)))


if __name__ == "__main__":
    main()
