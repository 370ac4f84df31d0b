"""Conversations by hand, the rows they become, and what of a row is trained."""

import importlib.util
from pathlib import Path

from datasets import Dataset

from kd_lab.data.examples import training_examples

END = "<|im_end|>"
SMOLLM2_TEMPLATE = (  # to the letter, as its tokenizer has it
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONTEXT = {"role": "assistant", "content": "Wrong.", "trained": False}


def dialogue(*contents, system=None):
    """Messages of user and assistant in turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    roles = ("user", "assistant")
    return first + [{"role": roles[i % 2], "content": text} for i, text in enumerate(contents)]


def rows_of(*messages):
    return Dataset.from_list([{"messages": m} for m in messages])


def example(messages, tokenizer, max_length=None):
    [row] = training_examples(rows_of(messages), tokenizer, max_length).rows
    return row


def trained_texts(row, tokenizer):
    """What is trained, a string per stretch."""
    stretches, before = [], None
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        if label != -100:
            assert label == token
            if before in (None, -100):
                stretches.append([])
            stretches[-1].append(token)
        before = label
    return [tokenizer.decode(stretch) for stretch in stretches]


def trl_template(name):
    """A chat template as TRL keeps it, without the seconds that importing TRL takes."""
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]
    return (Path(folder) / "chat_templates" / f"{name}.jinja").read_text()
