"""The toy language's tokenizer: whole words, exact round trips, and the mask of what is trained."""

import pytest
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import SFTConfig, SFTTrainer

from kd_lab.data.toy_language import answers, conversations, questions, understand
from kd_lab.data.toy_tokenizer import toy_tokenizer
from kd_lab.vocabulary import check_same_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


@pytest.fixture(scope="module")
def tiny_model(tokenizer):
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=640,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@pytest.fixture(scope="module")
def sentences():
    """Every question, and every answer of the language."""
    every = questions("train") + questions("test")
    one_of_each_meaning = {understand(question): question for question in every}.values()
    return every + [text for question in one_of_each_meaning for text, _ in answers(question)]


def test_every_word_is_one_token(tokenizer, sentences):
    for text in sentences:
        tokens = tokenizer.tokenize(text)
        expected = text.replace(",", " ,").replace(".", " .").replace("?", " ?").split()
        assert len(tokens) == len(expected)
        assert [token.lstrip("Ġ") for token in tokens] == expected


def test_decoding_gives_back_the_text_to_the_letter(tokenizer, sentences):
    texts = [*sentences, "Any other text: zèbre,  two spaces\n\t🦓 中文 don't!"]
    assert [tokenizer.decode(ids) for ids in tokenizer(texts)["input_ids"]] == texts


def test_ids_have_no_holes_and_special_tokens_are_last(tokenizer):
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(len(tokenizer)))
    assert sorted(vocab, key=vocab.get)[-3:] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def test_it_is_the_same_tokenizer_every_time(tokenizer):
    assert toy_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_padding_is_not_the_end_of_an_answer(tokenizer):
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_chat_format_is_qwens(tokenizer):
    messages = [
        {"role": "system", "content": "Please help."},
        {"role": "user", "content": "Please wake Mia at six."},
        {"role": "assistant", "content": "We will wake Mia at six."},
        {"role": "user", "content": "Can Mia have a taxi at ten?"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nPlease help.<|im_end|>\n"
        "<|im_start|>user\nPlease wake Mia at six.<|im_end|>\n"
        "<|im_start|>assistant\nWe will wake Mia at six.<|im_end|>\n"
        "<|im_start|>user\nCan Mia have a taxi at ten?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_mask_covers_the_assistants_words_and_the_end_of_each_answer(tokenizer):
    for conversation in conversations(100, seed=0, two_turn_share=0.5):
        messages = conversation["messages"]
        encoded = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        trained, ids = encoded["assistant_masks"], encoded["input_ids"]
        spans = [[]]
        for token, on in zip(ids, trained, strict=True):
            if on:
                spans[-1].append(token)
            elif spans[-1]:
                spans.append([])
        assert [tokenizer.decode(span) for span in spans if span] == [
            message["content"] + "<|im_end|>" for message in messages[1::2]
        ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side(tokenizer, side):
    short, long = "Please wake Mia at six.", "Could you book a table for Emma at seven?"
    batch = tokenizer([short, long], padding=True, padding_side=side, return_tensors="pt")
    ids, attended = batch["input_ids"][0], batch["attention_mask"][0]
    missing = len(tokenizer.tokenize(long)) - len(tokenizer.tokenize(short))
    padding = slice(None, missing) if side == "left" else slice(-missing, None)
    assert (ids[padding] == tokenizer.pad_token_id).all()
    assert (attended[padding] == 0).all()
    assert tokenizer.decode(ids[attended.bool()]) == short


@pytest.mark.parametrize("beside_a_model", [False, True])
def test_auto_tokenizer_loads_the_same_tokenizer(tokenizer, tiny_model, beside_a_model, tmp_path):
    # Beside a Qwen2 config, AutoTokenizer rebuilds the tokenizer from its vocabulary and merges.
    tokenizer.save_pretrained(tmp_path)
    if beside_a_model:
        tiny_model.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert check_same_tokenizer(loaded, tokenizer) == len(tokenizer)
    assert (loaded.eos_token, loaded.pad_token) == (tokenizer.eos_token, tokenizer.pad_token)
    rows = [c["messages"] for c in conversations(20, seed=0, two_turn_share=0.5)]
    ours, theirs = (
        t.apply_chat_template(rows, return_dict=True, return_assistant_tokens_mask=True)
        for t in (tokenizer, loaded)
    )
    assert dict(theirs) == dict(ours)


def test_trl_trains_the_answers_alone(tokenizer, tiny_model, tmp_path):
    rows = conversations(8, seed=0, two_turn_share=0.5)
    trainer = SFTTrainer(
        tiny_model,
        args=SFTConfig(
            str(tmp_path),
            assistant_only_loss=True,
            per_device_train_batch_size=len(rows),
            report_to="none",
            use_cpu=True,
            bf16=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    [batch] = trainer.get_train_dataloader()
    trained = [tokenizer.decode(labels[labels != -100]) for labels in batch["labels"]]
    assert sorted(trained) == sorted(
        "".join(message["content"] + "<|im_end|>" for message in row["messages"][1::2])
        for row in rows
    )
