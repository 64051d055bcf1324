"""Files of pairs: CSV or JSONL, one pair a line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pellucid.base.errors import CheckpointError, nearest

COLUMNS = ("clean", "corrupted", "answer", "wrong", "group", "frame")
NEEDED = ("clean", "corrupted")


def read_pairs(path: str | Path) -> dict[str, list[Any]]:
    """The columns that a file has, each with a cell for every pair.

    Raises:
        CheckpointError: It cannot be read; a column is missing or unknown, a cell is missing or no text.
    """
    path = Path(path)
    readers = {".csv": _csv, ".jsonl": _jsonl}
    if path.suffix not in readers:
        raise CheckpointError(f"{path} must be a .csv or .jsonl file of pairs, got the ending {path.suffix!r}")
    try:
        rows = list(readers[path.suffix](path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{path} must be a file of text, got: {error}") from error
    if not rows:
        raise CheckpointError(f"{path} must have one pair at least, got none")
    had = [column for column in COLUMNS if any(row.get(column) for _, row in rows)]
    columns: dict[str, list[Any]] = {column: [] for column in had}
    for column in NEEDED:
        if column not in had:
            raise CheckpointError(f"{path} must have the column {column}, got {', '.join(rows[0][1]) or 'none'}")
    for line, row in rows:
        for column in had:
            columns[column].append(_cell(path, line, column, row.get(column)))
    return columns


def _cell(path: Path, line: int, column: str, cell: Any) -> Any:
    several = column in ("answer", "wrong")
    if several and isinstance(cell, str):
        cell = cell.split("|")
    parts = cell if several and isinstance(cell, list) else [cell]
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise CheckpointError(f"{path}, line {line}: {column} must be text, got {cell!r}")
    return cell


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        _check_columns(path, 1, reader.fieldnames or [])
        for row in reader:
            if None in row:
                raise CheckpointError(f"{path}, line {reader.line_num}: has more cells than columns: {row[None]}")
            yield reader.line_num, row


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise CheckpointError(f"{path}, line {line}: must be JSON, got: {error}") from error
        if not isinstance(row, dict):
            raise CheckpointError(f"{path}, line {line}: must be an object with {', '.join(COLUMNS)}, got {text!r}")
        _check_columns(path, line, list(row))
        yield line, row


def _check_columns(path: Path, line: int, found: Any) -> None:
    for column in found:
        if column not in COLUMNS:
            raise CheckpointError(
                f"{path}, line {line}: columns must be known, got {column!r}{nearest(str(column), COLUMNS)}"
            )
