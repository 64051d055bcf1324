"""Which head plays which role in naming the indirect object: each by a score, with its control.

In: the model and the prompts. Out: figures and Measurements. The best head is chosen on the first half of the prompts,
by score minus control; its figures come from the others. Source of the roles: Wang et al. 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pellucid.analysis.attribution import Swapped, logit_attribution
from pellucid.analysis.task_heads import (
    Head,
    attention_between,
    attention_from,
    copying,
    lowered_attention,
    previous_attention,
)
from pellucid.hooked_transformer import HookedTransformer
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.result import Figure, Findings

COPIES = 0.5
"""A name mover puts a name among its five most written tokens for this share of the names at least."""
CLEAR = {"attention mass": 0.05, "logits": 0.1}
"""By unit: a head is said to play a role from so much above its control on, in the mean of the prompts that choose."""
MOST = 3
"""Heads of one role that are told, and whose edges are looked at."""


@dataclass(frozen=True, eq=False)
class Role:
    """One role's score and control, ``[prompt layer head]``, and who may play it."""

    name: str
    score: Measurement
    control: Measurement
    barred: np.ndarray | None = None
    """``[layer head]``: True for heads that cannot be."""
    reason: str = ""
    """Why these cannot."""

    def found(self) -> list[str]:
        """The heads that play it clearly, best first, at most `MOST`; chosen on the first half of the prompts."""
        return [label for label, value in self._ranked() if value >= CLEAR[self.score.unit]][:MOST]

    def figures(self) -> dict[str, Figure]:
        """The best head's score, and its control, on the other half."""
        ranked, unit = self._ranked(), self.score.unit
        if not ranked:
            reason = self.reason if self.score.values.size else "the model has no attention heads"
            nothing = Figure(unit=unit, reason=reason or "the scores are no numbers")
            return {f"{self.name}_head{key}": nothing for key in ("", "_control", "_minus_control")}
        label = ranked[0][0]
        layer, head = head_of(label)
        _, reporting = split(self.score.shape[0], self.score.frames)
        told = {"": self.score, "_control": self.control, "_minus_control": self.score - self.control}
        return {
            f"{self.name}_head{key}": Figure.of(
                part.sel(prompt=list(reporting), layer=layer, head=head).mean("prompt"), label=label
            )
            for key, part in told.items()
        }

    def _ranked(self) -> list[tuple[str, float]]:
        if not self.score.values.size:
            return []
        choosing, _ = split(self.score.shape[0], self.score.frames)
        means = (self.score - self.control).sel(prompt=list(choosing)).mean("prompt").values
        if self.barred is not None:
            means = np.where(self.barred, np.nan, means)
        order = np.argsort(-np.nan_to_num(means.ravel(), nan=-np.inf), kind="stable")
        at = [(divmod(int(i), means.shape[1]), float(means.ravel()[i])) for i in order]
        return [(f"{layer}.{head}", value) for (layer, head), value in at if np.isfinite(value)]


def head_of(label: str) -> Head:
    """Layer and number of a head's name."""
    layer, head = label.split(".")
    return int(layer), int(head)


def roles(model: HookedTransformer, prompts: Prompts) -> tuple[Findings, dict[str, Role]]:
    """Every role: name mover, negative, S-inhibition, duplicate token, previous token, induction, backup."""
    pairs, control = prompts.turned, prompts.control
    shares = {against: copying(model, prompts.names, against=against) for against in (False, True)}
    found = {role.name: role for role in _movers(model, prompts, shares)}
    for name, query, key in (("duplicate_token", "S2", "S1"), ("induction", "S2", "S1+1")):
        score, beside = (attention_between(model, each, query, key) for each in (pairs, control))
        found[name] = Role(name, score, beside)
    found["previous_token"] = Role("previous_token", *previous_attention(model, pairs))
    movers = [head_of(label) for label in found["name_mover"].found()]
    for role in _by_patching(model, prompts, movers, shares[False]):
        found[role.name] = role
    findings = Findings(measurements={"copying_share": shares[False], "copying_share_against": shares[True]})
    for name, role in found.items():
        findings.figures |= role.figures()
        findings.measurements |= {f"{name}_score": role.score, f"{name}_control": role.control}
    return findings, found


def looks(model: HookedTransformer, prompts: Prompts) -> Findings:
    """For every head: where it looks from the end and from the second subject, and what it writes for either name."""
    pairs = prompts.turned
    made = {f"attention_from_{name}": attention_from(model, pairs, name) for name in ("end", "S2", "S2+1")}
    for name, ids in (("IO", pairs.answer), ("S", pairs.wrong)):
        made[f"writes_for_{name}"] = logit_attribution(model, pairs.with_answers(answer=ids), by="head")
    return Findings(measurements=made)


def _movers(model: HookedTransformer, prompts: Prompts, shares: dict[bool, Measurement]) -> list[Role]:
    """Attention from the end to the indirect object, times what the head writes for it."""
    sides = [
        (attention_between(model, pairs, "end", "IO"), logit_attribution(model, pairs, by="head"))
        for pairs in (prompts.turned, prompts.control)
    ]
    made = []
    for name, sign, against in (("name_mover", 1.0, False), ("negative", -1.0, True)):
        score, control = (_product(looked, written, sign) for looked, written in sides)
        what = "against" if against else "for"
        reason = f"no head has half of the names, where it attends to them, among the five tokens it writes {what} most"
        made.append(Role(name, score, control, shares[against].values < COPIES, reason))
    return made


def _by_patching(model: HookedTransformer, prompts: Prompts, movers: Sequence[Head], shares: Measurement) -> list[Role]:
    """The roles that are told by what becomes of the name movers: S-inhibition, and backup."""
    pairs, everywhere = prompts.turned, np.ones(shares.shape, bool)
    looked = attention_between(model, pairs, "end", "S2")
    if not movers:
        nothing = "no name mover was found, whose attention it could lower, or whose work it could take over"
        return [Role(name, looked, looked, everywhere, nothing) for name in ("s_inhibition", "backup")]
    lowest, best = min(layer for layer, _ in movers), movers[0]
    other = prompts.unrepeated.corrupted
    layers = np.broadcast_to(np.arange(shares.shape[0])[:, None], shares.shape)
    inhibition, unmoved = (
        _scaled(looked, lowered_attention(model, pairs, other, best, keys).values, "attention mass")
        for keys in (("S1", "S2"), ("IO",))
    )
    out = np.zeros(shares.shape, bool)
    for layer, head in movers:
        out[layer, head] = True
    gained, by_others = (_gained(model, prompts, heads) for heads in (movers, _others(movers, out)))
    return [
        Role("s_inhibition", inhibition, unmoved, layers >= best[0], "no head lies below the name movers"),
        Role(
            "backup",
            gained,
            by_others,
            out | (layers <= lowest) | (shares.values < COPIES),
            "no head above the name movers copies names",
        ),
    ]


def _others(heads: Sequence[Head], out: np.ndarray) -> list[Head]:
    """As many other heads of the same layers, as far as there are any."""
    free = {layer: [head for head in range(out.shape[1]) if not out[layer, head]] for layer, _ in heads}
    return [(layer, free[layer].pop(0)) for layer, _ in heads if free[layer]]


def _gained(model: HookedTransformer, prompts: Prompts, heads: Sequence[Head]) -> Measurement:
    """What each head writes more for the right name when some heads write what they do where nothing repeats."""
    before = logit_attribution(model, prompts.turned, by="head")
    swapped = Swapped(heads, prompts.unrepeated.corrupted)
    after = logit_attribution(model, prompts.turned, by="head", swapped=swapped)
    return after - before


def _product(looked: Measurement, written: Measurement, sign: float) -> Measurement:
    return _scaled(looked, sign * written.values, "logits")


def _scaled(looked: Measurement, by: np.ndarray, unit: str) -> Measurement:
    """Attention, which is a share, times numbers of the same shape in some unit."""
    kept = {name: x for name, x in looked.dataset.coords.items() if name not in looked.dims}
    return Measurement(
        looked.values * by,
        looked.dims,
        unit=unit,
        record=looked.record.add(settings={"times": unit}),
        name=f"{looked.name}, times what it does",
        coords={str(name): (tuple(map(str, x.dims)), x.values.tolist()) for name, x in kept.items()},
    )
