"""One reader for texts from files, folders and data sets."""

import csv
import json
import os
import re
import sys
import threading

import datasets
import pytest
from datasets import Dataset, DatasetDict, IterableDataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, CheckpointError, MissingExtraError, UnknownNameError
from pellucid.text.corpus import Corpus

property_test = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
words = st.text(st.characters(codec="utf-8"), max_size=20)


def texts(*sources, **options):
    return list(Corpus(source=tuple(map(str, sources)), **options))


@pytest.fixture
def file(tmp_path):
    """Writes a file, from text or bytes."""

    def write(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def refused():
    """What iterating over a corpus says."""

    def told(error, *sources, **options):
        with pytest.raises(error) as caught:
            texts(*sources, **options)
        return str(caught.value)

    return told


@pytest.fixture
def saved(tmp_path):
    """Saves a data set as `datasets` does."""
    datasets.disable_progress_bars()

    def save(data):
        data.save_to_disk(tmp_path / "saved")
        return tmp_path / "saved"

    return save


# Text files


@pytest.mark.parametrize("name", ["a.txt", "a.md", "A.TXT"])
def test_a_text_file_is_one_document_as_it_stands(file, name):
    assert texts(file(name, "one\r\ntwo\n\n\tthree ")) == ["one\r\ntwo\n\n\tthree "]


def test_a_mark_of_the_byte_order_is_no_text(file):
    assert texts(file("a.txt", b"\xef\xbb\xbfone")) == ["one"]
    assert texts(file("a.jsonl", b'\xef\xbb\xbf{"text": "one"}')) == ["one"]
    assert texts(file("a.csv", b"\xef\xbb\xbftext\none")) == ["one"]


def test_several_sources_are_read_in_the_order_given(file):
    b, a = file("b.txt", "b"), file("a.txt", "a")
    assert texts(b, a, b) == ["b", "a", "b"]
    assert list(Corpus(source=str(b))) == ["b"]


def test_a_corpus_is_read_anew_each_time(file):
    corpus = Corpus(source=str(file("a.txt", "a")))
    assert [list(corpus), list(corpus)] == [["a"], ["a"]]


def test_documents_of_white_space_are_passed_over_and_not_counted(file):
    rows = file("a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in ["", " \n", "one", "\t", "two"]))
    assert texts(file("blank.txt", " \n"), rows) == ["one", "two"]
    assert texts(rows, documents=1) == ["one"]


def test_nothing_is_read_behind_the_last_document_asked_for(file):
    rows = file("a.jsonl", '{"text": "one"}\nbroken\n')
    assert texts(rows, documents=1) == ["one"]
    first = iter(Corpus(source=str(rows)))
    assert next(first) == "one"
    with pytest.raises(CheckpointError):
        next(first)


# Rows


@property_test
@given(st.lists(words), st.booleans())
def test_documents_of_jsonl_come_back(file, documents, ascii_only):
    lines = [json.dumps({"n": 1, "text": text}, ensure_ascii=ascii_only) for text in [*documents, "end"]]
    path = file("a.jsonl", "\n\n".join(lines))
    assert texts(path) == [text for text in documents if text.strip()] + ["end"]


@property_test
@given(st.lists(words))
def test_documents_of_csv_come_back(tmp_path, documents):
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([["n", "text"], *([i, text] for i, text in enumerate([*documents, "end"]))])
    assert texts(path) == [text for text in documents if text.strip()] + ["end"]


def test_another_column_is_named(file):
    assert texts(file("a.csv", "text,body\n1,one\n\n2,two\n"), column="body") == ["one", "two"]
    assert texts(file("a.jsonl", '{"text": "1", "body": "one"}'), column="body") == ["one"]


def test_a_column_serves_those_sources_that_have_columns(file):
    assert texts(file("a.txt", "a"), file("a.csv", "body\nb\n"), column="body") == ["a", "b"]


def test_cells_of_csv_may_be_large_and_the_limit_of_the_process_stays(file):
    before = csv.field_size_limit()
    large = "word " * before
    path = file("a.csv", f'n,text\n1,"{large}"\n2,small\n')
    seen = []
    for text in Corpus(source=str(path)):
        seen.append(text)
        assert csv.field_size_limit() == before
    assert seen == [large, "small"]


def test_corpora_with_large_cells_are_read_in_threads_together(file):
    before = csv.field_size_limit()
    path, read = file("a.csv", "text\n" + f"{'x' * (before + 1)}\n" * 20), []
    threads = [threading.Thread(target=lambda: read.append(len(texts(path)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [20] * 4
    assert csv.field_size_limit() == before


# Folders


def test_a_folder_is_read_by_relative_path_and_other_files_are_passed_over(file, tmp_path):
    for name in ("b/2.txt", "b/1.md", "a.csv", "c.jsonl", "b.txt"):
        file(f"all/{name}", {"a.csv": "text\na", "c.jsonl": '{"text": "c"}'}.get(name, name))
    file("all/image.png", b"\x89PNG")
    file("all/state.json", "{}")
    assert texts(tmp_path / "all") == ["a", "b.txt", "b/1.md", "b/2.txt", "c"]


def test_a_folder_without_texts_is_refused(file, tmp_path, refused):
    file("image.png", b"\x89PNG")
    assert refused(CheckpointError, tmp_path) == (
        f"{tmp_path} must hold .txt, .md, .csv or .jsonl files, or what save_to_disk of `datasets` wrote, it has none"
    )


def test_a_folder_that_cannot_be_read_is_refused(file, tmp_path, refused, monkeypatch):
    file("all/a.txt", "a")
    walk = os.walk

    def failing(top, onerror):
        yield from walk(top)
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))

    monkeypatch.setattr(os, "walk", failing)
    assert refused(CheckpointError, tmp_path) == f"{tmp_path}/closed must be readable, got: Permission denied"


# Data sets


def test_a_saved_data_set_is_read(saved):
    folder = saved(Dataset.from_dict({"n": [1, 2, 3], "text": ["one", " ", "two"]}))
    assert texts(folder) == ["one", "two"]


def test_a_saved_data_set_is_read_as_plain_text_whatever_its_format(saved):
    folder = saved(Dataset.from_dict({"text": ["one", "two"]}).with_format("numpy"))
    assert [type(text) for text in texts(folder)] == [str, str]


def test_a_split_of_a_saved_data_set_is_train_unless_it_is_named(saved):
    folder = saved(DatasetDict({name: Dataset.from_dict({"body": [name]}) for name in ("train", "test")}))
    assert texts(folder, column="body") == ["train"]
    assert texts(folder, column="body", split="test") == ["test"]


def test_a_split_that_a_saved_data_set_lacks_is_refused(saved, refused):
    folder = saved(DatasetDict(train=Dataset.from_dict({"text": ["one"]})))
    assert refused(UnknownNameError, folder, split="trian") == (
        f"{folder} must have the split 'trian'; nearest: train; choose by split="
    )


def test_a_column_that_a_saved_data_set_lacks_is_refused(saved, refused):
    folder = saved(Dataset.from_dict({"txt": ["one"], "n": [1]}))
    assert refused(UnknownNameError, folder) == (
        f"{folder}: must have the column 'text'; nearest: txt; choose by column="
    )


@pytest.mark.parametrize(("cell", "shown"), [(None, "None"), (["a"], "['a']"), (7, "7")])
def test_a_cell_of_a_data_set_that_is_no_text_is_refused(saved, refused, cell, shown):
    folder = saved(Dataset.from_dict({"text": [cell]}))
    assert refused(CheckpointError, folder) == f"{folder}, row 1: the column text must be text, got {shown}"


def test_a_damaged_data_set_is_refused(saved, refused):
    folder = saved(Dataset.from_dict({"text": ["one"]}))
    (folder / "state.json").write_text("{")
    told = refused(CheckpointError, folder)
    assert told.startswith(f"{folder} must be a data set that `datasets` saved, got: ")
    assert "\n" not in told


@pytest.fixture
def hub(monkeypatch):
    """What stands in for the hub: gives the rows it was given, and notes how it was asked."""
    asked = []

    def answer(rows, features=None):
        def load(*names, **options):
            asked.append((names, options))
            return IterableDataset.from_generator(rows, features=features)

        monkeypatch.setattr(datasets, "load_dataset", load)
        return asked

    return answer


def test_a_data_set_of_the_hub_is_streamed(hub):
    def rows():
        yield {"text": "one", "n": 1}
        yield {"text": "two", "n": 2}
        raise AssertionError("no more was asked for")

    asked = hub(rows)
    assert texts("hub:owner/name", documents=2) == ["one", "two"]
    assert asked == [(("owner/name",), {"split": "train", "streaming": True})]


@pytest.mark.parametrize("known", [None, {"body": "string", "n": "int64"}])
def test_configuration_split_and_column_of_the_hub_are_named(hub, known):
    features = None if known is None else datasets.Features({k: datasets.Value(v) for k, v in known.items()})
    asked = hub(lambda: iter([{"body": "one", "n": 1}]), features)
    assert texts("hub:owner/name/configuration", split="test", column="body") == ["one"]
    assert texts("hub:name", column="body") == ["one"]
    assert [names for names, _ in asked] == [("owner/name", "configuration"), ("name",)]
    assert [options["split"] for _, options in asked] == ["test", "train"]


def test_a_column_that_a_data_set_of_the_hub_lacks_is_refused(hub, refused):
    hub(lambda: iter([{"txt": "one"}]))
    assert refused(UnknownNameError, "hub:a/b") == (
        "hub:a/b, row 1: must have the column 'text'; nearest: txt; choose by column="
    )


def test_a_data_set_that_breaks_off_is_refused(hub, refused):
    def rows():
        yield {"text": "one"}
        raise ConnectionError("gone\naway")

    hub(rows)
    told = refused(CheckpointError, "hub:a/b")
    assert re.fullmatch(r"hub:a/b must be readable to its end, got after row 1: .*gone away.*", told)


def test_a_data_set_that_cannot_be_reached_is_refused(refused):
    told = refused(CheckpointError, "hub:nobody/nothing")
    assert told.startswith("hub:nobody/nothing must be a data set that can be reached and has the split 'train', got: ")
    assert told.endswith("; check the name, the split and the network.")
    assert "\n" not in told


@pytest.mark.parametrize("name", ["hub:", "hub:a//b", "hub:a/b/c/d", "hub:/a"])
def test_a_name_that_the_hub_cannot_have_is_refused(refused, name):
    assert refused(ArgumentError, name) == (
        f"a data set of the hub must be hub:OWNER/NAME or hub:OWNER/NAME/CONFIG, got {name!r}"
    )


def test_a_name_of_the_hub_that_is_a_folder_here_too_is_refused(file, tmp_path, refused, monkeypatch):
    file("owner/name/a.txt", "a")
    monkeypatch.chdir(tmp_path)
    assert refused(ArgumentError, "hub:owner/name/x") == (
        "hub:owner/name/x must mean one thing, and owner/name is here too; name that without hub:, or move it."
    )


@pytest.mark.parametrize("name", ["hub:a/b", "saved"])
def test_a_data_set_needs_datasets(saved, refused, monkeypatch, name):
    source = name if name != "saved" else saved(Dataset.from_dict({"text": ["one"]}))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refused(MissingExtraError, source) == (
        "datasets must be installed for this; run: pip install 'pellucid[train]'"
    )


# What is refused


def test_a_corpus_without_a_source_is_refused():
    for source in ((), "", ("a.txt", "")):
        with pytest.raises(ArgumentError) as caught:
            Corpus(source=source)
        assert str(caught.value) == f"source must name files, folders or data sets, got {source!r}; name one."


def test_less_than_one_document_is_refused():
    with pytest.raises(ArgumentError, match=r"^documents must be 1 or more, got 0; None reads all\.$"):
        Corpus(source="a.txt", documents=0)


def test_a_missing_file_is_refused_before_anything_is_read(file):
    with pytest.raises(CheckpointError) as caught:
        iter(Corpus(source=(str(file("a.txt", "a")), "nowhere/b.txt")))
    assert str(caught.value) == (
        "nowhere/b.txt must be a file or a folder that exists, there is none; "
        "for a data set of the hub write hub:nowhere/b.txt"
    )


def test_an_unknown_ending_is_refused(file, refused):
    path = file("a.parquet", "a")
    assert refused(ArgumentError, path) == (
        f"{path} must be a .txt, .md, .csv or .jsonl file or a folder, got the ending '.parquet'"
    )


def test_a_column_where_there_is_none_is_refused(file, refused):
    path = file("a.txt", "a")
    assert refused(ArgumentError, path, column="body") == (
        f"column must be left out for text files, which have none, got column='body' for {path}; "
        "it serves .csv and .jsonl files and data sets."
    )


def test_a_split_where_there_is_none_is_refused(file, saved, refused):
    for path in (file("a.txt", "a"), file("a.csv", "text\na"), saved(Dataset.from_dict({"text": ["one"]}))):
        assert refused(ArgumentError, path, split="test") == (
            f"split must be left out for what has no splits, got split='test' for {path}; "
            "it serves data sets of the hub and saved ones that hold several."
        )


def test_a_corpus_without_any_text_is_refused(file, refused):
    blank, empty = file("a.txt", " \n"), file("a.jsonl", "")
    assert refused(CheckpointError, blank, empty) == (
        f"{blank}, {empty} must hold one document at least, got none with any text"
    )


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.txt", b"\xef\xbb\xbfone\ntwo\n\xe9t\xe9\n", 3),
        ("a.md", b"caf\xe9\n", 1),
        ("a.csv", b'n,text\n1,"one\ntwo"\n2,caf\xe9\n', 4),
        ("a.jsonl", b'{"text": "one"}\n{"text": "caf\xe9"}\n', 2),
    ],
)
def test_a_file_that_is_not_utf8_is_refused(file, refused, name, content, line):
    path = file(name, content)
    assert refused(CheckpointError, path) == (
        f"{path}, line {line}: must be UTF-8, got the byte 0xe9; write the file as UTF-8."
    )


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, refused, name):
    (tmp_path / name).symlink_to(tmp_path / "gone")
    assert refused(CheckpointError, tmp_path) == f"{tmp_path / name} must be readable, got: No such file or directory"


def test_a_missing_column_is_refused_with_the_nearest(file, refused):
    path = file("a.csv", "label,texts\n1,one\n")
    assert refused(UnknownNameError, path) == (
        f"{path}, line 1: must have the column 'text'; nearest: texts; choose by column="
    )
    path = file("a.jsonl", '{"text": "one"}\n{"body": "two"}\n')
    assert refused(UnknownNameError, path) == (
        f"{path}, line 2: must have the column 'text'; there is: body; choose by column="
    )


@pytest.mark.parametrize(("cell", "shown"), [(None, "None"), (7, "7"), (["a", "b"], "['a', 'b']")])
def test_a_cell_of_jsonl_that_is_no_text_is_refused(file, refused, cell, shown):
    path = file("a.jsonl", json.dumps({"text": "one"}) + "\n" + json.dumps({"text": cell}))
    assert refused(CheckpointError, path) == f"{path}, line 2: the column text must be text, got {shown}"


def test_half_a_character_is_refused(file, refused):
    path = file("a.jsonl", r'{"text": "a\ud83d"}')
    assert refused(CheckpointError, path) == (
        f"{path}, line 1: the column text must be valid Unicode, got half a character (a lone surrogate) in "
        r"'a\ud83d'; mend or leave out that row."
    )
    assert texts(file("b.jsonl", r'{"text": "a\ud83d\ude00"}')) == ["a😀"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('{"text": ', "Expecting value: line 1 column 10 (char 9)"),
        ('{"text": "one"} x', "Extra data: line 1 column 17 (char 16)"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_broken_line_of_jsonl_is_refused(file, refused, line, found):
    path = file("a.jsonl", '\n{"text": "one"}\n' + line)
    assert refused(CheckpointError, path).startswith(f"{path}, line 3: must be JSON, got: {found}")


def test_a_line_of_jsonl_that_is_no_object_is_refused(file, refused):
    path = file("a.jsonl", '["one"]')
    assert refused(CheckpointError, path) == (f"{path}, line 1: must be an object with the column text, got ['one']")


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        ("", 1, "must have the names of the columns, got nothing"),
        ("text,n,text\n", 1, "must have the column text once, got it 2 times"),
        ('n,text\n1,"a\nb"\n2,a,b\n', 4, "must have a cell for each of 2 columns, got 3 cells"),
        ("n,text\n1\n", 2, "must have a cell for each of 2 columns, got 1 cells"),
        ('n,text\n1,"a\nb\n', 2, "must be a row of CSV, got: unexpected end of data"),
        ('n,text\n1,"a"b\n', 2, "must be a row of CSV, got: ',' expected after '\"'"),
    ],
)
def test_a_broken_csv_is_refused(file, refused, content, line, told):
    path = file("a.csv", content)
    assert refused(CheckpointError, path) == f"{path}, line {line}: {told}"


# Real texts


def test_wikitext_is_read_as_it_lies_there(shared):
    folder = shared / "data" / "wikitext-2"
    assert texts(folder) == [(folder / name).read_bytes().decode() for name in ("test.txt", "valid.txt")]


def test_the_reviews_of_imdb_are_read(shared):
    path = shared / "data" / "imdb" / "sample.csv"
    with path.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert len(rows) == 4000
    assert texts(path) == [row["text"] for row in rows]
    assert texts(path, documents=7, column="label") == [row["label"] for row in rows[:7]]
