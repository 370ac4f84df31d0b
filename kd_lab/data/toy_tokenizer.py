"""A tokenizer for the toy language: Qwen2.5's own kind and chat format, and one token a word.

It is a byte-pair encoding, learnt from the toy language alone until each of its words is one token.
The 256 bytes and the intermediate pieces of words stay in the vocabulary, so it can encode any
text. The toy language's own sentences never contain them.

Why no plain list of words? ``AutoTokenizer`` reads a folder with a Qwen2 model as a Qwen2Tokenizer,
rebuilt from its vocabulary and merges. Any other kind would come back as another tokenizer, without
a warning (transformers 5.23).
"""

import json

from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

from kd_lab.data.toy_language import ANSWERS, GUESTS, HOURS, QUESTIONS

# As in Qwen2.5, but a conversation without a system message gets none. The generation marks enclose
# the trained text (TRL's assistant_only_loss): in every turn, the assistant's words and the
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

    ``AutoTokenizer.from_pretrained`` loads its files, beside a model or alone.
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
