"""What finished jobs gave, in a folder, so that work that was interrupted continues where it stopped.

In: the identity of the work (all that its results depend on), and its jobs. On disk: `manifest.json`, which tells both,
and a safetensors file for each finished job, named by the hash of identity and job. Each is written aside and renamed,
so that a process may be killed at any moment: what is there is whole. (Of a file that was being written then, a hidden
folder beside it may stay; nobody reads it.)

The manifest has the split into jobs, since results are bit-equal for the same split only: who continues takes its jobs.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pellucid.base.errors import ArgumentError, CheckpointError, MisreadWarning, OutputError
from pellucid.base.files import written_aside
from pellucid.base.record import VERSION

MANIFEST = "manifest.json"
FORMAT = "pellucid journal"


class Journal:
    """A folder of results; made by `open`.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal.open(folder, identity={"function": "square"})
        ...     journal.begin([2, 3])
        ...     journal.keep(2, {"square": torch.tensor(4)})
        ...     again = Journal.open(folder, identity={"function": "square"})
        ...     again.jobs, again.read(2), again.read(3)
        ([2, 3], {'square': tensor(4)}, None)
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], made_with: dict[str, Any], jobs: list[Any] | None = None
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.made_with = made_with
        """What may differ without making it other work, but not without changing the last bits of a number."""
        self.jobs = jobs
        """What the work was split into; None: it has not begun."""
        self._names = self._named(jobs or [])

    @classmethod
    def open(cls, folder: str | Path, *, identity: Mapping[str, Any]) -> "Journal":
        """The journal of a folder: a new one, or that of the same work, whose `jobs` are then to be taken.

        Nothing is written yet.

        Args:
            folder: May be missing or empty.
            identity: Which work it is, as JSON values: the name of its function, and every setting that changes a
                result. Pellucid's version is added.

        Raises:
            OutputError: The folder holds the journal of other work, or other files.
            CheckpointError: Its manifest is damaged.
            ArgumentError: `identity` is no JSON.
        """
        folder = Path(folder)
        wanted = _plain({**identity, "version": VERSION}, "the identity of a journal")
        names = _listed(folder)
        if MANIFEST not in names:
            _check_empty(folder, names)
            return cls(folder, wanted, _machinery())
        manifest = _read_manifest(folder / MANIFEST)
        difference = _difference(manifest["identity"], wanted)
        if difference is not None:
            name, found, expected = difference
            raise OutputError(
                f"{folder} must be the journal of the same work, but its {name} is {found}, and here it is {expected}; "
                "choose another folder, or delete this one to begin anew"
            )
        return cls(folder, wanted, manifest["made_with"], manifest["jobs"])

    def begin(self, jobs: Sequence[Any]) -> None:
        """Writes the manifest of new work; of work that continues, makes sure that it can.

        Args:
            jobs: One or several, all different, as JSON values; `self.jobs`, where there are some.

        Raises:
            OutputError: The folder cannot be written to, or its work was split otherwise.
            ArgumentError: Two jobs are alike, or they are no JSON.
        """
        jobs = _plain(list(jobs), "the jobs of a journal")
        if self.jobs is None:
            _check_different(jobs)
            parts = {"identity": self.identity, "made_with": self.made_with, "jobs": jobs}
            with written_aside(self.folder / MANIFEST) as aside:
                aside.write_text(json.dumps({"format": FORMAT, **parts}, indent=1), encoding="utf-8")
            self.jobs, self._names = jobs, self._named(jobs)
        elif _text(jobs) != _text(self.jobs):
            raise OutputError(
                f"{self.folder} must be continued with the {len(self.jobs)} jobs that it was begun with, got "
                f"{len(jobs)}, {_first_other(self.jobs, jobs)}; delete it to begin anew"
            )
        elif not all(map(self.holds, jobs)):
            self._check_continued()

    def holds(self, job: Any) -> bool:
        """Whether a job is finished.

        Raises:
            ArgumentError: It is none of the journal's jobs.
        """
        return self._file(job).exists()

    def read(self, job: Any) -> dict[str, Tensor] | None:
        """What a job gave; None if it is not finished.

        Raises:
            CheckpointError: Its file is damaged.
            ArgumentError: It is none of the journal's jobs.
        """
        file = self._file(job)
        try:
            return load(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{file} must hold what a job gave, got: {error}; delete it, and the job is run again"
            ) from error

    def keep(self, job: Any, result: Mapping[str, Tensor]) -> None:
        """Writes down what a job gave: all of it or nothing.

        Raises:
            OutputError: The folder cannot be written to.
            ArgumentError: It is none of the journal's jobs.
        """
        file = self._file(job)
        parts = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in result.items()}
        with written_aside(file) as aside:
            try:
                aside.write_bytes(save(parts))
            except OSError as error:
                raise OutputError(
                    f"{self.folder} must have room for what a job gave, got: {error}; make room, and run it again: "
                    "finished jobs are kept"
                ) from error

    def _file(self, job: Any) -> Path:
        name = self._name(job)
        if name not in self._names:
            raise ArgumentError(f"a job must be one of those that the journal was begun with, got {_short(job)}")
        return self.folder / name

    def _named(self, jobs: Sequence[Any]) -> frozenset[str]:
        return frozenset(map(self._name, jobs))

    def _name(self, job: Any) -> str:
        whole = _text([self.identity, _plain(job, "a job")])
        return f"{sha256(whole.encode()).hexdigest()[:32]}.safetensors"

    def _check_continued(self) -> None:
        if not os.access(self.folder, os.W_OK):
            raise OutputError(f"{self.folder} must be writable to be continued; copy it to another place")
        difference = _difference(self.made_with, _machinery())
        if difference is not None:
            name, found, now = difference
            warnings.warn(
                f"{self.folder} was begun with {name} {found}, and continues with {now}: results are right, but not "
                "bit-equal to those of a run that was not interrupted",
                MisreadWarning,
                stacklevel=3,
            )


def _machinery() -> dict[str, Any]:
    return {"threads": torch.get_num_threads(), "torch": torch.__version__}


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder} must be a folder for a journal, got: {error}; choose another place") from error


def _check_empty(folder: Path, names: Sequence[str]) -> None:
    others = [name for name in names if not name.startswith(f".{MANIFEST}.")]  # left by whom was killed at once
    if others:
        raise OutputError(
            f"{folder} must be empty or a journal, but it holds {others[0]} and no {MANIFEST}; choose another folder"
        )


def _check_different(jobs: Sequence[Any]) -> None:
    first: dict[str, int] = {}
    for i, job in enumerate(jobs):
        known = first.setdefault(_text(job), i)
        if known != i:
            raise ArgumentError(f"jobs must differ, got {_short(job)} as jobs {known} and {i}; number them")


def _read_manifest(file: Path) -> dict[str, Any]:
    shape = {"identity": dict, "made_with": dict, "jobs": list}
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"no format {FORMAT!r}")
        for name, kind in shape.items():
            if not isinstance(manifest.get(name), kind):
                raise ValueError(f"no {name}")
        _text(manifest)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{file} must be the manifest of a journal, got: {error}; choose another folder, or delete this one to "
            "begin anew"
        ) from error
    return manifest


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any], within: str = "") -> tuple[str, str, str] | None:
    """The first setting that differs, and its two values; None if all are alike."""
    for name in [*expected, *(name for name in found if name not in expected)]:
        there, here = found.get(name), expected.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            deeper = _difference(there, here, f"{within}{name}.")
            if deeper is not None:
                return deeper
        elif _text(there) != _text(here):
            return f"{within}{name}", _short(there), _short(here)
    return None


def _first_other(known: Sequence[Any], jobs: Sequence[Any]) -> str:
    for i, (there, here) in enumerate(zip(known, jobs, strict=False)):
        if _text(there) != _text(here):
            return f"of which job {i} is {_short(here)} and not {_short(there)}"
    return "which are alike as far as both go"


def _plain(value: Any, what: str) -> Any:
    """As a file would give it back."""
    try:
        return json.loads(_text(value))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{what} must be JSON values, got {_short(value)}: {error}") from error


def _text(value: Any) -> str:
    """The same for the same value, in whatever order its parts were given."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 100 else f"{told[:99]}…"
