"""Files of conversations of one's own, for the tests."""

import json

import pyarrow as pa
import pyarrow.parquet as pq


def talk(question, answer="Yes."):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_jsonl(file, *conversations):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps({"messages": m}) + "\n" for m in conversations))
    return str(file)


def write_parquet(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return str(file)


def numbered(count, first=0):
    return [talk(f"What is {i}?", f"A number, {i}.") for i in range(first, first + count)]


def questions(rows):
    return [messages[0]["content"] for messages in rows["messages"]]
