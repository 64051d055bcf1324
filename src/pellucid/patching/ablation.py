"""Take a part of a run away, or change it, each part alone, and measure what that does.

In: a model, prompts, an edit without a site, and over which axes it is placed. Out: a `Measurement` `[prompt, *over]`
of the raw metric, and beside it that of the run as it was.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.distributed.executor import Executor
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.hooks.site import Site
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked
from pellucid.patching.outcome import outcome
from pellucid.patching.plainly import Metric
from pellucid.tasks.pairs import Pairs


def ablate(
    model: HookedTransformer,
    prompts: Pairs | Tensor | str | Sequence[Any],
    *,
    site: str | Site | Sequence[str | Site] | None = None,
    over: str | Sequence[str],
    by: Edit,
    groups: Mapping[str, Site | Sequence[Site]] | None = None,
    metric: Metric | None = None,
    freeze: str | Sequence[str] = (),
    max_memory: int | float | str | None = None,
    executor: Executor | None = None,
    journal: str | Path | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Edits parts of a run, each part alone, and measures what changes.

    What takes a part's place is worked out for the whole activation of each prompt by itself, and of it the part is put
    in: noise at a position is the same whichever cell it is put in by. Prompt i draws with the edit's seed + i. No cell
    is skipped but those that no edit can change. Zeros, and so their effect, depend on how the weights were processed,
    which the record tells.

    Args:
        model: As for `sweep`.
        prompts: Text, token ids `[batch pos]` or lists of them, or the clean side of pairs.
        site: As for `sweep`.
        over: As for `sweep`.
        by: The edit, without a site: ``Zero()``, ``Mean(over=corpus)``, ``Resample(source=prompts)``, ``Shift(1)``,
            ``Add(direction)`` …
        groups: As for `sweep`.
        metric: As for `sweep`; None, for plain prompts: `Loss`.
        freeze: As for `sweep`.
        max_memory: As for `sweep`.
        executor: As for `sweep`.
        journal: As for `sweep`.
        progress: As for `sweep`.

    Returns:
        ``[prompt, *over]``, in the metric's unit, with the variable ``clean`` ``[prompt]``: ``.effect()`` takes it off.

    Raises:
        PellucidError: As for `sweep`, and where the edit has a site already.

    Example:
        >>> from pellucid import HookedTransformer, Zero
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> tokens = [[0, 5, 9, 7, 3, 8, 5, 9, 7, 3, 8]]
        >>> ablate(model, tokens, site="z", over=("layer", "head"), by=Zero()).effect().mean("prompt").top(1).label
        '0.1'
    """
    if not isinstance(by, Edit) or by.site is not None:
        raise ArgumentError(f"by must be an edit without a site, which site and over tell, got {by!r}; such as Zero()")
    asked = Asked(
        **{"site": site, "over": over, "groups": groups, "metric": metric, "direction": "noise", "by": by},
        **{"freeze": freeze, "max_memory": max_memory},
    )
    experiment = asked.of(model, _as_pairs(model, prompts))
    return outcome(experiment, asked, executor=executor, journal=journal, progress=progress)


def _as_pairs(model: HookedTransformer, prompts: Pairs | Tensor | str | Sequence[Any]) -> Pairs:
    """Plain prompts as pairs of the same prompt twice."""
    if isinstance(prompts, Pairs):
        return prompts
    rows: Any = prompts
    if isinstance(prompts, str) or (not isinstance(prompts, Tensor) and len(prompts) and isinstance(prompts[0], str)):
        found = model.encoded(prompts, padding_side="right")
        rows = [row[real].tolist() for row, real in zip(found.tokens, found.mask, strict=True)]
    return Pairs.from_tokens(rows, rows)
