"""The parts of the study of repeated tokens that ask for the heads: who plays which role, and would that fool us?

In: the model and the tokens. Out: figures and Measurements. The best of many heads looks better than it is on the
prompts it was chosen on: so each is chosen on the first half of the prompts, and its figures come from the others.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pellucid.analysis.attention import Cells, masses, rest_scores
from pellucid.analysis.heads import (
    DUPLICATE,
    INDUCTION,
    PREVIOUS,
    RoleScores,
    head_scores,
    prefix_matching,
    role_scores,
)
from pellucid.analysis.repeated import RepeatedTokens, repeated_tokens, unrepeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.edits import Edit, Zero
from pellucid.hooks.names import get_act_name
from pellucid.hooks.point import HookPoint
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.studies.result import Figure, Findings

HEADS = {"induction_head": INDUCTION, "previous_token_head": PREVIOUS, "duplicate_token_head": DUPLICATE}
"""The figures that are a head's, and its role."""
CUT = "induction_head_without_previous_token_head"
CLEAR = 0.3
"""A score is clearly above its control from this difference on."""
SHARES = (0.5, 2 / 3, 0.8, 1.5, 2.0)
"""Other periods, as shares of the study's own: at these a head that looks back by position alone fails."""
SHORTEST = 3
"""Tokens of the shortest other period."""
PICTURED = 20
"""Tokens of a half, in the picture of a pattern."""


def roles(model: HookedTransformer, tokens: RepeatedTokens) -> Findings:
    """The score and the control of every head in every role, and the best head of each."""
    scores = role_scores(model, tokens)
    found = Findings(measurements={"head_roles": scores.score, "head_roles_control": scores.control})
    for name, role in HEADS.items():
        of_role = RoleScores(*(part.sel(role=role.name) for part in scores))
        found.figures[name], found.figures[f"{name}_control"] = best(of_role)
    try:
        prefix = prefix_matching(
            model, batch=len(tokens.tokens), seed=tokens.seed, bos=False if tokens.bos_left_out else None
        )
    except ArgumentError as error:
        nothing = Figure(unit="attention mass", reason=str(error))
        found.figures |= {"prefix_matching_head": nothing, "prefix_matching_head_control": nothing}
    else:
        found.measurements |= {"prefix_matching": prefix.score, "prefix_matching_control": prefix.control}
        found.figures["prefix_matching_head"], found.figures["prefix_matching_head_control"] = best(prefix)
    if tokens.bos:
        found.measurements["rest_on_bos"] = rest_scores(model, tokens)
    return found


def best(scores: RoleScores) -> tuple[Figure, Figure]:
    """The head that plays a role best, and its control."""
    score, control = scores
    choosing, reporting = split(score.shape[0])
    top = (score - control).sel(prompt=list(choosing)).mean("prompt").top(1)
    if not top.values.size:
        reason = "the model has no attention heads" if not score.values.size else "the model's patterns are not numbers"
        nothing = Figure(unit=score.unit, reason=reason)
        return nothing, nothing
    layer, head = (int(top.dataset[axis].item()) for axis in ("layer", "head"))
    means = (_of_head(part.sel(prompt=list(reporting)), layer, head) for part in (score, control))
    found, beside = (Figure.of(mean, label=f"{layer}.{head}") for mean in means)
    return found, beside


def candidates(found: Findings, role: str, *, below: int | None = None, above: int | None = None) -> list[str]:
    """Heads that are clearly above their control in a role, best first, on the prompts that heads are chosen on.

    Args:
        found: With the scores of all roles.
        role: The role's name.
        below: Only heads of layers below this one.
        above: Only heads of layers above this one.
    """
    difference = (found.measurements["head_roles"] - found.measurements["head_roles_control"]).sel(role=role)
    choosing, _ = split(difference.shape[0])
    means = difference.sel(prompt=list(choosing)).mean("prompt")
    if not means.values.size:
        return []
    top = means.top(means.values.size)
    heads = []
    for value, layer, head in zip(
        top.values.tolist(), top.dataset["layer"].values.tolist(), top.dataset["head"].values.tolist(), strict=True
    ):
        if (below is None or layer < below) and (above is None or layer > above) and (value >= CLEAR or not heads):
            heads.append(f"{layer}.{head}")
    return heads


def other_periods(model: HookedTransformer, tokens: RepeatedTokens, periods: Sequence[int] | None = None) -> Findings:
    """Induction score minus control of every head at other periods, and where the repetition begins later.

    Args:
        model: Model to read.
        tokens: What is asked otherwise.
        periods: Which ones; None: some shares of the tokens' own.
    """
    batch = max(1, len(tokens.tokens) // 3)
    parts, names = [], []
    room = (model.config.n_ctx - tokens.start) // 2
    for seq_len in periods or dict.fromkeys(round(tokens.seq_len * share) for share in SHARES):
        if SHORTEST <= seq_len <= room and seq_len != tokens.seq_len:
            scores = role_scores(model, _again(model, tokens, seq_len=seq_len, batch=batch), [INDUCTION])
            parts.append(torch.as_tensor((scores.score - scores.control).values[:, 0]))
            names.append(f"period {seq_len}")
    later = min(tokens.seq_len // 2 + 1, model.config.n_ctx - tokens.start - 2 * tokens.seq_len)
    seq_len = tokens.seq_len if later > 1 else tokens.seq_len * 2 // 3
    later = later if later > 1 else (model.config.n_ctx - tokens.start - 2 * seq_len) // 2
    if seq_len >= SHORTEST and later > 0:
        parts.append(_begun_later(model, _again(model, tokens, seq_len=seq_len, batch=batch), later))
        names.append(f"period {seq_len}, begun {later} tokens later")
    if not parts:
        return Findings()
    record = record_of(model, task="induction at other periods", seed=tokens.seed, settings=tokens.settings)
    measured = Measurement(
        torch.stack(parts, dim=1),
        ("prompt", "group", "layer", "head"),
        unit="attention mass",
        record=record,
        name="induction score − control, at other periods and a later beginning",
        coords={"group": names},
    )
    return Findings(measurements={"induction_by_period": measured})


def _again(model: HookedTransformer, tokens: RepeatedTokens, *, seq_len: int, batch: int) -> RepeatedTokens:
    """Other tokens of the same kind."""
    left_out = False if tokens.bos_left_out else None
    return repeated_tokens(model, seq_len=seq_len, batch=batch, seed=tokens.seed, rule=tokens.rule, bos=left_out)


def _begun_later(model: HookedTransformer, tokens: RepeatedTokens, later: int) -> Tensor:
    """`[prompt layer head]`: the induction stripe minus its control, with random tokens before the repetition."""
    settings = {"seq_len": tokens.seq_len, "batch": len(tokens.tokens), "rule": tokens.rule}
    bos = False if tokens.bos_left_out else None
    others = unrepeated_tokens(model, seed=tokens.seed, bos=bos, **settings)
    before = repeated_tokens(model, seed=tokens.seed + 1, bos=bos, **settings).tokens
    before = before[:, tokens.start : tokens.start + later]
    queries = torch.arange(tokens.middle + later, tokens.tokens.shape[1] + later)
    found = []
    for each in (tokens, others):
        shifted = torch.cat([each.tokens[:, : tokens.start], before, each.tokens[:, tokens.start :]], dim=1)
        counted = None if each.repeated else ~each.matches.cpu()
        cells = Cells(queries, queries - tokens.seq_len + 1, counted)
        found.append(masses(model, shifted, [cells])[:, 0])
    return found[0] - found[1]


def cut(model: HookedTransformer, tokens: RepeatedTokens, found: Findings) -> tuple[Figure, list[str]]:
    """What the induction head scores when the previous-token heads below it write nothing, and which these are.

    All of those that are clear of their control, since one may stand in for another; the best one at least.
    """
    head = found.figures["induction_head"].label
    if head is None:
        return Figure(unit="attention mass", reason="the model has no attention heads"), []
    layer, number = map(int, head.split("."))
    previous = candidates(found, PREVIOUS.name, below=layer)
    if not previous:
        reason = f"no previous-token head can lie below head {head}, which lies in the first layer"
        return Figure(unit="attention mass", label=head, reason=reason), []
    zeros = [Zero("z", layer=int(silenced.split(".")[0]), head=int(silenced.split(".")[1])) for silenced in previous]
    placed = [(point, edit) for zero in zeros for point, edit in zero.resolve(model).items()]
    with model.hooks(fwd_hooks=[(point, partial(_edited, edit)) for point, edit in placed]):
        scores = head_scores(model, tokens, INDUCTION)
    reported = scores.sel(prompt=list(split(len(tokens.tokens))[1]))
    return Figure.of(_of_head(reported, layer, number), label=head), previous


@torch.no_grad()
def pictured(model: HookedTransformer, tokens: RepeatedTokens, found: Findings) -> Findings:
    """The patterns of one short prompt, in the layers of the heads that were found."""
    short = _again(model, tokens, seq_len=min(PICTURED, tokens.seq_len), batch=1)
    labels = {name: found.figures[name].label for name in ("previous_token_head", "induction_head")}
    layers = {name: int(label.split(".")[0]) for name, label in labels.items() if label is not None}
    names = {name: get_act_name("pattern", layer) for name, layer in layers.items()}
    cache = model.run(short.tokens.to(model.device), reads=list(names.values())).cache
    words = [str(i) for i in short.tokens[0].tolist()]
    words = words if model.tokenizer is None else model.tokenizer.strings(short.tokens[0])
    measurements = {}
    for name, place in names.items():
        if bool(cache[place].isfinite().all()):
            task = f"pattern of layer {layers[name]}"
            measurements[f"pattern_{name}"] = Measurement(
                cache[place][0],
                ("head", "q_pos", "k_pos"),
                unit="attention mass",
                record=record_of(model, task=task, seed=tokens.seed, settings=short.settings),
                name=f"attention patterns of layer {layers[name]}",
                coords={"layer": layers[name], "token": ("k_pos", words)},
            )
    return Findings(measurements=measurements)


def _edited(edit: Edit, x: Tensor, hook: HookPoint) -> Tensor:
    return edit.apply(x)


def _of_head(scores: Measurement, layer: int, head: int) -> Measurement:
    return scores.sel(layer=layer, head=head).mean("prompt")
