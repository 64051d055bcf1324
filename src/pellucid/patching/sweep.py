"""Patch every cell of a question, and measure what changes.

In: a model, pairs of prompts, what is patched, and over which axes. Out: a `Measurement` `[prompt, *over]` of the raw
metric, and beside it that of the clean and the corrupted run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pellucid.distributed.executor import Executor
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Edit
from pellucid.hooks.site import Site
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked
from pellucid.patching.outcome import outcome, settled
from pellucid.patching.plainly import Metric
from pellucid.patching.plan import Plan
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task

pairs = Pairs.from_tokens


def sweep(
    model: HookedTransformer,
    pairs: Pairs | Task,
    *,
    site: str | Site | Sequence[str | Site] | None = None,
    over: str | Sequence[str],
    groups: Mapping[str, Site | Sequence[Site]] | None = None,
    metric: Metric | None = None,
    direction: Literal["denoise", "noise"] = "denoise",
    corrupt: Edit | None = None,
    freeze: str | Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    max_memory: int | float | str | None = None,
    executor: Executor | None = None,
    journal: str | Path | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Puts parts of one run into the other, each part alone, and measures what changes; exact, and in bulk.

    Args:
        model: Any model; where its blocks are not its own, or hooks stand on it, cells are run plainly.
        pairs: Clean and corrupted prompts, or a task that makes them.
        site: What is patched: the short name of an activation (`"resid_pre"`, `"z"`, `"ln1.normalized"`), a `Site`,
            which narrows it (`Site("post", layer=9)`, `Site("z", pos="subject")`), or several that are patched
            together.
        over: Which cells there are, by axes: `layer`; one of `pos`, `position` (by name) and `q_pos`; `k_pos`; one of
            `head`, `kv_head`, `neuron` and `group`. What no axis tells apart is patched at once.
        groups: With ``over="group"``: parts that are patched at once, by name: ``{"movers": [Site("z", layer=9,
            head=[6, 9])]}``.
        metric: What is measured; None: `LogitDiff`, `Logit` where no wrong answer is told, `Loss` without any answer.
            A function (logits `[cell pos d_vocab]`, pairs) → `[cell]` is run plainly.
        direction: ``"denoise"``: values of the clean run into the corrupted one. ``"noise"``: the other way round.
        corrupt: An edit of `embed` or `pos_embed` whose run takes the place of the corrupted one, on the clean tokens;
            prompt i draws with the edit's seed + i.
        freeze: ``"ln_scale"``, ``"pattern"``: held in all layers at their value in the run that is patched.
        n: How many pairs a task makes.
        seed: Of these.
        max_memory: Bytes, or text such as ``"2GB"``, to be kept within beside the model; None: half of what is free.
        executor: What runs the parts of the work; None: this process.
        journal: A folder that keeps finished parts; a sweep that was interrupted continues from it.
        progress: Whether a bar is shown; None: on a terminal or in a notebook.

    Returns:
        ``[prompt, *over]``, in the metric's unit, with the variables ``clean`` and ``corrupted`` ``[prompt]``. A cell
        that cannot change is exactly the metric of the run that was to be patched.

    Raises:
        UnknownNameError: A site, an axis, a position or another name means nothing here.
        ArgumentError: The arguments contradict each other, the model or the prompts; the metric is no number.
        TooLargeError: `max_memory` does not hold a single cell.
        OutputError: The journal is that of another sweep.

    Source: Vig et al. 2020, "Investigating Gender Bias in Language Models Using Causal Mediation Analysis"; Meng et al.
    2022, "Locating and Editing Factual Associations in GPT" (`corrupt`); Heimersheim and Nanda 2024, "How to use and
    interpret activation patching" (directions).

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> effect = sweep(model, both, site="z", over=("layer", "head"))
        >>> effect.normalised().mean("prompt").top(1).label
        '1.0'
    """
    asked = Asked(
        **{"site": site, "over": over, "groups": groups, "metric": metric_of(pairs, metric), "direction": direction},
        **{"corrupt": corrupt, "freeze": freeze, "max_memory": max_memory},
    )
    experiment = asked.of(model, made(pairs, model, n, seed))
    return outcome(experiment, asked, executor=executor, journal=journal, progress=progress)


def plan(model: HookedTransformer, pairs: Pairs | Task, *, n: int | None = None, seed: int = 0, **asked: Any) -> Plan:
    """What `sweep` would run with the same arguments: `.explain()` says it in words.

    Args:
        model: As for `sweep`.
        pairs: As for `sweep`.
        n: As for `sweep`.
        seed: As for `sweep`.
        **asked: `site over groups metric direction corrupt freeze max_memory`, as for `sweep`.

    Raises:
        PellucidError: As for `sweep`.

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> both = pairs([[0, 5, 9, 7, 3, 8, 5, 9]], [[0, 5, 9, 4, 3, 8, 5, 9]], answer=7, wrong=4)
        >>> print(plan(model, both, site="z", over=("layer", "head", "pos")).explain())
        z: prompt 1 × layer 2 × head 4 × pos 8 = 64 cells
        known without running: 40
          24 before the first token in which the two runs differ
          16 in the last layer, at a position that the metric does not look at
        in one walk through the layers: 24, which carry 64 rows, in 1 part
          what the heads write joins before the MLP
    """
    asked["metric"] = metric_of(pairs, asked.get("metric"))
    return settled(Asked(**asked).of(model, made(pairs, model, n, seed)))


def metric_of(pairs: Pairs | Task, metric: Metric | None) -> Metric | None:
    """The metric that was asked for, else the task's; None: that of the pairs."""
    return pairs.metric if metric is None and isinstance(pairs, Task) else metric


def made(pairs: Pairs | Task, model: HookedTransformer, n: int | None, seed: int) -> Pairs:
    """The pairs of a task, or those that were given, the first n."""
    if isinstance(pairs, Pairs):
        return pairs if n is None else pairs[:n]
    return pairs.pairs(model.tokenizer, n=n, seed=seed)
