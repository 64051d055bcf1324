import json

import pytest

from pellucid.base.errors import CheckpointError
from pellucid.tasks.files import read_pairs
from pellucid.tasks.pairs import Pairs
from pellucid.text.vocabulary import integer_vocabulary

ROWS = [
    {"clean": "5 [odd: 7] 9", "corrupted": "5 [odd: 8] 9", "answer": "3|4", "wrong": "1", "group": "a"},
    {"clean": "2 [odd: 7] 9", "corrupted": "2 [odd: 8] 9", "answer": "3", "wrong": "2", "group": "b"},
]


@pytest.fixture
def written(tmp_path):
    """Writes a file of this ending and text."""

    def write(name: str, text: str):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def csv_of(rows, columns=("clean", "corrupted", "answer", "wrong", "group")) -> str:
    return "\n".join([",".join(columns), *(",".join(row[column] for column in columns) for row in rows)])


def jsonl_of(rows) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_both_kinds_of_file_say_the_same(written):
    tokenizer = integer_vocabulary(30)
    several = [{**row, "answer": row["answer"].split("|")} for row in ROWS]
    paths = written("a.csv", csv_of(ROWS)), written("b.jsonl", jsonl_of(ROWS)), written("c.jsonl", jsonl_of(several))
    for path in paths:
        pairs = Pairs.from_file(path, tokenizer)
        assert pairs.clean.tolist() == [[0, 5, 7, 9], [0, 2, 7, 9]]
        assert pairs.answer.tolist() == [[3, 4], [3, -1]] and pairs.wrong.tolist() == [[1], [2]]
        assert pairs.group == ("a", "b") and pairs.positions["odd"].tolist() == [2, 2]


def test_columns_may_be_left_out_and_leading_spaces_are_kept(written):
    columns = read_pairs(written("a.csv", 'clean,corrupted,answer\n"a, b",c d, John\n'))
    assert columns == {"clean": ["a, b"], "corrupted": ["c d"], "answer": [[" John"]]}
    assert "answer" not in read_pairs(written("b.csv", "clean,corrupted,answer\na,b,\n"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "", r"must be a .csv or .jsonl file of pairs, got the ending '.txt'"),
        ("a.csv", "clean,corrupted\n", "must have one pair at least, got none"),
        ("a.csv", "clean,corupted\na,b\n", r"line 1: columns must be known, got 'corupted'; nearest: corrupted"),
        ("a.csv", "clean,answer\na,b\n", "must have the column corrupted, got clean, answer"),
        ("a.csv", "clean,corrupted,answer\na,b,c\nd,e,\n", "line 3: answer must be text, got"),
        ("a.csv", "clean,corrupted\na,b,c\n", r"line 2: has more cells than columns: \['c'\]"),
        ("a.csv", 'clean,corrupted\na,"b\n', "must be a file of text, got"),
        ("a.jsonl", '{"clean": "a", "corrupted": "b"}\n{"clean": ', "line 2: must be JSON, got"),
        ("a.jsonl", "[1]", "line 1: must be an object with clean, corrupted"),
        ("a.jsonl", '{"clean": "a", "corrupted": 5}', "line 1: corrupted must be text, got 5"),
        ("a.jsonl", '{"clean": "a", "corrupted": "b", "answer": ["c", 1]}', "line 1: answer must be text"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(written, name, text, message):
    with pytest.raises(CheckpointError, match=message):
        read_pairs(written(name, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="must be a file of text, got: .*No such file"):
        read_pairs(tmp_path / "no.csv")
