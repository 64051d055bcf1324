"""Texts from wherever they lie, as documents, one after the other.

A name in, strings out. Nothing is kept: a file is read line by line, a data set row by row, so that a corpus may be
larger than memory. What a name means is found before the first document is given, so that a mistake in the last name
does not show after an hour.
"""

import codecs
import csv
import json
import os
import reprlib
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pellucid.base.errors import ArgumentError, CheckpointError, UnknownNameError, nearest
from pellucid.base.optional import optional
from pellucid.text.made import MadeText

ENDINGS = {".txt": "text", ".md": "text", ".csv": "csv", ".jsonl": "jsonl"}
HUB, MADE = "hub:", "made:"
COLUMN, SPLIT = "text", "train"

_HAVE_COLUMNS = {"csv", "jsonl", "saved", "saved splits", "hub"}
_HAVE_SPLITS = {"saved splits", "hub"}

_LONGEST_CELL = 2**31 - 1
_CELLS = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Corpus:
    r"""Documents, read anew each time it is iterated over.

    They come as they stand in the file, line ends included; those without anything but white space are passed over.

    Args:
        source: One or several of these, read in this order:

            - a text file (``.txt``, ``.md``), which is one document;
            - a ``.csv`` or ``.jsonl`` file, a document a row;
            - a folder: all such files in it and below, in the order of their paths; other files are passed over;
            - a folder that `datasets` wrote (``save_to_disk``);
            - ``hub:OWNER/NAME`` or ``hub:OWNER/NAME/CONFIG`` (or ``hub:NAME`` for a name without owner): a data set
              of the Hugging Face hub, read while it is fetched;
            - ``made:N``: N documents that are made here by rules; see `pellucid.text.made`.
        column: Of a CSV or JSONL file or a data set, that with the text; None: ``text``.
        split: Of a data set; None: ``train``.
        documents: Read at most so many; None: all.
        longest: Cut a text of more characters than this, at the first line end behind so many, into several documents;
            None: as it is. A file that holds a whole book, or all articles, so becomes documents some of which can be
            held out.

    Raises:
        ArgumentError: No source, or `documents` or `longest` below 1; when iterated over, a file of an unknown ending,
            a name that fits two things, `column` or `split` that none of the sources has a use for.
        CheckpointError: When iterated over: a file or a data set that cannot be read as what it should be (the
            message tells the line), or no document at all.
        UnknownNameError: When iterated over: no such column or split.
        MissingExtraError: When iterated over: `datasets` is needed and not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
        ...     _ = Path(folder, "whole.txt").write_text("three")
        ...     list(Corpus(source=folder))
        ['one', 'two', 'three']
    """

    source: str | tuple[str, ...]
    column: str | None = None
    split: str | None = None
    documents: int | None = None
    longest: int | None = None

    def __post_init__(self) -> None:
        if not self._names or "" in self._names:
            raise ArgumentError(f"source must name files, folders or data sets, got {self.source!r}; name one.")
        for name, most in (("documents", self.documents), ("longest", self.longest)):
            if most is not None and most < 1:
                raise ArgumentError(f"{name} must be 1 or more, got {most}; None reads all.")

    def __iter__(self) -> Iterator[str]:
        parts = [part for name in self._names for part in _parts(name)]
        kinds = {part.kind for part in parts}
        if self.column is not None and not kinds & _HAVE_COLUMNS:
            raise ArgumentError(
                f"column must be left out for text files, which have none, got column={self.column!r} for "
                f"{', '.join(self._names)}; it serves .csv and .jsonl files and data sets."
            )
        if self.split is not None and not kinds & _HAVE_SPLITS:
            raise ArgumentError(
                f"split must be left out for what has no splits, got split={self.split!r} for "
                f"{', '.join(self._names)}; it serves data sets of the hub and saved ones that hold several."
            )
        return self._read(parts)

    def _read(self, parts: "list[_Part]") -> Iterator[str]:
        column = COLUMN if self.column is None else self.column
        split = SPLIT if self.split is None else self.split
        whole = (text for part in parts for text in part.texts(column, split))
        texts = (text for one in whole for text in _cut(one, self.longest) if text and not text.isspace())
        n = 0
        for text in islice(texts, self.documents):
            n += 1
            yield text
        if not n:
            raise CheckpointError(f"{', '.join(self._names)} must hold one document at least, got none with any text")

    @property
    def _names(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


def _cut(text: str, longest: int | None) -> Iterator[str]:
    """A text in pieces that together are the text."""
    while longest is not None and len(text) > longest:
        end = text.find("\n", longest)
        if end < 0:
            break
        yield text[: end + 1]
        text = text[end + 1 :]
    yield text


@dataclass(frozen=True)
class _Part:
    """One thing to read, and as what."""

    place: Path | str
    kind: str

    def texts(self, column: str, split: str) -> Iterator[str]:
        """Every text in it, blank ones included."""
        if self.kind == "made":
            yield from MadeText(documents=int(str(self.place)))
            return
        if isinstance(self.place, Path) and self.kind == "text":
            yield _whole(self.place)
            return
        for at, cell in self._cells(column, split):
            if not isinstance(cell, str):
                raise CheckpointError(f"{at}: the column {column} must be text, got {reprlib.repr(cell)}")
            if not _is_unicode(cell):
                raise CheckpointError(
                    f"{at}: the column {column} must be valid Unicode, got half a character (a lone surrogate) in "
                    f"{reprlib.repr(cell)}; mend or leave out that row."
                )
            yield cell

    def _cells(self, column: str, split: str) -> Iterator[tuple[str, Any]]:
        if isinstance(self.place, str):
            return _rows(self.place, _streamed(self.place, split), column)
        if self.kind == "csv":
            return _csv(self.place, column)
        if self.kind == "jsonl":
            return _jsonl(self.place, column)
        return _rows(str(self.place), _saved(self.place, split), column)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# What a name means


def _parts(name: str) -> list[_Part]:
    if name.startswith(MADE):
        number = name.removeprefix(MADE)
        if not number.isdecimal() or not int(number):
            raise ArgumentError(f"text that is made here must be {MADE}N, a number of documents, got {name!r}")
        return [_Part(number, "made")]
    if name.startswith(HUB):
        _check_hub_name(name)
        return [_Part(name, "hub")]
    path = Path(name)
    if not path.exists():
        raise CheckpointError(
            f"{name} must be a file or a folder that exists, there is none; for a data set of the hub write {HUB}{name}"
        )
    if path.is_dir():
        return _in_folder(path)
    kind = ENDINGS.get(path.suffix.lower())
    if kind is None:
        raise ArgumentError(f"{name} must be a {_endings()} file or a folder, got the ending {path.suffix!r}")
    return [_Part(path, kind)]


def _in_folder(folder: Path) -> list[_Part]:
    if (folder / "dataset_dict.json").is_file():
        return [_Part(folder, "saved splits")]
    if all((folder / name).is_file() for name in ("dataset_info.json", "state.json")):
        return [_Part(folder, "saved")]
    found: dict[str, _Part] = {}
    # Not rglob, which passes over a folder that cannot be read without a word.
    for at, _, names in os.walk(folder, onerror=_cannot_be_read):
        for path in (Path(at, name) for name in names):
            if path.suffix.lower() in ENDINGS:
                found[path.relative_to(folder).as_posix()] = _Part(path, ENDINGS[path.suffix.lower()])
    if not found:
        raise CheckpointError(
            f"{folder} must hold {_endings()} files, or what save_to_disk of `datasets` wrote, it has none"
        )
    return [found[name] for name in sorted(found)]


def _endings() -> str:
    *others, last = ENDINGS
    return f"{', '.join(others)} or {last}"


def _cannot_be_read(error: OSError) -> None:
    raise CheckpointError(f"{error.filename} must be readable, got: {error.strerror}") from error


def _check_hub_name(name: str) -> None:
    parts = name.removeprefix(HUB).split("/")
    if not all(parts) or len(parts) > 3:
        raise ArgumentError(f"a data set of the hub must be {HUB}OWNER/NAME or {HUB}OWNER/NAME/CONFIG, got {name!r}")
    here = "/".join(parts[:2])
    if Path(here).exists():  # `datasets` would take it instead of the hub's
        raise ArgumentError(f"{name} must mean one thing, and {here} is here too; name that without {HUB}, or move it.")


# Files


def _whole(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _not_readable(path, error) from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, 1 + error.object[: error.start].count(b"\n"), error) from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The file's lines, split at line feeds only: other line ends may stand inside a cell."""
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, _decoded(path, number, raw)
    except OSError as error:
        raise _not_readable(path, error) from error


def _decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return (raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw).decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error) from error


def _not_readable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} must be readable, got: {error.strerror or error}")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> CheckpointError:
    byte = error.object[error.start]
    return CheckpointError(f"{path}, line {line}: must be UTF-8, got the byte 0x{byte:02x}; write the file as UTF-8.")


def _jsonl(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    for line, text in _lines(path):
        at = f"{path}, line {line}"
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{at}: must be JSON, got: {error}") from error
        if not isinstance(row, dict):
            raise CheckpointError(f"{at}: must be an object with the column {column}, got {reprlib.repr(row)}")
        _check_column(at, column, row)
        yield at, row[column]


def _csv(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    reader = csv.reader((text for _, text in _lines(path)), strict=True)
    header = _next_row(reader, f"{path}, line 1")
    if not header:
        raise CheckpointError(f"{path}, line 1: must have the names of the columns, got nothing")
    _check_column(f"{path}, line 1", column, header)
    if header.count(column) > 1:
        raise CheckpointError(
            f"{path}, line 1: must have the column {column} once, got it {header.count(column)} times"
        )
    place = header.index(column)
    while True:
        at = f"{path}, line {reader.line_num + 1}"
        row = _next_row(reader, at)
        if row is None:
            return
        if row and len(row) != len(header):
            raise CheckpointError(f"{at}: must have a cell for each of {len(header)} columns, got {len(row)} cells")
        if row:  # else a blank line
            yield at, row[place]


def _next_row(reader: Any, at: str) -> list[str] | None:
    """The next row, whatever the size of its cells.

    `csv` refuses cells of more than 128 KiB, and its limit is one for the whole process: it is lifted while a row is
    read, and then set back. The lock is against another thread's Corpus, which would set back too early.
    """
    with _CELLS:
        limit = csv.field_size_limit(_LONGEST_CELL)
        try:
            return next(reader, None)
        except csv.Error as error:
            raise CheckpointError(f"{at}: must be a row of CSV, got: {error}") from error
        finally:
            csv.field_size_limit(limit)


def _check_column(at: str, column: str, found: Iterable[str]) -> None:
    found = list(found)
    if column not in found:
        raise UnknownNameError(f"{at}: must have the column {column!r}{nearest(column, found)}; choose by column=")


# Data sets


def _saved(folder: Path, split: str) -> Any:
    datasets = optional("datasets", extra="train")
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise CheckpointError(f"{folder} must be a data set that `datasets` saved, got: {_one_line(error)}") from error
    if not isinstance(data, dict):
        return data
    if split not in data:
        raise UnknownNameError(f"{folder} must have the split {split!r}{nearest(split, data)}; choose by split=")
    return data[split]


def _streamed(name: str, split: str) -> Any:
    datasets = optional("datasets", extra="train")
    owner_and_name, config = name.removeprefix(HUB).split("/")[:2], name.removeprefix(HUB).split("/")[2:]
    try:
        return datasets.load_dataset("/".join(owner_and_name), *config, split=split, streaming=True)
    except Exception as error:
        raise CheckpointError(
            f"{name} must be a data set that can be reached and has the split {split!r}, got: {_one_line(error)}; "
            "check the name, the split and the network."
        ) from error


def _rows(place: str, data: Any, column: str) -> Iterator[tuple[str, Any]]:
    names = data.column_names  # None: `datasets` knows them only when it has seen a row
    if names is not None:
        _check_column(place, column, names)
        data = data.select_columns([column])  # nothing else is decoded
    for number, row in enumerate(_pulled(place, data.with_format(None)), start=1):
        at = f"{place}, row {number}"
        _check_column(at, column, row)
        yield at, row[column]


def _pulled(place: str, data: Any) -> Iterator[dict[str, Any]]:
    n = 0
    try:
        for row in data:
            n += 1
            yield row
    except Exception as error:
        raise CheckpointError(f"{place} must be readable to its end, got after row {n}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
