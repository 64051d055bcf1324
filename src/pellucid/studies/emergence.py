"""Watch induction heads form: in what share of runs, when, and from what?

In: nothing but seeds; the models are trained here. Out: figures over many runs, each with its interval. Every arm of
`pellucid.studies.emergence_arms` differs from the first as its words say, so that a guess can be tested by an arm.

Source: the study "emergence" of the Turing seminar report; Olsson et al. 2022, "In-context Learning and Induction
Heads", for the phase change.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.record import Record
from pellucid.distributed.executor import Executor
from pellucid.distributed.journal import Journal
from pellucid.maths.spectrum import effective_rank
from pellucid.measurement import Measurement
from pellucid.studies import over_runs
from pellucid.studies.emergence_arms import (
    ARMS,
    DECAYS,
    ENCODED,
    ENCODED_BLANKS,
    FIXED_ONE_LAYER,
    FIXED_TWO_LAYERS,
    FOUR_HEADS,
    N_CTX,
    ONE_HEAD,
    RANDOM_OFFSET,
    ROTARY,
    SHORT_PERIODS,
    Arm,
    Sizes,
)
from pellucid.studies.emergence_runs import PERIODS, run
from pellucid.studies.emergence_translation import WITHOUT
from pellucid.studies.result import Findings, StudyResult

Runs = Mapping[str, Sequence[Mapping[str, Tensor]]]
"""What each run of each arm said."""

MASS = "attention mass"
NO_HEAD = "no run has a previous-token head"
SHARE = (0.0, 1.0)
"""What fractions and attention masses lie between."""


def emergence(
    *,
    quick: bool = False,
    executor: Executor | None = None,
    journal: Journal | None = None,
    advance: Callable[[int], object] | None = None,
) -> StudyResult:
    """Runs the study.

    Args:
        quick: Fewer and shorter runs, for a first look.
        executor: What runs the trainings; None: this process, one after the other. `Processes()` takes all cores.
        journal: Where finished runs are kept, so that an interrupted study goes on.
        advance: Is told 1 whenever a run has ended, by executors that tell it.

    Returns:
        Figures ``share_with_induction share_with_previous_token`` (and ``…_four_heads``), ``phase_step_median
        phase_width_median``, ``score_first_third score_last_third``, ``break_off_position`` of several arms,
        ``effective_rank_position`` of several, ``fixed_period_…``, ``encoder_decoder_…``; Measurements over the runs.
    """
    sizes = Sizes(quick=quick)
    jobs = jobs_of(sizes)
    found = over_runs.carried_out(run, jobs, executor, journal, advance)
    runs: dict[str, list[Mapping[str, Tensor]]] = {name: [] for name in ARMS}
    for job, tensors in found:
        runs[job["arm"]].append(tensors)
    settings = {"quick": quick, "steps": sizes.steps, "runs": {name: len(arm) for name, arm in runs.items()}}
    settings["recipes"] = {name: arm.recipe(0, sizes).to_dict() for name, arm in ARMS.items()}
    record = Record(task="emergence", seed=0, device="cpu", dtype="float32", settings=settings)
    result = Findings()
    for part in (forming, fixed_period, breaking_off, positions, translation):
        result.add(part(runs, record))
    return StudyResult(
        study="emergence",
        model=f"{len(found)} models trained here",
        record=record,
        figures=result.figures,
        measurements=result.measurements,
    )


def jobs_of(sizes: Sizes) -> list[dict[str, Any]]:
    """All runs, as JSON values; the longest kinds first, so that no process is left with one at the end."""
    seeds = max(sizes.seeds(arm) for arm in ARMS.values())
    order = sorted(ARMS.values(), key=lambda arm: arm is not FOUR_HEADS)
    return [
        {"arm": arm.name, "seed": seed, "quick": sizes.quick}
        for seed in range(seeds)
        for arm in order
        if seed < sizes.seeds(arm)
    ]


def forming(runs: Runs, record: Record) -> Findings:
    """In what share of the runs the two heads form, and when."""
    result = Findings()
    for arm, suffix in ((ONE_HEAD, ""), (FOUR_HEADS, "_four_heads")):
        ours = runs[arm.name]
        phases = [phase(one) for one in ours]
        result.figures |= {
            f"share_with_induction{suffix}": over_runs.share(_numbers(ours, "found")),
            f"share_with_previous_token{suffix}": over_runs.share(_numbers(ours, "previous_found")),
            f"phase_step_median{suffix}": over_runs.median(
                [step for step, _ in phases], "steps", reason="no run has an induction head"
            ),
            f"phase_width_median{suffix}": over_runs.median(
                [width for _, width in phases], "steps", reason="no run has an induction head"
            ),
            f"loss_at_end{suffix}": over_runs.mean([float(one["loss"][-1]) for one in ours], "nats"),
            f"induction_score{suffix}": over_runs.mean(_numbers(ours, "score"), MASS, bounds=SHARE),
            f"induction_control{suffix}": over_runs.mean(_numbers(ours, "control"), MASS, bounds=SHARE),
            f"induction_without_previous_token{suffix}": over_runs.mean(_numbers(ours, "without"), MASS, bounds=SHARE),
            f"previous_token_score{suffix}": over_runs.mean(_numbers(ours, "previous_score"), MASS, bounds=SHARE),
        }
        result.measurements[f"found_{arm.name}"] = _by_run(ours, phases, record, arm)
    for arm in ARMS.values():
        ours = runs[arm.name]
        steps = {"step": ours[0]["steps"].tolist()}
        curves = {"loss": ("nats", [one["loss"] for one in ours])}
        if not arm.translates:
            curves |= {name: (MASS, [curve(one, name) for one in ours]) for name in ("induction", "previous")}
        for name, (unit, values) in curves.items():
            result.measurements[f"{name}_{arm.name}"] = _measured(
                torch.stack(values), ("run", "step"), unit, record, f"{name}, {arm.words}", coords=steps
            )
    first = runs[ONE_HEAD.name][0]
    result.measurements["patterns"] = _measured(
        first["patterns"],
        ("step", "layer", "head", "q_pos", "k_pos"),
        MASS,
        record,
        "attention while it forms",
        coords={
            "step": first["moments"].tolist(),
            "token": ("k_pos", ["<bos>" if i == 0 else str(i) for i in first["pattern_tokens"].tolist()]),
        },
    )
    return result


def fixed_period(runs: Runs, record: Record) -> Findings:
    """What one fixed period teaches: how well it goes at that period, and at others."""
    result = Findings()
    own = len(PERIODS) - 1
    for arm in (FIXED_ONE_LAYER, FIXED_TWO_LAYERS):
        ours = runs[arm.name]
        accuracy = torch.stack([one["accuracy_by_period"] for one in ours]).double().numpy()
        result.figures |= {
            f"{arm.name}_accuracy": over_runs.mean(accuracy[:, own], "fraction", bounds=SHARE),
            f"{arm.name}_accuracy_elsewhere": over_runs.mean(accuracy[:, :own].mean(1), "fraction", bounds=SHARE),
            f"{arm.name}_score": over_runs.mean(_numbers(ours, "score"), MASS, bounds=SHARE),
            f"{arm.name}_control": over_runs.mean(_numbers(ours, "control"), MASS, bounds=SHARE),
            f"{arm.name}_share_with_induction": over_runs.share(_numbers(ours, "found")),
        }
    elsewhere = torch.stack([one["accuracy_by_period"] for one in runs[ONE_HEAD.name]]).double().numpy()
    result.figures["random_period_accuracy_elsewhere"] = over_runs.mean(
        elsewhere[:, :own].mean(1), "fraction", bounds=SHARE
    )
    for arm in (ONE_HEAD, FIXED_ONE_LAYER, FIXED_TWO_LAYERS):
        values = torch.stack([one["accuracy_by_period"] for one in runs[arm.name]])
        result.measurements[f"accuracy_by_period_{arm.name}"] = _measured(
            values, ("run", "group"), "fraction", record, f"accuracy, {arm.words}", coords={"group": _periods()}
        )
    return result


def breaking_off(runs: Runs, record: Record) -> Findings:
    """Where in the sequence the diagonals break off, and whether it is where positions need no coding any more."""
    result = Findings()
    by_arm = {}
    for arm in (ONE_HEAD, FOUR_HEADS, SHORT_PERIODS, RANDOM_OFFSET, ROTARY):
        by_arm[arm.name] = [one["previous_by_pos"].numpy() for one in _with_diagonal(runs[arm.name])]
        suffix = "" if arm is ONE_HEAD else f"_{arm.name}"
        for name, place in (("first", 0), ("last", -1)):
            values = [np.array_split(score, 3)[place].mean() for score in by_arm[arm.name]]
            figure = over_runs.mean(values, MASS, reason=NO_HEAD)
            result.figures[f"score_{name}_third{suffix}"] = figure
        places = [break_off(score) for score in by_arm[arm.name]]
        result.figures |= {
            f"share_that_break_off{suffix}": over_runs.share(np.isfinite(places), reason=NO_HEAD),
            f"break_off_position{suffix}": over_runs.mean(
                places, "tokens", reason="no diagonal breaks off" if places else NO_HEAD
            ),
        }
        values = torch.stack([one["previous_by_pos"] for one in runs[arm.name]])
        result.measurements[f"previous_by_pos_{arm.name}"] = _by_pos(values, 2, record, arm)
    stripes = [one["induction_by_pos"] for one in runs[ONE_HEAD.name]]
    first = runs[ONE_HEAD.name][0]["previous_by_pos"].numel() + 2 - len(stripes[0])
    result.measurements["induction_by_pos"] = _by_pos(torch.stack(stripes), first, record, ONE_HEAD)
    ends = {arm: [_ended(break_off(score)) for score in scores] for arm, scores in by_arm.items()}
    thirds = [[part.mean() for part in np.array_split(score, 3)] for score in by_arm[ONE_HEAD.name]]
    lasts = {name: [np.array_split(score, 3)[-1].mean() for score in scores] for name, scores in by_arm.items()}
    result.figures |= {
        "score_fall": over_runs.mean([first - last for first, _, last in thirds], MASS, reason=NO_HEAD),
        "break_off_moved_by_random_offset": over_runs.difference(
            ends[RANDOM_OFFSET.name], ends[ONE_HEAD.name], "tokens"
        ),
        "break_off_moved_by_short_periods": over_runs.difference(
            ends[SHORT_PERIODS.name], ends[ONE_HEAD.name], "tokens"
        ),
        "last_third_raised_by_rotary": over_runs.difference(lasts[ROTARY.name], lasts[ONE_HEAD.name], MASS),
    }
    return result


def positions(runs: Runs, record: Record) -> Findings:
    """The position embedding: in how many directions it reaches, its norms, and what weight decay does to it."""
    result = Findings()
    ranks: dict[str, list[float]] = {}
    names = [ONE_HEAD.name, *DECAYS, RANDOM_OFFSET.name]
    for name in names:
        arm, suffix = ARMS[name], "" if name == ONE_HEAD.name else f"_{name}"
        W = torch.stack([one["W_pos"] for one in runs[name]])[:, :-1].double()  # nothing follows the last position
        ranks[name] = effective_rank(W).tolist()
        norms = W.norm(dim=-1)
        n = W.shape[1] // 3
        result.figures |= {
            f"effective_rank_position{suffix}": over_runs.mean(ranks[name], "dimensions"),
            f"norm_first_third{suffix}": over_runs.mean(norms[:, 1:n].mean(1).numpy(), "activation"),
            f"norm_last_third{suffix}": over_runs.mean(norms[:, -n:].mean(1).numpy(), "activation"),
        }
        result.measurements |= {
            f"singular_values_{name}": _measured(
                torch.linalg.svdvals(W), ("run", "component"), "activation", record, f"singular values, {arm.words}"
            ),
            f"norm_by_pos_{name}": _measured(
                norms, ("run", "pos"), "activation", record, f"norm of the position embedding, {arm.words}"
            ),
            f"gram_{name}": _measured(
                (W @ W.mT).mean(0), ("q_pos", "k_pos"), "activation", record, f"Gram matrix, {arm.words}"
            ),
        }
    for name in DECAYS:
        moved = over_runs.difference(ranks[name], ranks[ONE_HEAD.name], "dimensions")
        result.figures[f"effective_rank_moved_by_{name}"] = moved
        lasts = [
            [np.array_split(one["previous_by_pos"].numpy(), 3)[-1].mean() for one in _with_diagonal(runs[arm])]
            for arm in (name, ONE_HEAD.name)
        ]
        result.figures[f"last_third_moved_by_{name}"] = over_runs.difference(lasts[0], lasts[1], MASS)
    return result


def translation(runs: Runs, record: Record) -> Findings:
    """The encoder–decoder: does it solve the task, where does it attend, and which attention can it do without?"""
    result = Findings()
    for arm in (ENCODED, ENCODED_BLANKS):
        ours = runs[arm.name]
        answer = [float(one["answer_mass"].max()) for one in ours]
        result.figures |= {
            f"{arm.name}_accuracy": over_runs.mean(_numbers(ours, "accuracy"), "fraction", bounds=SHARE),
            f"{arm.name}_answer_mass": over_runs.mean(answer, MASS, bounds=SHARE),
            f"{arm.name}_last_mass": over_runs.mean(
                [float(one["last_mass"].max()) for one in ours], MASS, bounds=SHARE
            ),
            f"{arm.name}_uniform": over_runs.mean(_numbers(ours, "uniform"), MASS),
        }
        for name in WITHOUT:
            result.figures[f"{arm.name}_accuracy_{name}"] = over_runs.mean(
                _numbers(ours, name), "fraction", bounds=SHARE
            )
        first = ours[0]
        result.measurements[f"cross_pattern_{arm.name}"] = _measured(
            first["cross_patterns"],
            ("layer", "head", "q_pos", "k_pos"),
            MASS,
            record,
            f"cross-attention, {arm.words}",
            coords={"token": ("k_pos", [str(i) for i in first["source"].tolist()])},
        )
    return result


def curve(one: Mapping[str, Tensor], name: str) -> Float[Tensor, " step"]:
    """The score minus control over the steps, of the head that has the most of it at the end."""
    by_head = one[name].flatten(1)
    return by_head[:, by_head[-1].argmax()]


def phase(one: Mapping[str, Tensor]) -> tuple[float, float]:
    """The step at which the induction head reaches half of its final score, and how many steps the phase change takes.

    The latter are those in which the score would rise from nothing to its final value at its steepest; what comes
    after is slow sharpening. NaN where there is no induction head. Between two looks the score is taken to go in a
    straight line.
    """
    if not bool(one["found"]):
        return np.nan, np.nan
    values, steps = curve(one, "induction").double().numpy(), one["steps"].double().numpy()
    steepest = (np.diff(values) / np.diff(steps)).max()
    return _crossed(values, steps, values[-1] / 2), float(values[-1] / steepest)


def break_off(score: Float[np.ndarray, " pos"]) -> float:
    """The position from which on a score is lower: where the step down that fits it best lies (least squares).

    Args:
        score: By position, from position 2 on.

    Returns:
        NaN if the mean from there on is not below half of the mean before: the score breaks off nowhere.
    """
    n = len(score)
    before = np.cumsum(score)[:-1] / np.arange(1, n)
    after = np.cumsum(score[::-1])[::-1][1:] / np.arange(n - 1, 0, -1)
    explained = np.arange(1, n) * np.arange(n - 1, 0, -1) * np.clip(before - after, 0, None) ** 2
    at = int(explained.argmax())
    return float(at + 1 + 2) if explained[at] > 0 and after[at] < before[at] / 2 else np.nan


def _ended(position: float) -> float:
    """Where a diagonal ends: one that breaks off nowhere, with the sequence."""
    return N_CTX if np.isnan(position) else position


def _crossed(values: np.ndarray, steps: np.ndarray, level: float) -> float:
    """Where a curve reaches a level for the first time."""
    at = int(np.argmax(values >= level))
    if at == 0:
        return float(steps[0])
    before, after = values[at - 1], values[at]
    return float(steps[at - 1] + (level - before) / (after - before) * (steps[at] - steps[at - 1]))


def _with_diagonal(runs: Sequence[Mapping[str, Tensor]]) -> list[Mapping[str, Tensor]]:
    """Those with a previous-token head: others have no diagonal that could break off."""
    return [one for one in runs if bool(one["previous_found"])]


def _numbers(runs: Sequence[Mapping[str, Tensor]], name: str) -> list[float]:
    return [float(one[name]) for one in runs]


def _by_run(
    runs: Sequence[Mapping[str, Tensor]], phases: Sequence[tuple[float, float]], record: Record, arm: Arm
) -> Measurement:
    """Which runs have an induction head, and beside it what decides."""
    told = {name: _numbers(runs, name) for name in ("previous_found", "score", "control", "without", "previous_score")}
    told |= {"phase_step": [step for step, _ in phases], "phase_width": [width for _, width in phases]}
    told["loss_at_end"] = [float(one["loss"][-1]) for one in runs]
    variables = {name: ("run", numbers) for name, numbers in told.items()}
    found, name = torch.tensor(_numbers(runs, "found")), f"induction head found, {arm.words}"
    return _measured(found, ("run",), "fraction", record, name, variables=variables)


def _periods() -> list[str]:
    return [f"period {period}" for period in PERIODS]


def _by_pos(values: Tensor, first: int, record: Record, arm: Arm) -> Measurement:
    name = f"attention to the role's place, by position, {arm.words}"
    positions = list(range(first, first + values.shape[1]))
    return _measured(values, ("run", "pos"), MASS, record, name, coords={"pos": positions})


def _measured(values: Tensor, dims: tuple[str, ...], unit: str, record: Record, name: str, **more: Any) -> Measurement:
    return Measurement(values, dims, unit=unit, record=record, name=name, **more)
