"""The bytes of a stored teacher: those counted are those of the files."""

from evidence.stored_teacher import counted, measured
from tests.helpers.toy_pair import TOKENIZER, toy_model


def test_a_stored_teacher_takes_what_is_counted(tmp_path):
    width = 32
    toy_model(width).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    sizes = counted(width, len(TOKENIZER))
    files = measured(tmp_path, conversations=400)
    for signal in ("hidden", "topk"):
        # Besides the signal: five bytes a token of the rows, which are twice the trained ones.
        rows_bytes = files[signal] - sizes[signal]["bytes"]
        assert 5 < rows_bytes < 15
    assert counted(3584, 151_665)["topk"] == {"bytes": 388, "gigabytes": 388 * 24e6 / 1e9}
