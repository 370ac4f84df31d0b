"""JSON that people write: the values of the standard library, and no key twice."""

import json

import pytest

from kd_lab.json_text import GivenTwice, from_json, item_given_twice


@pytest.mark.parametrize(
    "text", ['{"a": {"a": [1, 2.5, null]}, "b": "é"}', "[{}, {}]", '"\\ud83d"', " 3 "]
)
def test_values_are_those_of_the_standard_library(text):
    assert from_json(text) == from_json(text.encode("utf-8-sig")) == json.loads(text)


def test_a_key_given_twice_is_named_with_its_values():
    with pytest.raises(GivenTwice, match=r"the key 'b' is given twice \(2 and \[3\]\): keep one"):
        from_json('{"a": {"b": 2, "c": 1, "b": [3]}}')
    with pytest.raises(GivenTwice, match=r'\("x{36}\.\.\. and 1\)'):
        from_json(json.dumps("x" * 99).join(('{"a": ', ', "a": 1}')))


def test_what_is_no_json_is_an_error_as_ever():
    with pytest.raises(json.JSONDecodeError, match="Expecting value: line 2 column 6"):
        from_json(b'{\n"a": ]')


def test_the_item_of_an_array_is_counted_from_one():
    assert item_given_twice(b'[{"a": 1}, 2, [{"a": 1, "a": 2}], {"a": 1, "a": 2}]') == 3
    assert item_given_twice(b'\xef\xbb\xbf\n[ {"a": 1, "a": 2}]') == 1
