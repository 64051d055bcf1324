"""One run of the study of emergence: a model is trained, and put to the questions.

In: a job, the name of an arm and a seed. Out: tensors by name, all that the study asks of the run. The model itself is
not kept, so that a run may happen in another process.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pellucid.analysis.attention import Cells, masses
from pellucid.analysis.heads import INDUCTION, PREVIOUS, role_scores
from pellucid.analysis.repeated import RepeatedTokens, halves, predictions, repeated_tokens
from pellucid.analysis.steps import over_checkpoints
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.studies.emergence_arms import ARMS, FIXED, NEVER_TRAINED, ONE_HEAD, Arm, Sizes
from pellucid.studies.emergence_translation import questioned as translated
from pellucid.studies.induction import objections
from pellucid.studies.induction_heads import CUT, cut, other_periods, roles
from pellucid.studies.result import Findings, StudyResult
from pellucid.train.run import Run, train
from pellucid.train.sequences import TranslatedSequences

PROMPTS = 24
"""Prompts of each question."""
HELD_OUT = 10**6
"""Added to the seed of a run, for tokens that its training never drew."""
PERIODS = (*NEVER_TRAINED, FIXED)
"""At which the accuracy and the induction score are asked."""


def run(job: Mapping[str, Any]) -> dict[str, Tensor]:
    """Trains and asks.

    Args:
        job: ``{"arm": …, "seed": …, "quick": …}``.

    Returns:
        For a decoder ``steps [step]``, ``induction previous [step layer head]`` (score − control), ``loss [step]``,
        ``position_rank [step]``; at the end ``found`` and ``previous_found`` (1 or 0), ``score control without
        previous_score`` of the best heads, ``accuracy_by_period induction_by_period [period]``, ``previous_by_pos
        induction_by_pos [pos]``, ``W_pos``; for the first run of the first arm ``patterns [moment layer head q_pos
        k_pos]``, ``pattern_tokens``, ``moments``. For an encoder–decoder see
        `pellucid.studies.emergence_translation.questioned`.
    """
    arm, seed = ARMS[job["arm"]], int(job["seed"])
    recipe = arm.recipe(seed, Sizes(quick=job["quick"]))
    if isinstance(recipe.data, TranslatedSequences):
        trained = train(replace(recipe, probes=replace(recipe.probes, batch=0)), device="cpu", shown=False)
        return {**_losses(trained), **translated(trained.model, recipe.data, seed=HELD_OUT + seed, batch=PROMPTS)}
    if arm is not ONE_HEAD or seed:
        trained = train(recipe, device="cpu", shown=False)
        return _curves(trained) | _questioned(trained.model, arm, HELD_OUT + seed)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(recipe, out=folder, overwrite=True, device="cpu", shown=False)
        found = _curves(trained) | _questioned(trained.model, arm, HELD_OUT + seed)
        return found | _pictured(trained, folder, found)


def _losses(trained: Run) -> dict[str, Tensor]:
    """The training loss, the mean over each stretch of steps between two looks."""
    steps = sorted(trained.recipe.probes.of(trained.recipe.steps))
    losses = torch.as_tensor(trained.history.values, dtype=torch.float64)
    means = [losses[before:after].mean() for before, after in pairwise(steps)]
    return {"steps": torch.tensor(steps), "loss": torch.stack([losses[0], *means])}


def _curves(trained: Run) -> dict[str, Tensor]:
    """The probes over the steps."""
    found = _losses(trained)
    excess = (trained.probes["head_roles"] - trained.probes["head_roles_control"]).mean("prompt")
    for name, role in (("induction", INDUCTION), ("previous", PREVIOUS)):
        found[name] = torch.as_tensor(excess.sel(role=role.name).values)
    if "position_rank" in trained.probes:
        found["position_rank"] = torch.as_tensor(trained.probes["position_rank"].values)
    return found


@torch.no_grad()
def _questioned(model: HookedTransformer, arm: Arm, seed: int) -> dict[str, Tensor]:
    """What the finished model is asked."""
    own_period = FIXED if arm.name.startswith("fixed") else NEVER_TRAINED[1]
    tokens = repeated_tokens(model, seq_len=own_period, batch=PROMPTS, seed=seed)
    judged = _judged(model, tokens)
    found = {
        "found": torch.tensor(float(not objections(judged))),
        "score": _number(judged, "induction_head"),
        "control": _number(judged, "induction_head_control"),
        "without": _number(judged, CUT),
        "previous_score": _number(judged, "previous_token_head"),
        "previous_control": _number(judged, "previous_token_head_control"),
    }
    accuracies, scores = [], []
    induction, previous = (_head(judged, name) for name in ("induction_head", "previous_token_head"))
    for period in PERIODS:
        others = repeated_tokens(model, seq_len=period, batch=PROMPTS, seed=seed + 1)
        _, second = halves(predictions(model, others).accuracy, others)
        accuracies.append(second.mean("prompt").item())
        both = role_scores(model, others, [INDUCTION])
        excess = (both.score - both.control).sel(role=INDUCTION.name).mean("prompt")
        scores.append(excess.sel(layer=induction[0], head=induction[1]).item())
    found["accuracy_by_period"], found["induction_by_period"] = torch.tensor(accuracies), torch.tensor(scores)
    longest = repeated_tokens(model, seq_len=(model.config.n_ctx - 1) // 2, batch=PROMPTS, seed=seed + 2)
    by_pos = stripe(model, longest, back=1, first=2)[previous]
    found["previous_by_pos"] = by_pos - 1 / torch.arange(3, 3 + len(by_pos))
    found["induction_by_pos"] = stripe(model, longest, back=longest.seq_len - 1, first=longest.middle)[induction]
    needed = found["previous_by_pos"][: own_period - 1].mean()
    found["previous_found"] = (needed >= 0.3).double()
    found["previous_where_needed"] = needed
    if hasattr(model, "pos_embed"):
        found["W_pos"] = model.W_pos.detach()
    return found


def _judged(model: HookedTransformer, tokens: RepeatedTokens) -> StudyResult:
    """The parts of the study of repeated tokens that decide whether there is an induction head."""
    found: Findings = roles(model, tokens)
    found.figures[CUT], silenced = cut(model, tokens, found)
    found.add(other_periods(model, tokens, NEVER_TRAINED))
    settings = tokens.settings | {"silenced": ", ".join(silenced)}
    record = record_of(model, task="emergence", seed=tokens.seed, settings=settings)
    return StudyResult(
        study="induction", model="a run", record=record, figures=found.figures, measurements=found.measurements
    )


def _head(judged: StudyResult, name: str) -> tuple[int, int]:
    layer, head = str(judged.figures[name].label).split(".")
    return int(layer), int(head)


def _number(judged: StudyResult, name: str) -> Tensor:
    value = judged.figures[name].value
    return torch.tensor(torch.nan if value is None else value, dtype=torch.float64)


def stripe(model: HookedTransformer, tokens: RepeatedTokens, *, back: int, first: int) -> dict[tuple[int, int], Tensor]:
    """The attention so many tokens back, by position from `first` on, for each head (layer, head)."""
    positions = torch.arange(first, tokens.tokens.shape[1])
    cells = [Cells(position[None], position[None] - back) for position in positions]
    mean = masses(model, tokens.tokens, cells).mean(0)
    return {(layer, head): mean[:, layer, head] for layer in range(mean.shape[1]) for head in range(mean.shape[2])}


def _pictured(trained: Run, folder: str, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The attention of every head on one prompt, at moments about the step where the induction head forms."""
    kept = list(trained.checkpoints)
    curve = found["induction"].flatten(1).max(1).values
    half = int(found["steps"][(curve >= curve[-1] / 2).nonzero()[0, 0]]) if curve[-1] > 0 else kept[-1] // 2
    wanted = [0, half * 2 // 3, half, half * 3 // 2, kept[-1]]
    moments: list[int] = []
    for goal in wanted[: len(kept)]:
        moments.append(min((step for step in kept if step not in moments), key=lambda step: abs(step - goal)))
    moments.sort()
    draws = generator(HELD_OUT)
    data: Any = replace(trained.recipe.data, shortest=16, longest=16)
    tokens = data.draw(1, draws).tokens

    def patterns(model: HookedTransformer) -> Measurement:
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.config.n_layers)]
        cache = model.run(tokens, reads=names).cache
        return Measurement(
            torch.stack([cache[name][0] for name in names]),
            ("layer", "head", "q_pos", "k_pos"),
            unit="attention mass",
            record=record_of(model),
        )

    shown = over_checkpoints(folder, patterns, steps=moments, device="cpu")
    return {
        "patterns": torch.as_tensor(shown.values),
        "pattern_tokens": tokens[0],
        "moments": torch.tensor(moments),
    }
