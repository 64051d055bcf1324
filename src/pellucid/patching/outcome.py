"""From an experiment to its Measurement: its jobs one after the other, kept in a journal where one is given."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import MisreadWarning
from pellucid.base.progress import progress as bar
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.distributed.local import Local
from pellucid.hooked_transformer import record_of
from pellucid.measurement import Measurement
from pellucid.patching.asked import Asked, hashed
from pellucid.patching.experiment import Experiment
from pellucid.patching.plan import Item, Plan
from pellucid.pretrained.native import weights_hash
from pellucid.tasks.metrics import RowMetric

UNCOVERED = 256
"""Prompts of which nothing is run but the unpatched runs, in one job."""


def settled(experiment: Experiment) -> Plan:
    """The plan, with the number of its jobs."""
    _, jobs = _split(experiment)
    return replace(experiment.plan, jobs=len(jobs))


def outcome(
    experiment: Experiment,
    asked: Asked,
    *,
    executor: Executor | None = None,
    journal: str | Path | None = None,
    progress: bool | None = None,
) -> Measurement:
    """Runs an experiment.

    Args:
        experiment: What is run, and on what.
        asked: The arguments that it comes from.
        executor: What runs its jobs; None: this process.
        journal: A folder that keeps finished jobs.
        progress: Whether a bar is shown; None: on a terminal or in a notebook.
    """
    kept, settings = None, asked.settings(experiment)
    if journal is not None:
        kept = Journal.open(journal, identity=_identity(experiment, settings | asked.values()))
        if kept.jobs:
            told = kept.jobs[0]
            experiment = replace(
                experiment, budget=replace(experiment.budget, limit=told["limit"], most_rows=told["most_rows"])
            )
    items, jobs = _split(experiment)
    covered = {item.prompt for item in items}
    rest = [prompt for prompt in range(len(experiment.pairs)) if prompt not in covered]
    described = [{"items": [job.start, job.stop], "prompts": []} for job in jobs]
    described += [{"items": [0, 0], "prompts": rest[i : i + UNCOVERED]} for i in range(0, len(rest), UNCOVERED)]
    split = {"limit": experiment.budget.limit, "most_rows": experiment.budget.most_rows}
    described = [{**job, **split} for job in described]
    if kept is not None:
        kept.begin(described)
    held = [] if kept is None else [job for job in described if kept.holds(job)]
    done = sum(experiment.work(items[slice(*job["items"])]) for job in held)
    what = " + ".join(experiment.plan.grid.question.sites)
    with bar(float(experiment.work(items)), f"patching {what}", done=done, shown=progress) as advance:

        def run(job: Mapping[str, Any]) -> dict[str, Tensor]:
            return experiment.job(items[slice(*job["items"])], job["prompts"], advance)

        results = (executor or Local()).map(run, described, journal=kept)
    return measured(experiment, settings, results)


def _split(experiment: Experiment) -> tuple[list[Item], list[range]]:
    metric = experiment.metric
    rows = metric.rows(experiment.pairs).shape[1] if isinstance(metric, RowMetric) else None
    return experiment.budget.split(experiment.plan, experiment.need, logits_of=rows)


def measured(experiment: Experiment, settings: Mapping[str, Any], done: Sequence[Mapping[str, Tensor]]) -> Measurement:
    """What the jobs of an experiment have found, as a Measurement."""
    grid, model = experiment.plan.grid, experiment.model
    unpatched, other = (_by_prompt(done, name, len(experiment.pairs)) for name in ("unpatched", "other"))
    values = np.repeat(unpatched, int(np.prod(grid.shape[1:])))
    for part in done:
        values[part["cells"].numpy()] = part["values"].numpy()
    values[grid.impossible] = np.nan
    lost = int(np.isnan(values).sum() - grid.impossible.sum())
    if lost:
        warnings.warn(f"the metric is no number in {lost} of {values.size} cells", MisreadWarning, stacklevel=4)
    exact = np.float64 if model.dtype == torch.float64 else np.float32
    clean, corrupted = (unpatched, other) if experiment.clean else (other, unpatched)
    variables = {"clean": ("prompt", clean.astype(exact))}
    if experiment.other is not None:
        variables["corrupted"] = ("prompt", corrupted.astype(exact))
    metric = experiment.metric
    name = f"{' + '.join(grid.question.sites)}: {_metric_name(metric)}"
    return Measurement(
        values.reshape(grid.shape).astype(exact),
        ("prompt", *grid.labels),
        unit=getattr(metric, "unit", "logits"),
        record=record_of(model, task="patching", settings=dict(settings)),
        name=name,
        coords=_coords(experiment),
        variables=variables,
    )


def _by_prompt(done: Sequence[Mapping[str, Tensor]], name: str, n: int) -> Float[np.ndarray, " prompt"]:
    """The metric of each prompt's unpatched run; the first job that has it tells."""
    found = np.full(n, np.nan)
    for part in reversed(done):
        if len(part[name]):
            found[part["prompts"].numpy()] = part[name].numpy()
    return found


def _coords(experiment: Experiment) -> dict[str, Any]:
    grid, pairs, model = experiment.plan.grid, experiment.pairs, experiment.model
    coords: dict[str, Any] = {axis: list(labels) for axis, labels in grid.labels.items()}
    coords |= {name: labels for name, labels in pairs.labels.items() if name not in coords}
    row = next((axis for axis in ("pos", "q_pos") if axis in coords), None)
    if row is not None and len(pairs) == 1 and model.tokenizer is not None:
        coords["token"] = (row, model.tokenizer.strings(pairs.clean[0, : grid.scene.lengths[0]]))
    return coords


def _metric_name(metric: Any) -> str:
    return metric.name if isinstance(metric, RowMetric) else getattr(metric, "__qualname__", repr(metric))


def _identity(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a journal's sweep is told from others by."""
    pairs = experiment.pairs
    tokens = [pairs.clean, pairs.corrupted, pairs.mask, pairs.answer, pairs.wrong, *pairs.positions.values()]
    return {
        "function": "pellucid.patching",
        **settings,
        "weights": weights_hash(experiment.model),
        "dtype": str(experiment.model.dtype),
        "device": experiment.model.device.type,
        "tokens": hashed([x for x in tokens if x is not None]),
    }
