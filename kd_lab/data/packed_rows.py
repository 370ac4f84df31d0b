"""Training rows as four flat arrays, as a cache stores them beside the teacher's signal."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from numpy.typing import NDArray
from safetensors import safe_open

from kd_lab.data.row_kinds import TRAINING_ROW
from kd_lab.files import sha256_of
from kd_lab.vocabulary import IGNORED


class PackedRows(NamedTuple):
    """R rows, their T tokens laid end to end."""

    input_ids: NDArray[np.int32]  # [T]
    trained: NDArray[np.bool_]  # whether the label is the token itself and not -100, [T]
    lengths: NDArray[np.int32]  # of the rows, [R]
    prompt_lengths: NDArray[np.int32]  # [R]

    @classmethod
    def of(cls, rows: Dataset) -> "PackedRows":
        """Pack rows with the columns input_ids, labels and prompt_length."""
        table = rows.with_format("arrow")[:]
        input_ids, labels = (table[name].combine_chunks() for name in ("input_ids", "labels"))
        return cls(
            input_ids.flatten().to_numpy().astype(np.int32),
            labels.flatten().to_numpy() != IGNORED,
            pc.list_value_length(input_ids).to_numpy().astype(np.int32),
            table["prompt_length"].to_numpy().astype(np.int32),
        )

    @classmethod
    def load(cls, path: Path) -> "PackedRows":
        """The rows of a shard."""
        with safe_open(path, "np") as file:
            return cls(*(file.get_tensor(name) for name in cls._fields))

    def unpacked(self) -> Dataset:
        """The rows with the columns input_ids, labels and prompt_length."""
        ends = self.ends().astype(np.int32)
        labels = np.where(self.trained, self.input_ids, np.int32(IGNORED))
        columns: dict[str, Any] = {
            "input_ids": pa.ListArray.from_arrays(ends, self.input_ids),
            "labels": pa.ListArray.from_arrays(ends, labels),
            "prompt_length": self.prompt_lengths,
        }
        return Dataset(pa.table(columns).cast(TRAINING_ROW.arrow_schema))

    def ends(self) -> NDArray[np.int64]:
        """The end of each row, after a 0: [R + 1]."""
        return np.concatenate([[0], self.lengths.cumsum(dtype=np.int64)])

    def select(self, rows: range) -> "PackedRows":
        """Some consecutive rows."""
        ends, of_rows = self.ends(), slice(rows.start, rows.stop)
        of_tokens = slice(ends[rows.start], ends[rows.stop])
        return PackedRows(
            self.input_ids[of_tokens],
            self.trained[of_tokens],
            self.lengths[of_rows],
            self.prompt_lengths[of_rows],
        )

    def predicts_trained(self) -> NDArray[np.bool_]:
        """Bool [T]: whether the row's next token is trained. The signal is stored there."""
        predicts = np.append(self.trained[1:], False)
        predicts[self.ends()[1:] - 1] = False  # a row's last token predicts nothing
        return predicts

    def positions_per_row(self) -> NDArray[np.int64]:
        """How many positions of each row have a signal: [R]."""
        return np.add.reduceat(self.predicts_trained(), self.ends()[:-1], dtype=np.int64)

    def sha256(self) -> str:
        """One hash of everything."""
        return sha256_of(*(array.tobytes() for array in self))
