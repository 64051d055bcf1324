"""The models that a training run left on its way: one folder a step, each a whole model."""

import re
from pathlib import Path

from pellucid.base.errors import ArgumentError, CheckpointError

FOLDER = "checkpoints"
"""Where they lie, in the folder of a run."""


def checkpoint_name(step: int) -> str:
    """The folder of a step; sorted by name, they are in order.

    Example:
        >>> checkpoint_name(1500)
        'step-00001500'
    """
    return f"step-{step:08}"


def checkpoints(folder: str | Path) -> dict[int, Path]:
    """The folders of a run's checkpoints by their steps, in order; none where there are none.

    Args:
        folder: Of the run.
    """
    place = Path(folder) / FOLDER
    if not place.is_dir():
        return {}
    found = {re.fullmatch(r"step-(\d+)", path.name): path for path in sorted(place.iterdir())}
    steps = {int(match[1]): path for match, path in found.items() if match and (path / "config.json").is_file()}
    return dict(sorted(steps.items()))


def checkpoint(folder: str | Path, *, index: int | None = None, value: int | None = None) -> Path:
    """The folder of one checkpoint.

    Args:
        folder: Of the run.
        index: Which one, in the order of their steps; negative counts from the last.
        value: Or its step.

    Raises:
        ArgumentError: Both are given, or there is no such checkpoint.
        CheckpointError: The folder has none.
    """
    found = checkpoints(folder)
    if index is not None and value is not None:
        raise ArgumentError(f"one of checkpoint_index and checkpoint_value must be given, got {index} and {value}")
    if not found:
        raise CheckpointError(f"{folder} must be the folder of a training run, it has no {FOLDER}/step-…")
    steps = list(found)
    if value is not None:
        if value not in found:
            raise ArgumentError(f"checkpoint_value must be one of the steps {_listed(steps)}, got {value}")
        return found[value]
    if index is None or not -len(steps) <= index < len(steps):
        raise ArgumentError(f"checkpoint_index must lie in 0..{len(steps) - 1}, got {index}")
    return found[steps[index]]


def _listed(steps: list[int]) -> str:
    shown = steps if len(steps) <= 40 else [*steps[:20], "…", *steps[-20:]]
    return ", ".join(map(str, shown))
