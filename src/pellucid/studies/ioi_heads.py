"""Which head plays which role in naming the indirect object: each by a score, with its control.

In: the model and the prompts. Out: figures and Measurements. The best head is chosen on the first half of the prompts,
by score minus control; its figures come from the others. Source of the roles: Wang et al. 2022.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from pellucid.analysis.zoo_found import barred_where
from pellucid.analysis.zoo_roles import COPIES, ZOO
from pellucid.hooked_transformer import HookedTransformer
from pellucid.maths.statistics import split
from pellucid.measurement import Measurement
from pellucid.studies.ioi_prompts import Prompts
from pellucid.studies.result import Figure, Findings

MOST = 3
"""Heads of one role that are told; of name movers also those that are ablated to find backups, that S-inhibition is
measured on, and whose edges are looked at."""


@dataclass(frozen=True, eq=False)
class Role:
    """One role's score and control, ``[prompt layer head]``, and who may play it."""

    name: str
    score: Measurement
    control: Measurement
    barred: np.ndarray | None = None
    """``[layer head]``: why a head cannot be; empty where it can."""
    share: Measurement | None = None
    """What else the role asks for, ``[layer head]``: the share of names that a head copies."""
    reason: str = ""
    """Why no head can."""

    @property
    def least(self) -> float:
        """How far above its control a head must lie."""
        return ZOO[self.name].least

    def found(self) -> list[str]:
        """The heads that play it clearly, best first, at most `MOST`; chosen on the first half of the prompts."""
        return [label for label, value in self._ranked() if value >= self.least][:MOST]

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
            means = np.where(self.barred != "", np.nan, means)
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
    made = _movers(model, prompts, shares)
    for name, query, key in (("duplicate_token", "S2", "S1"), ("induction", "S2", "S1+1")):
        score, beside = (attention_between(model, each, query, key) for each in (pairs, control))
        made.append(Role(name, score, beside))
    made.append(Role("previous_token", *previous_attention(model, pairs)))
    made += _by_patching(model, prompts, [head_of(label) for label in made[0].found()])
    found = {role.name: _recorded(role, prompts) for role in made}
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
        score, control = (_times(looked, sign * written.values, "logits") for looked, written in sides)
        what = f"among the five tokens it writes {'against' if against else 'for'} most"
        barred = barred_where(shares[against].values <= COPIES, f"has {COPIES:.0%} of the names or less {what}")
        reason = f"no head has more than {COPIES:.0%} of the names, where it attends to them, {what}"
        made.append(Role(name, score, control, barred, shares[against], reason))
    return made


def _by_patching(model: HookedTransformer, prompts: Prompts, movers: Sequence[Head]) -> list[Role]:
    """The roles that are told by what becomes of the name movers: S-inhibition, and backup."""
    both = {prompts.turned: prompts.unrepeated.corrupted, prompts.control: prompts.control.corrupted}
    looked = [attention_between(model, pairs, "end", "S2") for pairs in both]
    if not movers:
        nothing = "no name mover was found, whose attention it could lower, or whose work it could take over"
        unknown = {"s_inhibition": "fraction", "backup": "logits"}
        none = {name: _times(looked[0], np.full(looked[0].shape, np.nan), unit) for name, unit in unknown.items()}
        return [Role(name, x, x, reason=nothing) for name, x in none.items()]
    out = np.zeros((model.config.n_layers, model.config.attention.n_heads), bool)
    for layer, head in movers:
        out[layer, head] = True
    layers = np.broadcast_to(np.arange(len(out))[:, None], out.shape)
    inhibition, beside = (
        _times(attention, lowered_attention(model, pairs, other, movers, ("S1", "S2")).values, "fraction", movers)
        for attention, (pairs, other) in zip(looked, both.items(), strict=True)
    )
    above = barred_where(layers >= max(layer for layer, _ in movers), "lies below no name mover")
    gained, by_others = _gained(model, prompts, movers), _gained_by_others(model, prompts, _others(movers, out))
    return [
        Role("s_inhibition", inhibition, beside, above, reason="no head lies below the name movers"),
        Role("backup", gained, by_others, barred_where(out, "is a name mover, and is out"), reason="all heads are out"),
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
    gained = after - before
    return _like(gained, gained.values, record=gained.record.add(settings={"out": [f"{x}.{y}" for x, y in heads]}))


def _gained_by_others(model: HookedTransformer, prompts: Prompts, others: Sequence[Head]) -> Measurement:
    """The same when others are out; of each of these, which then writes something else itself, when the rest are."""
    gained = _gained(model, prompts, others)
    values = gained.values.copy()
    for layer, head in others:
        rest = [other for other in others if other != (layer, head)]
        values[:, layer, head] = _gained(model, prompts, rest).values[:, layer, head] if rest else 0.0
    return _like(gained, values)


def _recorded(role: Role, prompts: Prompts) -> Role:
    """A role whose record tells which prompts these were."""
    told = {"seed": prompts.seed, "settings": prompts.settings}
    score, control = (_like(x, x.values, record=x.record.add(**told)) for x in (role.score, role.control))
    return replace(role, score=score, control=control)


def _times(looked: Measurement, by: np.ndarray, unit: str, readers: Sequence[Head] = ()) -> Measurement:
    """Attention, which is a share, times numbers of the same shape, such as what it takes from the readers'."""
    settings = {"readers": [f"{layer}.{head}" for layer, head in readers]} if readers else {"times": "attribution"}
    record, name = looked.record.add(settings=settings), f"{looked.name}, times what it does"
    return _like(looked, looked.values * by, unit=unit, record=record, name=name)


def _like(measured: Measurement, values: np.ndarray, **other: Any) -> Measurement:
    """Other numbers of the same prompts and heads, or the same of another record."""
    kept = {name: x for name, x in measured.dataset.coords.items() if name not in measured.dims}
    coords = {str(name): (tuple(map(str, x.dims)), x.values.tolist()) for name, x in kept.items()}
    told = {"unit": measured.unit, "record": measured.record, "name": measured.name}
    return Measurement(values, measured.dims, coords=coords, **told | other)
