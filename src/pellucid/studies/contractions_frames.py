"""Numbers of prompts, frame by frame and group by group, with a verdict, or the number of frames that one takes.

In: a Measurement over prompts. Out: one number for each frame (and group), of the frames that every group has; and
figures whose label is a verdict. That nothing was found does not show that there is nothing, so each verdict has a test
of its own, and a δ below which a number counts as nothing, declared beforehand.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pellucid.base.errors import ArgumentError
from pellucid.maths.frames import Frames
from pellucid.maths.groups import GroupsCompared, compare_groups
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.studies.result import Figure
from pellucid.tasks.pairs import Pairs

DELTA = 0.2
"""Logits: the differences that the source left undecided were below."""


def check_delta(delta: float) -> None:
    """Whether it is a difference that something can be smaller than.

    Raises:
        ArgumentError: It is not.
    """
    if not 0 < delta < np.inf:
        raise ArgumentError(f"delta must be a difference above 0, got {delta}; give the smallest one that matters")


@dataclass(frozen=True, eq=False)
class Table:
    """Numbers by frame and group."""

    values: np.ndarray
    """``[frame group *cells]``, means over the prompts of each frame and group."""
    groups: tuple[str, ...]

    @classmethod
    def of(cls, measured: Measurement, pairs: Pairs) -> "Table":
        """Of the frames that all groups have; `not_comparable` says whether there are any.

        Args:
            measured: ``[prompt *cells]``.
            pairs: What it was measured on.
        """
        groups, kept, of = groups_of(pairs), common_frames(pairs), list(zip(*_labels(pairs), strict=True))
        rows = {cell: [at for at, one in enumerate(of) if one == cell] for cell in dict.fromkeys(of)}
        x = measured.values.astype(np.float64)
        return cls(np.array([[x[rows[frame, group]].mean(0) for group in groups] for frame in kept]), groups)


def groups_of(pairs: Pairs) -> tuple[str, ...]:
    """The groups, in the order in which they first occur."""
    return tuple(dict.fromkeys(pairs.group or ()))


def common_frames(pairs: Pairs) -> tuple[str, ...]:
    """The frames that every group has: on the others groups cannot be compared."""
    found = set(zip(*_labels(pairs), strict=True)) if pairs.group and pairs.frame else set()
    return tuple(
        frame for frame in dict.fromkeys(pairs.frame or ()) if all((frame, one) in found for one in groups_of(pairs))
    )


def not_comparable(pairs: Pairs) -> str | None:
    """Why the groups cannot be compared, if they cannot."""
    if len(groups_of(pairs)) < 2:
        return "there are no two groups to compare"
    if pairs.frame is None:
        return "groups are compared on the same frames, and the prompts name none; give the pairs frame=…"
    return None if common_frames(pairs) else "groups are compared on the same frames, and no frame is in every group"


def _labels(pairs: Pairs) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return pairs.frame or (), pairs.group or ()


def by_group(measured: Measurement, pairs: Pairs) -> Measurement:
    """The mean of each group by itself, with its interval, ``[group *cells]``."""
    rows = {name: [at for at, of in enumerate(pairs.group or ()) if of == name] for name in groups_of(pairs)}
    return Measurement.stacked("group", {name: measured.sel(prompt=at).mean("prompt") for name, at in rows.items()})


def by_frame(measured: Measurement) -> np.ndarray:
    """``[frame *cells]``; ``[prompt *cells]`` where there are no frames."""
    x, frames = measured.values.astype(np.float64), measured.frames
    flat = x.reshape(len(x), -1)
    means = flat if frames is None else Frames.of(frames, len(x)).means(flat)
    return means.reshape(-1, *x.shape[1:])


def compared(a: np.ndarray, b: np.ndarray | None = None, *, delta: float) -> GroupsCompared:
    """``[frame *cells]`` against the same frames of something else, or against 0; all cells are one family."""
    frames = list(range(len(a)))
    return compare_groups(a, np.zeros_like(a) if b is None else b, frames=(frames, frames), delta=delta)


def judged(x: np.ndarray, *, delta: float, words: Mapping[str, str] | None = None) -> Figure:
    """The mean of ``[frame]``, in logits, against 0, with the verdict as its label, and as reason what would decide.

    Args:
        x: One number for each frame.
        delta: Within which it counts as nothing.
        words: What the verdicts are called; else as `GroupsCompared` has them, *different* from 0 or *shared* with it.
    """
    found = compared(x, delta=delta)
    numbers, verdict = (float(y) for y in (found.difference, found.low, found.high)), str(found.verdict)
    return figure_of(*numbers, label=(words or {}).get(verdict, verdict), needed=float(found.n_to_decide))


def figure_of(value: float, low: float, high: float, *, label: str, needed: float) -> Figure:
    """A number, in logits, whose label is a verdict; undecided, its reason says how many frames would decide."""
    if not np.isfinite(value):
        return Figure(unit="logits", reason=f"the model's answers make it {value}")
    sure = bool(np.isfinite([low, high]).all())
    ends = {"low": low, "high": high} if sure else {}
    reason = would_decide(needed) if label == "undecided" else None
    return Figure(unit="logits", value=value, label=label, reason=reason, **ends)


def would_decide(needed: float) -> str:
    """How many frames would decide."""
    if np.isnan(needed):
        return "one frame has no interval; two or more are needed to say what would decide"
    if np.isinf(needed):
        return "no number of frames would decide it, if it is as it looks"
    return f"about {needed:,.0f} frames would decide"


def halves(measured: Measurement) -> tuple[Measurement, Measurement]:
    """The prompts that choose, and those that report; whole frames go to one side."""
    choosing, reporting = (list(rows) for rows in split(measured.shape[0], measured.frames))
    return measured.sel(prompt=choosing), measured.sel(prompt=reporting)


def chosen(measured: Measurement, k: int = 1) -> list[int]:
    """The cells that matter most in either direction, on the prompts that choose; places in ``values[0].ravel()``."""
    sizes = np.abs(halves(measured)[0].mean("prompt").values.ravel())
    sizes = np.where(np.isfinite(sizes), sizes, 0)
    return [int(at) for at in np.argsort(-sizes, kind="stable")[:k] if sizes[at] > 0]
