"""A tokenizer for the toy language: Qwen2.5's own kind and chat format, and one token a word.

A byte-pair encoding that was learnt from the toy language alone until each of its words is a single
token. The 256 bytes and the pieces of words on the way stay in the vocabulary, so any text can be
encoded, but in the toy language's own sentences they never occur.

Why no plain list of words? A folder with a Qwen2 model is read by ``AutoTokenizer`` as a
Qwen2Tokenizer, rebuilt from its vocabulary and merges: any other kind comes back as another
tokenizer, without a word of warning (transformers 5.23).
"""

import json

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from kd_lab.data.toy_language import ANSWERS, GUESTS, HOURS, QUESTIONS

# As in Qwen2.5, but a conversation without a system message is given none. The generation marks say
# what is trained (TRL's assistant_only_loss): in every turn, the assistant's words and the
# <|im_end|> after them.
CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def toy_tokenizer() -> Qwen2Tokenizer:
    """The tokenizer: ``<|im_end|>`` ends an answer, ``<|endoftext|>`` pads.

    What it saves is loaded by ``AutoTokenizer.from_pretrained``, beside a model or alone.
    """
    learner = Qwen2Tokenizer().backend_tokenizer
    learner.train_from_iterator(
        _texts(),
        trainers.BpeTrainer(
            vocab_size=2**16,  # never reached: learning ends when no word has two parts left
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Qwen2Tokenizer(
        learnt["vocab"],
        merges,  # type: ignore[arg-type]  # tuples are what it takes
        chat_template=CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(
        [AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")]
    )
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def _texts() -> list[str]:
    """Every sentence of the language with every guest and every hour in it, and the roles."""
    sentences = [
        template.format(guest=guest, hour=hour)
        for templates in (*QUESTIONS.values(), *ANSWERS.values())
        for template in templates
        for guest, hour in zip(GUESTS, HOURS, strict=True)
    ]
    return [*sentences, "system", "user", "assistant"]
