"""What every study gives: named figures, the Measurements that they come from, and one folder that holds both.

A figure that a model cannot have is null with its reason, never left out and never a NaN. Paths in `result.json` are
relative to it, so that the folder can be moved.
"""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pellucid.base.errors import ArgumentError, OutputError
from pellucid.base.files import written_aside
from pellucid.base.record import Record
from pellucid.measurement import Measurement
from pellucid.report.page import Page

SCHEMA = 1
RESULT = "result.json"
REPORT = "report.html"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a study, with its interval where it has one.

    Raises:
        ArgumentError: A number is not finite, or there is neither a value nor a reason.
    """

    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    label: str | None = None
    """What the number belongs to, such as a head."""
    published: float | None = None
    """What a publication gives for this model."""
    reason: str | None = None
    """Why there is no value, or no interval."""

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "published"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ArgumentError(f"{name} of a figure must be finite or None, got {number}")
        if self.value is None and self.reason is None:
            raise ArgumentError("a figure without a value must have a reason, got none")

    @classmethod
    def of(cls, mean: Measurement, *, label: str | None = None) -> "Figure":
        """The figure of a Measurement of one cell, the mean over some prompts."""
        bounds = [float(mean.dataset[side].item()) for side in ("low", "high")]
        low, high = bounds if all(map(math.isfinite, bounds)) else (None, None)
        if not math.isfinite(mean.item()):
            return cls(unit=mean.unit, label=label, reason=f"the model's answers make it {mean.item()}")
        units = mean.dataset.attrs.get("units", "prompts")
        reason = f"one {units[:-1]} has no interval" if mean.n == 1 else None
        return cls(unit=mean.unit, value=mean.item(), low=low, high=high, label=label, reason=reason)

    @classmethod
    def best(cls, best: Measurement, *, label: str | None = None, otherwise: str = "no cell can be chosen") -> "Figure":
        """The figure of the one cell of `Measurement.best`; `otherwise` is the reason where there is none."""
        if not best.values.size or not math.isfinite(best.item()):
            return cls(unit=best.unit, reason=otherwise)
        bounds = [float(best.dataset[side].item()) for side in ("low", "high")]
        name = best.labels[0] if label is None else label
        return cls.between(best.item(), *bounds, unit=best.unit, label=name)

    @classmethod
    def between(cls, value: float, low: float, high: float, *, unit: str, label: str | None = None) -> "Figure":
        """A number and the ends of its interval, which are no numbers where too few prompts give none."""
        known = math.isfinite(low) and math.isfinite(high)
        reason = None if known else "too few prompts for an interval"
        ends = {"low": low, "high": high} if known else {}
        return cls(unit=unit, value=value, label=label, reason=reason, **ends)

    def cells(self) -> list[object]:
        """For a table: the value and the ends of its interval, or why there is none."""
        if self.value is None:
            return [None, self.reason]
        known = self.low is not None and self.high is not None
        return [float(self.value), f"[{self.low:.3g}, {self.high:.3g}]" if known else self.reason]


@dataclass
class Findings:
    """What a part of a study found."""

    figures: dict[str, Figure] = field(default_factory=dict)
    measurements: dict[str, Measurement] = field(default_factory=dict)

    @classmethod
    def nothing(cls, units: Mapping[str, str], reason: str, *, but: Collection[str] = ()) -> "Findings":
        """Figures by name and unit, all null for one reason, but for some."""
        return cls({name: Figure(unit=unit, reason=reason) for name, unit in units.items() if name not in but})

    def add(self, other: "Findings") -> None:
        """Takes in what another part found."""
        self.figures |= other.figures
        self.measurements |= other.measurements


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """What a study found."""

    study: str
    model: str
    record: Record
    figures: dict[str, Figure]
    measurements: dict[str, Measurement]

    def to_dict(self, *, page: bool = False) -> dict[str, Any]:
        """As `result.json` holds it; `page` tells whether a report lies beside it."""
        paths = {name: f"measurements/{name}.nc" for name in self.measurements}
        return {
            "schema": SCHEMA,
            "study": self.study,
            "model": self.model,
            "record": self.record.to_dict(),
            "figures": {name: asdict(figure) for name, figure in self.figures.items()},
            "measurements": paths,
            "files": [RESULT, *([REPORT] if page else []), *paths.values()],
        }

    def save(self, folder: str | Path, *, page: Page | None = None, overwrite: bool = False) -> Path:
        """Writes everything into a folder, whole or not at all.

        Args:
            folder: Made if it is not there; other files in it stay.
            page: The report, which becomes `report.html`.
            overwrite: Replace a result that lies there.

        Returns:
            The path of `result.json`.

        Raises:
            OutputError: The folder holds a result, or cannot be written.
        """
        folder = Path(folder)
        check_vacant(folder, overwrite=overwrite)
        result = self.to_dict(page=page is not None)
        stale = _files_of(folder) - set(result["files"])
        with written_aside(folder) as aside:
            for name, path in result["measurements"].items():
                self.measurements[name].save(aside / path)
            if page is not None:
                page.save(aside / REPORT)
            text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
            (aside / RESULT).write_text(text + "\n", encoding="utf-8")
            # What is moved into a folder one by one is no result before the last file, which this is, has come.
            (folder / RESULT).unlink(missing_ok=True)
        for file in stale:
            (folder / file).unlink(missing_ok=True)
        return folder / RESULT


def _files_of(folder: Path) -> set[str]:
    """The files of an earlier result in a folder, none where there is none to be read."""
    try:
        files = json.loads((folder / RESULT).read_text(encoding="utf-8"))["files"]
        inside = folder.resolve()
        return {file for file in files if isinstance(file, str) and (folder / file).resolve().is_relative_to(inside)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def check_vacant(folder: str | Path, *, overwrite: bool) -> None:
    """Whether a result may be written to a folder; asked before a long computation as well.

    Raises:
        OutputError: It holds a result that is not to be overwritten, or it is no folder.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} must be a folder for the results, it is a file; choose another place")
    if (folder / RESULT).exists() and not overwrite:
        raise OutputError(f"{folder} must not hold results already, it has {RESULT}; add --overwrite (overwrite=True)")
