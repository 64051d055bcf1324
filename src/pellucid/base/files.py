"""Writing so that nobody ever finds half a file: write aside, then rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pellucid.base.errors import OutputError


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it when the block ends well and removed when it does not.

    Args:
        path: The file or folder to make. A file that exists is replaced; of a folder that exists, each file
            written is replaced and the others stay.

    Yields:
        A path that does not exist yet: write a file there, or make a folder of that name.

    Raises:
        OutputError: The place cannot be written, or holds a folder where a file was made, or a file where a
            folder was.
    """
    path = Path(path)
    if path.name in ("", ".."):  # no name of their own to write under
        path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise OutputError(f"{path} must be writable, got: {error}; choose another place") from error
    aside = room / path.name
    try:
        yield aside
        try:
            _move(aside, path)
        except OSError as error:
            raise OutputError(f"{path} cannot be replaced by what was written, got: {error}") from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def check_place(path: str | Path, *, folder: bool = False) -> None:
    """Whether `written_aside` could write there, asked before long work; nothing is left behind.

    Args:
        path: The file or folder to make.
        folder: It is to be a folder.

    Raises:
        OutputError: It lies there as the other kind, or its folder cannot be made or written.
    """
    path = Path(path)
    if path.exists() and path.is_dir() != folder:
        kind, found = ("folder", "file") if folder else ("file", "folder")
        raise OutputError(f"{path} must be a {kind}, got a {found} of that name; choose another place")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=there)).rmdir()
    except OSError as error:
        raise OutputError(f"{path} must be writable, got: {error.strerror or error}; choose another place") from error


def clear_abandoned(folder: str | Path, name: str = "*") -> None:
    """Removes what processes that were killed inside `written_aside` left in a folder.

    Args:
        folder: Where they wrote; it need not be there.
        name: What they were about to make there, a file name or a glob pattern.
    """
    for path in Path(folder).glob(f".{name}.{'?' * 8}"):
        shutil.rmtree(path, ignore_errors=True)


def _move(aside: Path, path: Path) -> None:
    if aside.is_dir() and path.is_dir():
        for part in sorted(aside.iterdir()):
            _move(part, path / part.name)
    else:
        os.replace(aside, path)
