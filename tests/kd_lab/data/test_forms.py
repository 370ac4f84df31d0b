"""Rows in the forms of other tools: what each becomes, and what is refused rather than dropped.

The forms are those of openai/openai-cookbook, tatsu-lab/stanford_alpaca, lm-sys/FastChat,
huggingface/trl, hiyouga/LLaMA-Factory and axolotl-ai-cloud/axolotl; the rows are our own.
"""

import json

import pytest

from kd_lab.data.forms import FormReader, without_filled_nulls
from kd_lab.data.messages import json_row, template_message

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "Be kind."}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "door"}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}


def read(row, *ignore_keys):
    return FormReader(ignore_keys).read(row)


def rendered(row):
    return [template_message(message) for message in read(row).messages]


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"messages": TALK}, TALK),
        # ShareGPT and its synonyms
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Hello"},
                ]
            },
            TALK,
        ),
        (
            {
                "conversations": [
                    {"from": "System", "value": "Be kind."},
                    {"from": "user", "value": "Hi"},
                    {"from": "chatgpt", "value": "Hello"},
                ]
            },
            [SYSTEM, *TALK],
        ),
        ({"conversation": TALK, "system": "Be kind."}, [SYSTEM, *TALK]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "function_call", "value": json.dumps(CALL["function"])},
                    {"from": "observation", "value": "open"},
                ]
            },
            [TALK[0], CALLING, {"role": "tool", "content": "open"}],
        ),
        # TRL
        ({"prompt": "Hi", "completion": "Hello"}, TALK),
        ({"prompt": [SYSTEM, TALK[0]], "completion": [TALK[1]]}, [SYSTEM, *TALK]),
        ({"prompt": "Hi"}, TALK[:1]),
        ({"prompt": TALK[:1], "completion": None}, TALK[:1]),
        ({"prompt": "Hi", "response": "Hello"}, TALK),
        # Alpaca
        ({"instruction": "Hi", "input": "", "output": "Hello"}, TALK),
        (
            {"instruction": "Translate.", "input": "Hallo", "output": "Hello"},
            [{"role": "user", "content": "Translate.\n\nHallo"}, TALK[1]],
        ),
        (
            {
                "instruction": "Go on",
                "output": "Yes",
                "history": [["Hi", "Hello"]],
                "system": "Be kind.",
            },
            [
                SYSTEM,
                *TALK,
                {"role": "user", "content": "Go on"},
                {"role": "assistant", "content": "Yes"},
            ],
        ),
        # OpenAI
        (
            {
                "messages": [
                    {"role": "developer", "content": "Be kind."},
                    {
                        "role": "user",
                        "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                    },
                    {"role": "assistant", "content": "Hello", "refusal": None, "weight": 1},
                ]
            },
            [SYSTEM, *TALK],
        ),
        (
            {
                "messages": [
                    TALK[0],
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "call_1",
                                "type": "function",
                                "function": {"name": "look", "arguments": '{"at": "door"}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "call_1", "content": "open"},
                ]
            },
            [
                TALK[0],
                {**CALLING, "tool_calls": [{**CALL, "id": "call_1"}]},
                {"role": "tool", "content": "open", "tool_call_id": "call_1"},
            ],
        ),
        (
            {"messages": [TALK[0], {"role": "assistant", "function_call": CALL["function"]}]},
            [TALK[0], CALLING],
        ),
        (
            {"messages": [TALK[0], {**TALK[1], "reasoning": "A greeting."}]},
            [TALK[0], {**TALK[1], "reasoning_content": "A greeting."}],
        ),
    ],
)
def test_each_form_becomes_the_same_messages(row, messages):
    assert rendered(row) == messages


@pytest.mark.parametrize(
    ("mark", "trained"),
    [
        ({"weight": 0}, False),
        ({"train": False}, False),
        ({"loss": 0.0}, False),
        ({"weight": 1}, None),
    ],
)
def test_a_weight_of_nothing_makes_context(mark, trained):
    messages = read({"messages": [{**TALK[0], "weight": 0}, {**TALK[1], **mark}]}).messages
    assert [message.get("trained") for message in messages] == [None, trained]


def test_tools_of_a_row_are_kept_as_json():
    tools = [{"type": "function", "function": {"name": "look", "parameters": None}}]
    for row in (
        {"tools": tools},
        {"tools": json.dumps(tools)},
        {"functions": [tools[0]["function"]]},
    ):
        assert json.loads(read({"messages": TALK, **row}).tools) == tools
    assert read({"messages": TALK, "tools": []}).tools is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "Hi"}, "no form that is known: it has the keys 'text'; known are \"messages\""),
        ({"messages": TALK, "images": ["a.png"]}, "the row has 'images': KD Lab distils text"),
        ({"prompt": "Hi", "chosen": "Yes", "rejected": "No"}, "has 'chosen': preferences"),
        ({"prompt": "Hi", "completion": "Bad", "label": False}, "has 'label': preferences"),
        ({"messages": TALK, "weight": 0.5}, "has 'weight': weights stand at messages"),
        ({"messages": [SYSTEM, *TALK], "system": "Be rude."}, "'system' beside a first message"),
        ({"messages": TALK, "tools": "look"}, "tools must be a list, or one in JSON text"),
        ({"prompt": "Hi", "completion": "A", "response": "B"}, "which differ: keep one"),
        ({"instruction": "Hi", "output": 3}, "output.content must be a string, not 3"),
        ({"instruction": "Hi", "history": 5}, "history must be a list, not 5"),
        ({"messages": TALK, "tools": [{"name": "\ud83d"}]}, "surrogates not allowed"),
        ({"messages": TALK, "tools": '[{"name": "a", "name": "b"}]'}, "'name' is given twice"),
    ],
)
def test_a_row_that_cannot_be_followed_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        read(row)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ({**TALK[1], "weight": 0.5}, r"messages\[1\].weight must be 0 or 1"),
        ({**TALK[1], "weight": "0"}, r"messages\[1\].weight must be 0 or 1"),
        ({**TALK[0], "train": True}, r"messages\[1\].train is True, but only answers are trained"),
        (
            {**TALK[1], "loss_mask": 0},
            r"messages\[1\] has 'loss_mask', which is not known.*--ignore_keys",
        ),
        ({**TALK[1], "refusal": "No."}, "has 'refusal'"),
        ({**TALK[1], "audio": {"id": "a"}}, "has 'audio'"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
            r"messages\[1\].content\[0\] is a part of type image_url: KD Lab distils text",
        ),
        ({"role": "assistant", "content": None}, r"content must be a string, not null"),
        ({"role": "user", "content": "Hi", "tool_calls": [CALL]}, "only assistants call tools"),
        ({**CALLING, "tool_calls": [{"function": {}}]}, "must have a function with a name"),
        (
            {**CALLING, "tool_calls": [{"function": {"name": "look", "arguments": "{"}}]},
            r"tool_calls\[0\]: its arguments are not JSON",
        ),
        ({"from": "function_call", "value": "look"}, "must be a call in JSON text"),
        (
            {**TALK[0], "from": "gpt"},
            r"messages\[1\] has 'role' and 'from', which differ: keep one",
        ),
        ({**TALK[0], "value": "other"}, r"has 'content' and 'value', which differ: keep one"),
        ({**CALLING, "value": "Hello"}, r"has 'content' and 'value', which differ: keep one"),
        ({**TALK[1], "weight": 1, "loss": 0}, r"has 'weight' and 'loss', which differ: keep one"),
        (
            {**CALLING, "tool_calls": [{"name": "look", "parameters": {"at": "door"}}]},
            r"tool_calls\[0\] has 'parameters', which is not known",
        ),
        (
            {**CALLING, "tool_calls": [{"name": "look", "arguments": '{"at": 1, "at": 2}'}]},
            r"its arguments are not JSON: the key 'at' is given twice \(1 and 2\)",
        ),
        ({"role": "narrator", "content": "Hi"}, "is 'narrator', not system, user, assistant, tool"),
    ],
)
def test_a_message_that_cannot_be_followed_is_refused(turn, message):
    with pytest.raises(ValueError, match=message):
        read({"messages": [TALK[0], turn]})


@pytest.mark.parametrize(
    "asked",
    [
        {"role": "user", "from": "human", "content": "Hi", "value": "Hi"},
        {"role": None, "from": "human", "content": None, "value": "Hi"},  # a table's empty columns
    ],
)
def test_both_spellings_of_one_field_may_say_the_same(asked):
    assert rendered({"messages": [asked, TALK[1]]}) == TALK


def test_keys_that_change_nothing_can_be_left_alone():
    row = {"messages": [TALK[0], {**TALK[1], "mood": "fine"}], "chosen": "x"}
    assert rendered_with(row, "mood", "chosen") == TALK


def rendered_with(row, *ignore_keys):
    return [template_message(message) for message in read(row, *ignore_keys).messages]


def test_what_was_taken_and_what_was_left_alone_is_told():
    forms = FormReader()
    forms.read({"messages": TALK, "prompt": "Hi", "source": "web", "score": None})
    assert forms.notes() == [
        "took messages and passed over 'prompt' (1 rows)",
        "did not use the keys 'source' (1 rows)",
    ]
    forms.read({"conversations": [{"from": "human", "value": "Hi"}]})
    assert forms.notes()[0] == "took the form messages: 1 rows; ShareGPT conversations: 1 rows"
    assert FormReader().notes() == []


def test_nulls_that_parquet_fills_in_are_no_arguments():
    filled = {"at": "door", "to": None}
    calling = {**CALLING, "tool_calls": [{"function": {"name": "look", "arguments": filled}}]}
    [_, message] = read(without_filled_nulls({"messages": [TALK[0], calling]})).messages
    assert template_message(message) == CALLING


def test_a_written_row_is_read_as_it_was():
    row = {"messages": [TALK[0], {**CALLING, "weight": 0}, {"role": "tool", "content": "open"}]}
    conversation = read({**row, "tools": [{"name": "look"}]})
    assert read(json_row(*conversation)) == conversation
