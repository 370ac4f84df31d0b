"""Which tokens are trained, against masks made another way: by offsets in a string written here."""

from itertools import pairwise

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kd_lab.data.examples import (
    NoRows,
    generation_prompts,
    rows_without_end,
    training_examples,
)
from kd_lab.data.packed_rows import PackedRows
from kd_lab.data.rendering import training_chat_template
from kd_lab.data.row_kinds import CUT
from kd_lab.data.toy_language import conversations
from kd_lab.data.toy_tokenizer import toy_tokenizer
from tests.helpers.dialogues import (
    CONTEXT,
    END,
    SMOLLM2_TEMPLATE,
    dialogue,
    example,
    rows_of,
    trained_texts,
    trl_template,
)
from tests.helpers.qwen_vocabulary import SPECIAL, qwen_tokenizer

SYSTEM = {  # what each template says first when a conversation does not
    "toy": None,
    "qwen2.5": "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    "smollm2": "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
}


@pytest.fixture(scope="module")
def tokenizers():
    qwen, smol = qwen_tokenizer(), qwen_tokenizer()
    qwen.chat_template = trl_template("qwen2_5")
    smol.chat_template = SMOLLM2_TEMPLATE
    smol.pad_token = END  # as SmolLM2's: a mask by the padding's id would lose the end of answers
    return {"toy": toy_tokenizer(), "qwen2.5": qwen, "smollm2": smol}


def expected_row(messages, tokenizer, default_system):
    """The row, from a string in Qwen's format and the offsets of its tokens."""
    if default_system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": default_system}, *messages]
    text, spans = "", []
    for message in messages:
        text += f"<|im_start|>{message['role']}\n"
        start = len(text)
        text += message["content"] + END
        if message["role"] == "assistant":
            spans.append((start, len(text)))
        text += "\n"
    text = text[: spans[-1][1]]
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    labels, prompt_length = [], None
    pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    for i, (token, (start, end)) in enumerate(pairs):
        inside = any(start >= a and end <= b for a, b in spans)
        labels.append(token if inside else -100)
        if prompt_length is None and start >= spans[-1][0]:
            prompt_length = i
    return {"input_ids": encoded["input_ids"], "labels": labels, "prompt_length": prompt_length}


def plain(text):
    """Whether a text has no control token, which hypothesis takes from the sources."""
    return not any(token in text for token in SPECIAL)


# A letter first: an answer that begins with a line break shares a token with its header when the
# string is tokenised whole (see below for those).
words = st.builds(str.__add__, st.sampled_from("aZé中ß"), st.text(max_size=20)).filter(plain)
any_text = st.text(min_size=1, max_size=20).filter(lambda text: text.strip() and plain(text))


@pytest.mark.parametrize("name", SYSTEM)
@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(st.tuples(words, words), min_size=1, max_size=4),
    system=st.none() | words | st.just(""),
)
def test_rows_are_those_of_the_offsets(tokenizers, name, turns, system):
    messages = dialogue(*(text for turn in turns for text in turn), system=system)
    row = example(messages, tokenizers[name])
    assert row == expected_row(messages, tokenizers[name], SYSTEM[name])


@pytest.mark.parametrize("name", SYSTEM)
@settings(max_examples=50, deadline=None)
@given(turns=st.lists(st.tuples(any_text, any_text), min_size=1, max_size=3))
def test_any_answer_is_trained_to_the_letter(tokenizers, name, turns):
    tokenizer = tokenizers[name]
    row = example(dialogue(*(text for turn in turns for text in turn)), tokenizer)
    normal = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert trained_texts(row, tokenizer) == [normal(answer) + END for _, answer in turns]


@pytest.mark.parametrize("name", SYSTEM)
@settings(max_examples=50, deadline=None)
@given(turns=st.lists(st.tuples(any_text, any_text), min_size=1, max_size=3))
def test_a_prompt_is_the_row_up_to_its_last_answer(tokenizers, name, turns):
    messages = dialogue(*(text for turn in turns for text in turn))
    row = example(messages, tokenizers[name])
    [prompt] = generation_prompts(rows_of(messages), tokenizers[name]).rows
    assert prompt["prompt_ids"] == row["input_ids"][: row["prompt_length"]]
    assert prompt["messages"] == messages[:-1]
    assert prompt["reference"] == messages[-1]["content"]


@pytest.mark.parametrize("name", SYSTEM)
def test_a_prompt_is_what_the_chat_template_gives(tokenizers, name):
    tokenizer = tokenizers[name]
    messages = dialogue("One?", "Two.", "Three?", system="Count.")
    [prompt] = generation_prompts(rows_of(messages), tokenizer).rows
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert prompt["prompt_ids"] == asked["input_ids"]
    assert prompt["reference"] is None


@pytest.mark.parametrize("name", SYSTEM)
def test_an_answer_that_begins_with_line_breaks_keeps_its_prompt(tokenizers, name):
    tokenizer = tokenizers[name]
    row = example(dialogue("Well?", "\n\n Yes. \n"), tokenizer)
    prompt = tokenizer.apply_chat_template(dialogue("Well?"), add_generation_prompt=True)
    assert row["input_ids"][: row["prompt_length"]] == prompt["input_ids"]
    assert trained_texts(row, tokenizer) == ["\n\n Yes. \n" + END]


# --- against the masks of others ---------------------------------------------------------------


def test_the_toy_templates_own_marks_say_the_same(tokenizers):
    tokenizer = tokenizers["toy"]
    rows = conversations(100, seed=0, two_turn_share=0.5)
    ours = training_examples(Dataset.from_list(rows), tokenizer).rows
    marked = tokenizer.apply_chat_template(
        [row["messages"] for row in rows], return_dict=True, return_assistant_tokens_mask=True
    )
    for row, ids, mask in zip(ours, marked["input_ids"], marked["assistant_masks"], strict=True):
        assert row["input_ids"] + tokenizer("\n")["input_ids"] == ids
        assert [label != -100 for label in row["labels"]] == [bool(on) for on in mask[:-1]]


def test_trls_marks_for_qwen_say_the_same_but_for_line_breaks(tokenizers):
    tokenizer = tokenizers["qwen2.5"]
    messages = dialogue("One?", "Two.", "Three?", "Four and five.", system="Count.")
    row = example(messages, tokenizer)
    marked = tokenizer.apply_chat_template(
        messages,
        chat_template=trl_template("qwen2_5_training"),
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    theirs = [t for t, on in zip(marked["input_ids"], marked["assistant_masks"], strict=True) if on]
    [line_break] = tokenizer("\n")["input_ids"]
    assert [label for label in row["labels"] if label != -100] == [
        token for token in theirs if token != line_break
    ]


# --- cutting and dropping ----------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEM)
def test_rows_are_cut_to_max_length_and_end_with_a_trained_token(tokenizers, name):
    messages = dialogue("One?", "Two, I think.", "And?", "Three.", "And?", "Four, of course.")
    whole = example(messages, tokenizers[name])
    labels = whole["labels"]
    starts = [i + 1 for i, (a, b) in enumerate(pairwise(labels)) if a == -100 != b]
    assert whole["prompt_length"] == starts[-1]
    for max_length in range(1, len(labels) + 2):
        left = [i for i, label in enumerate(labels[:max_length]) if label != -100]
        short = rows_of(messages, messages[:2])
        if not left:
            with pytest.raises(NoRows, match=rf"none of 2 .* max_length {max_length}: 2\)"):
                training_examples(short, tokenizers[name], max_length)
            continue
        rows, dropped, noted = training_examples(short, tokenizers[name], max_length)
        end = left[-1] + 1
        assert rows[0] == {
            "input_ids": whole["input_ids"][:end],
            "labels": labels[:end],
            "prompt_length": max(start for start in starts if start < max_length),
        }
        assert dropped == {}
        last = max(i for i, label in enumerate(labels) if label != -100)
        first = labels.index(tokenizers[name].eos_token_id)  # where the first answer ends
        cut = (max_length <= last) + (max_length <= first)
        assert noted == ({CUT: cut} if cut else {})
        no_end = sum(row["input_ids"][-1] != tokenizers[name].eos_token_id for row in rows)
        assert rows_without_end(rows, [tokenizers[name].eos_token_id]) == no_end


def test_rows_that_are_cut_are_said(tokenizers, caplog):
    talks = rows_of(
        dialogue("Mia?", "Six.", "And Ben?", "Seven, I think."), dialogue("Ben?", "No.")
    )
    [whole, short] = training_examples(talks, tokenizers["toy"]).rows["input_ids"][:]
    training_examples(talks, tokenizers["toy"], len(whole) - 1)
    assert "1 of 2 rows are cut at max_length; 1 of them have no end" in caplog.text
    caplog.clear()
    training_examples(talks, tokenizers["toy"], len(short) + 1)  # ends with the first answer
    assert "1 of 2 rows are cut at max_length; 0 of them have no end" in caplog.text


def test_rows_of_which_no_trained_token_is_left_are_dropped_and_counted(tokenizers, caplog):
    tokenizer = tokenizers["toy"]
    long, short = dialogue("Please wake Mia at six. " * 9, "We will."), dialogue("Mia?", "Six.")
    rows, dropped, _ = training_examples(rows_of(long, short, long), tokenizer, 20)
    assert [trained_texts(row, tokenizer) for row in rows] == [["Six." + END]]
    assert dropped == {"no trained token within max_length 20": 2}
    assert "left out 2 of 3 conversations" in caplog.text


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "no user turn"),
        (dialogue(system="Be kind."), "no user turn"),
        (dialogue("Hi"), "no assistant turn"),
        (dialogue("Hi", ""), "an empty answer, and no other to train"),
        (dialogue("Hi", "Hello")[::-1], "no assistant turn after a user turn"),
        ([*dialogue("Hi"), CONTEXT], "only answers that are marked as context"),
    ],
)
def test_conversations_without_an_answer_to_train_are_dropped_and_counted(
    tokenizers, messages, reason
):
    good = dialogue("Hi", "Hello")
    rows, dropped, _ = training_examples(rows_of(messages, good, messages), tokenizers["toy"])
    assert len(rows) == 1
    assert dropped == {reason: 2}
    prompts, dropped, _ = generation_prompts(rows_of(messages, good, messages), tokenizers["toy"])
    if "user" in [message["role"] for message in messages]:  # a question is a prompt
        assert prompts["reference"] == [None, "Hello", None]
    else:
        assert dropped == {"no user turn": 2}


def test_a_last_question_without_an_answer_is_left_out_of_the_row(tokenizers):
    tokenizer = tokenizers["smollm2"]
    assert example(dialogue("Hi", "Hello", "So?"), tokenizer) == example(
        dialogue("Hi", "Hello"), tokenizer
    )


def test_prompts_that_are_too_long_are_dropped_and_counted(tokenizers):
    long, short = dialogue("Please wake Mia at six. " * 9, "We will."), dialogue("Mia?", "Six.")
    rows, dropped, _ = generation_prompts(rows_of(long, short), tokenizers["toy"], 20)
    assert rows["reference"] == ["Six."]
    assert dropped == {"a prompt of more than max_prompt_length 20 tokens": 1}


def test_nothing_is_written_to_disk(tokenizers, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    rows = Dataset.from_list(conversations(2500, seed=0))
    examples = training_examples(rows, tokenizers["toy"])
    assert len(examples.rows) == 2500
    assert [*tmp_path.iterdir()] == examples.rows.cache_files == []


# --- chat templates ----------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "eos_token", "message"),
    [
        (None, END, "the tokenizer has no chat template"),
        (SMOLLM2_TEMPLATE, "<|endoftext|>", r"ends an answer with 'Two.<\|im_end\|>.*eos_token"),
        (SMOLLM2_TEMPLATE, None, r"ends an answer with 'Two.<\|im_end\|>.*eos_token None"),
        (CHATML, END, r"'<\|im_start\|>assistant.* must heed add_generation_prompt"),
        (
            "{{ raise_exception('no more than one turn') }}",
            END,
            "a plain conversation of two turns: .*: no more",
        ),
    ],
)
def test_a_chat_template_that_does_not_fit_is_refused(template, eos_token, message):
    tokenizer = toy_tokenizer()
    tokenizer.chat_template, tokenizer.eos_token = template, eos_token
    with pytest.raises(ValueError, match=message):
        training_chat_template(tokenizer)


def test_a_tokenizer_that_puts_a_space_before_every_text_is_refused():
    backend = Tokenizer(models.BPE({"▁": 0, "</s>": 1, "<unk>": 2}, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
        "{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="splits a text differently when it comes in pieces"):
        training_chat_template(tokenizer)


@pytest.mark.slow  # importing TRL takes seconds
def test_a_template_that_drops_old_thoughts_is_trained_in_trls_form():
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = trl_template("qwen3")
    assert training_chat_template(tokenizer) == trl_template("qwen3_training")
    row = example(dialogue("One?", "Two.", "Three?", "Four."), tokenizer)
    thoughts = "<think>\n\n</think>\n\n"
    assert trained_texts(row, tokenizer) == [thoughts + "Two." + END, thoughts + "Four." + END]

    tokenizer.chat_template = trl_template("qwen3") + "{# not one that TRL knows #}"
    with pytest.raises(ValueError, match="writes a turn differently once others follow it"):
        training_chat_template(tokenizer)


# Of these conversations by the code before the second edition, which wrote plain ones alone.
BEFORE = {
    "toy": "4e412f5a75522d9241c5214ff9b1481e24cc8bfcb79211ff9a7ec9d4965e24ab",
    "qwen2.5": "510299889cc0dd9f1d18f49591b7fc764c2cdba4545787b2beeb49615c095c83",
    "smollm2": "6d825ca7f1ebc2c051174b88433ab090bfe48111b7bddd9ad30e2a65ab3f47dc",
}


@pytest.mark.parametrize("name", SYSTEM)
def test_plain_conversations_give_the_rows_that_they_always_gave(tokenizers, name):
    talks = conversations(300, seed=3, two_turn_share=0.5)
    for i, talk in enumerate(talks):
        if i % 3 == 0:
            talk["messages"].insert(0, {"role": "system", "content": "Be kind."})
        if i % 5 == 0:
            talk["messages"].append({"role": "user", "content": "And?"})
    rows = training_examples(Dataset.from_list(talks), tokenizers[name], 48).rows
    assert PackedRows.of(rows).sha256() == BEFORE[name]
