"""One analysis of every model that a training run left on its way.

In: the folder of a run, and a function of a model. Out: what it gives, with a `step` axis in front.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.measurement import Measurement
from pellucid.pretrained.checkpoints import FOLDER, checkpoints


def over_checkpoints(
    folder: str | Path,
    function: Callable[[HookedTransformer], Measurement],
    *,
    steps: Sequence[int] | None = None,
    **options: Any,
) -> Measurement:
    """What a function says of the model at each kept step of a training run.

    Args:
        folder: Of the run, as `pellucid train --out` wrote it.
        function: From a model to a Measurement, of the same cells each time, such as
            ``lambda model: head_scores(model, repeated_tokens(model), PREVIOUS).mean("prompt")``.
        steps: Of which steps; None: of all that were kept.
        **options: Of `HookedTransformer.from_pretrained`, such as ``fold_ln=False``.

    Returns:
        ``[step …]``; the record is that of the first step's, and its settings name the run.

    Raises:
        CheckpointError: The folder has no checkpoints, or one cannot be read.
        ArgumentError: A step that was not kept; the function gave something else than Measurements of the same cells.
    """
    kept = checkpoints(folder)
    if not kept:
        raise CheckpointError(f"{folder} must be the folder of a training run, it has no {FOLDER}/step-…")
    wanted = list(kept) if steps is None else list(steps)
    missing = [step for step in wanted if step not in kept]
    if missing or not wanted:
        known = ", ".join(map(str, kept))
        raise ArgumentError(f"steps must be among those that were kept, {known}, got {missing or 'none'}")
    found = {}
    for step in wanted:
        measured = function(HookedTransformer.from_pretrained(kept[step], **options))
        if not isinstance(measured, Measurement):
            raise ArgumentError(f"the function must give a Measurement, got {type(measured).__name__}")
        found[step] = measured
    return Measurement.stacked("step", found)
