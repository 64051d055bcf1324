"""Heads of the study of contractions, taken apart: what each part brings back, where they look, what they write.

In: a model and the prompts. Out: Measurements of each head, and figures of the head that matters most. It is chosen on
one half of the prompts; all that is said of it is measured on the other, by the same prompts for each part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.frames import Frames
from pellucid.maths.statistics import effect
from pellucid.measurement import Measurement
from pellucid.model.norms import widened
from pellucid.patching.sites import point
from pellucid.studies.contractions_frames import by_frame, chosen, groups_of, halves, judged
from pellucid.studies.ioi_parts import heads_swept
from pellucid.studies.result import Figure, Findings
from pellucid.tasks.pairs import Pairs

SILENT = 1e-3
"""Of what the loudest head writes: below it there is nothing whose direction could be compared."""
WAYS = {"shared": "both alike", "different": "one of them"}


def heads_apart(model: HookedTransformer, pairs: Pairs, *, delta: float) -> Findings:
    """Each head: all of its output, its pattern alone, its values, queries and keys; and which of them the best needs.

    Args:
        model: Any model.
        pairs: Clean and corrupted.
        delta: Logits, up to which values and pattern count as alike.
    """
    found = heads_swept(model, pairs)
    effects = {site: found.measurements[f"heads_{site}"].effect() for site in ("z", "pattern", "v")}
    best = chosen(effects["z"])
    if not best:
        reason = "no head changes anything"
        names = ("head", "head_by_pattern", "head_by_v", "head_v_minus_pattern")
        found.figures |= {name: Figure(unit="logits", reason=reason) for name in names}
        return found
    layer, head = divmod(best[0], effects["z"].shape[2])
    group = model.config.attention.n_heads // model.config.attention.kv_heads
    own = {"layer": layer, "head": head}
    where = {"z": own, "pattern": own, "v": own if group == 1 else {"layer": layer, "kv_head": head // group}}
    choosing, told = {}, {}
    for site, name in (("z", "head"), ("pattern", "head_by_pattern"), ("v", "head_by_v")):
        choosing[site], told[site] = (half.sel(**where[site]) for half in halves(effects[site]))
        label = f"{layer}.kv{head // group}" if site == "v" and group > 1 else f"{layer}.{head}"
        found.figures[name] = Figure.of(told[site].mean("prompt"), label=label)
    sign = -1.0 if choosing["z"].mean("prompt").item() < 0 else 1.0
    found.figures["head_v_minus_pattern"] = _way({site: sign * by_frame(told[site]) for site in told}, delta)
    return found


def _way(back: Mapping[str, np.ndarray], delta: float) -> Figure:
    """Values minus pattern, frame by frame, both in the direction in which the head matters; and what that says."""
    figure = judged(back["v"] - back["pattern"], delta=delta, words=WAYS)
    label = figure.label
    if _nothing(back["z"], delta):
        label = "nothing beyond δ"
    elif _nothing(back["v"], delta) and _nothing(back["pattern"], delta):
        label = "neither alone"
    elif label == "one of them":
        label = "what it finds there" if (figure.value or 0) > 0 else "where it looks"
    return replace(figure, label=label, reason=figure.reason if label == "undecided" else None)


def _nothing(x: np.ndarray, delta: float) -> bool:
    """Whether it is shown that this brings nothing back."""
    figure = judged(x, delta=delta)
    return figure.label == "shared" or (figure.high is not None and figure.high <= 0)


@torch.no_grad()
def attention(model: HookedTransformer, pairs: Pairs, head: str | None) -> Findings:
    """How much each head attends from the last token to the contraction; beside it, to the verb written out there.

    Args:
        model: Any model.
        pairs: With the position ``contraction``.
        head: The head that matters most, such as ``"7.11"``; None: there is none.
    """
    found, each = Findings(), {}
    record = record_of(model, task="attention from the end to the contraction", settings={})
    for side, name in (("clean", "attention_to_contraction"), ("corrupted", "attention_to_verb")):
        each[side] = found.measurements[name] = Measurement(
            _attention(model, pairs, side),
            ("prompt", "layer", "head"),
            unit="attention mass",
            record=record,
            name=name.replace("_", " "),
            coords=pairs.labels,
            variables={"uniform": ("prompt", 1 / (1 + pairs.positions["end"].double()))},
        )
    reporting = {side: halves(measured)[1] for side, measured in each.items()}
    clean = each["clean"]
    found.figures["attends_most"] = Figure.best(clean.best(1), otherwise="the model has no heads")
    for name, side in (("head_attends", "clean"), ("head_attends_to_verb", "corrupted")):
        if head is None:
            found.figures[name] = Figure(unit="attention mass", reason="no head changes anything")
            continue
        layer, number = map(int, head.split("."))
        found.figures[name] = Figure.of(reporting[side].sel(layer=layer, head=number).mean("prompt"), label=head)
    return found


def _attention(model: HookedTransformer, pairs: Pairs, side: str) -> Tensor:
    """``[prompt layer head]``."""
    names, parts = [point("pattern", layer) for layer in range(model.config.n_layers)], []
    for rows in torch.arange(len(pairs)).split(16):
        tokens = getattr(pairs, side)[rows].to(model.device)
        cache = model.run(tokens, reads=names, return_type=None, padding_side="right").cache
        at, end, key = torch.arange(len(rows)), pairs.positions["end"][rows], pairs.positions["contraction"][rows]
        parts.append(torch.stack([cache[name][at, :, end, key] for name in names], 1).double().cpu())
    return torch.cat(parts)


def alike(model: HookedTransformer, pairs: Pairs, effects: Mapping[str, Measurement]) -> Findings:
    """Whether the two heads that matter most write the same of a contraction, in the runs and by their weights.

    In the runs: what each writes at the end of the contracted sentence, minus what it writes at that of the one written
    out. The cosine over all prompts counts each by how much is written there; of each group beside it. By the weights:
    the cosine of the two matrices `W_V W_O`, as the model has them.
    """
    names, found = ("heads_write_alike", "heads_ov_alike"), Findings()
    two = chosen(effects["heads_z"].effect(), 2)
    if len(two) < 2:
        found.figures |= {name: Figure(unit="cosine", reason="there are no two heads that matter") for name in names}
        return found
    heads = [divmod(at, model.config.attention.n_heads) for at in two]
    label = " and ".join(f"{layer}.{head}" for layer, head in heads)
    wrote = [_written(model, pairs, *head) for head in heads]
    found.figures |= _cosines(pairs, wrote, label)
    found.figures["heads_ov_alike"] = Figure(
        unit="cosine", value=_ov_cosine(model, heads), label=label, reason="weights have no interval"
    )
    return found


@torch.no_grad()
def _written(model: HookedTransformer, pairs: Pairs, layer: int, head: int) -> Tensor:
    """``[prompt d_model]``: what a head writes at the end, clean minus corrupted."""
    name, W_O = point("z", layer), widened(model.blocks[layer].attn.W_O[head].detach()).double()
    sides = []
    for side in ("clean", "corrupted"):
        parts = []
        for rows in torch.arange(len(pairs)).split(64):
            tokens = getattr(pairs, side)[rows].to(model.device)
            z = model.run(tokens, reads=[name], return_type=None, padding_side="right").cache[name]
            parts.append(z[torch.arange(len(rows)), pairs.positions["end"][rows], head].double() @ W_O)
        sides.append(torch.cat(parts).cpu())
    return sides[0] - sides[1]


def _cosines(pairs: Pairs, wrote: Sequence[Tensor], label: str) -> dict[str, Figure]:
    """Over all prompts, and of each group."""
    numbers = (wrote[0] * wrote[1]).sum(1), wrote[0].square().sum(1), wrote[1].square().sum(1)
    least = SILENT**2 * max(float(numbers[1].mean()), float(numbers[2].mean()))
    rows: dict[str, list[int]] = {"": list(range(len(pairs)))}
    rows |= {f" {name}": [at for at, one in enumerate(pairs.group or ()) if one == name] for name in groups_of(pairs)}
    found = {}
    for name, at in rows.items():
        frames = list(at) if pairs.frame is None else [pairs.frame[row] for row in at]
        inner, *squares = (Frames.of(frames, len(at)).means(x[at].numpy()[:, None])[:, 0] for x in numbers)
        quiet = [one for one, square in zip(label.split(" and "), squares, strict=True) if square.mean() <= least]
        found[f"heads_write_alike{name}"] = (
            Figure(
                unit="cosine", label=label, reason=f"{quiet[0]} writes nothing at the end that a contraction changes"
            )
            if quiet
            else _cosine(inner, squares[0], squares[1], label)
        )
    return found


def _cosine(inner: np.ndarray, ours: np.ndarray, theirs: np.ndarray, label: str) -> Figure:
    """Of sums over frames; each frame's number is linearised about it, so that the mean has an interval."""
    size = float(np.sqrt(ours.mean() * theirs.mean()))
    ratio = float(inner.mean()) / size
    each = effect(ratio + inner / size - ratio / 2 * (ours / ours.mean() + theirs / theirs.mean()), quiet=True)
    low, high = (float(np.clip(x, -1, 1)) for x in (each.low, each.high))
    return Figure.between(ratio, low, high, unit="cosine", label=label)


def _ov_cosine(model: HookedTransformer, heads: Sequence[tuple[int, int]]) -> float:
    """Of two matrices ``[d_model d_model]`` that are never formed: ⟨V₁O₁, V₂O₂⟩ = ⟨V₁ᵀV₂, O₁O₂ᵀ⟩."""
    group = model.config.attention.n_heads // model.config.attention.kv_heads
    attn = [(model.blocks[layer].attn, head) for layer, head in heads]
    V = [widened(of.W_V[head // group].detach()).double() for of, head in attn]
    W_O = [widened(of.W_O[head].detach()).double() for of, head in attn]

    def inner(one: int, other: int) -> float:
        return float(((V[one].T @ V[other]) * (W_O[one] @ W_O[other].T)).sum())

    size = (inner(0, 0) * inner(1, 1)) ** 0.5
    return inner(0, 1) / size if size else 0.0
