"""The zoo of head roles: for each a score, a control, a test of one against the other, and a plain yes or no.

In: a model. Out: every head in every role of `zoo_roles.py`. Roles of attention are told from one batched pass over
random tokens, the others from the weights, where there are no prompts and so no interval and no test. Those that need a
task are found where tasks are known: `pellucid.studies.heads_page.task_roles`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pellucid.analysis.compose import composition
from pellucid.analysis.copying import copying_score
from pellucid.analysis.heads import BOS, DUPLICATE, INDUCTION, PREVIOUS, SELF
from pellucid.analysis.reading import about_bos
from pellucid.analysis.repeated import RepeatedTokens, repeated_tokens
from pellucid.analysis.zoo_attention import attention_roles
from pellucid.analysis.zoo_roles import POSITIONAL, ZOO, ZooRole, role_named
from pellucid.analysis.zoo_weights import copy_suppression, successor
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.base.shown import Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement

if TYPE_CHECKING:
    import rich.table

ALPHA = 0.05
_STRIPES = {"previous_token": PREVIOUS, "duplicate_token": DUPLICATE, "induction": INDUCTION, "bos": BOS, "self": SELF}
_INPUTS = {f"{name}_composition": name for name in "qkv"}


class HeadRow(NamedTuple):
    """One head in one role."""

    head: str
    score: float
    low: float
    """NaN without prompts, or with one."""
    high: float
    control: float
    p: float
    """Of score minus control, corrected over the heads; NaN where nothing can be tested."""
    plays: bool | None
    """Clearly above its control; None: one prompt cannot tell."""
    partner: str | None = None
    """The earlier head that it composes with most."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Found:
    """Every head in one role."""

    role: ZooRole
    score: Measurement | None = None
    """``[prompt layer head]``, or ``[layer head]`` from weights; None: see `reason`."""
    control: Measurement | None = None
    """On the same axes."""
    test: Measurement | None = None
    """Score minus control, ``[layer head]``, with ``low``, ``high``, ``p_value`` and ``p_corrected``; None: no
    prompts."""
    reason: str = ""
    """Why there is no score."""
    partners: tuple[str, ...] = ()
    """For each head the one that it composes with most."""
    barred: np.ndarray | None = field(default=None, repr=False)
    """``[layer head]``: True for heads that cannot play it."""
    alpha: float = ALPHA

    @classmethod
    def of(
        cls,
        role: ZooRole,
        score: Measurement,
        control: Measurement,
        *,
        correction: str = "fdr",
        alpha: float = ALPHA,
        barred: np.ndarray | None = None,
    ) -> "Found":
        """A role with its test: the difference by prompt, corrected over the heads.

        Raises:
            ArgumentError: Score and control speak of different cells; `alpha` cannot be.
            UnknownNameError: There is no such correction.

        Warns:
            MisreadWarning: Nothing was found, and nothing could have been: there are too few prompts.
        """
        test = None
        if "prompt" in score.dims and score.shape[0] > 1 and score.values.size:
            difference = score - control
            found = difference.significant(alpha, correction=correction)
            means = difference.mean("prompt")  # `significant` leaves out what is not
            p = found.dataset["p_corrected"].values
            test = Measurement(
                means.values,
                means.dims,
                unit=means.unit,
                record=found.record.add(settings={"correction": correction, "alpha": alpha}),
                name=f"{role.name}, score minus control",
                variables={
                    "p_corrected": (means.dims, p),
                    **{key: (means.dims, found.dataset[key].values) for key in ("low", "high", "p_value")},
                },
            )
        return cls(role=role, score=score, control=control, test=test, alpha=alpha, barred=barred)

    def rows(self) -> list[HeadRow]:
        """A row for each head, those that lie farthest above their control first; barred heads come last."""
        if self.score is None or self.control is None:
            return []
        with_prompts = "prompt" in self.score.dims
        means = self.score.mean("prompt").dataset if with_prompts else self.score.dataset
        control = (self.control.mean("prompt") if with_prompts else self.control).values
        values, none = means["value"].values, np.full(means["value"].shape, np.nan)
        low, high = (means[key].values if key in means else none for key in ("low", "high"))
        p = none if self.test is None else self.test.dataset["p_corrected"].values
        gap = values - control
        if self.barred is not None:
            gap = np.where(self.barred, np.nan, gap)
        order = np.argsort(-np.nan_to_num(gap.ravel(), nan=-np.inf), kind="stable")
        rows = []
        for at in (np.unravel_index(i, gap.shape) for i in order):
            here = {
                name: float(x[at])
                for name, x in {"score": values, "low": low, "high": high, "control": control, "p": p}.items()
            }
            plays = self._plays(float(gap[at]), here["p"], with_prompts)
            partner = self.partners[int(np.ravel_multi_index(at, gap.shape))] if self.partners else None
            rows.append(HeadRow(head=f"{at[0]}.{at[1]}", **here, plays=plays, partner=partner or None))
        return rows

    def players(self) -> list[str]:
        """The heads that clearly play it, best first."""
        return [row.head for row in self.rows() if row.plays]

    def best(self) -> Measurement | None:
        """The best head's score, chosen on one half of the prompts and measured on the other; None without prompts."""
        if self.score is None or self.control is None or self.test is None:
            return None
        by = self.score - self.control
        if self.barred is not None:
            kept = {str(key): (tuple(map(str, x.dims)), x.values.tolist()) for key, x in by.dataset.coords.items()}
            frames = {key: x for key, x in kept.items() if key not in by.dims}
            values = np.where(self.barred, np.nan, by.values)
            by = Measurement(values, by.dims, unit=by.unit, record=by.record, name=by.name, coords=frames)
        return self.score.best(1, by=by)

    def _plays(self, gap: float, p: float, with_prompts: bool) -> bool | None:
        if not np.isfinite(gap) or gap < self.role.least:
            return False
        if not with_prompts:
            return True
        return None if np.isnan(p) else p <= self.alpha


@dataclass(frozen=True, eq=False, repr=False)
class Zoo:
    """Every head in some roles."""

    found: Mapping[str, Found]
    correction: str = "fdr"

    def __getitem__(self, name: str) -> Found:
        """One role.

        Raises:
            UnknownNameError: It was not looked for.
        """
        if name not in self.found:
            raise UnknownNameError(f"role must be one that was looked for, got {name!r}{nearest(name, self.found)}")
        return self.found[name]

    @property
    def scores(self) -> dict[str, Measurement]:
        """Of each role that the model can have."""
        return {name: one.score for name, one in self.found.items() if one.score is not None}

    @property
    def controls(self) -> dict[str, Measurement]:
        """Of each role that the model can have."""
        return {name: one.control for name, one in self.found.items() if one.control is not None}

    @property
    def tests(self) -> dict[str, Measurement]:
        """Score minus control, of each role that is told from prompts."""
        return {name: one.test for name, one in self.found.items() if one.test is not None}

    def __repr__(self) -> str:
        return self._shown().text()

    def __rich__(self) -> "rich.table.Table":
        return self._shown().table()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> Shown:
        """The best head of each role, and who clearly plays it."""
        columns, rows = ["role", "best head", "score", "control", "p", "clear heads"], []
        for name, one in self.found.items():
            listed = one.rows()
            if not listed:
                rows.append([name, "-", "-", "-", "-", one.reason])
                continue
            best, p = listed[0], "-" if np.isnan(listed[0].p) else f"{listed[0].p:.2g}"
            players = " ".join(one.players()[:8]) or ("untested" if best.plays is None else "none")
            rows.append([name, best.head, f"{best.score:.2f}", f"{best.control:.2f}", p, players])
        return Shown(title=f"Zoo: p corrected over heads ({self.correction})", columns=columns, rows=rows, rest=0)


def zoo(
    model: HookedTransformer,
    roles: Sequence[str] | None = None,
    *,
    seq_len: int | None = None,
    batch: int = 30,
    seed: int = 0,
    correction: str = "fdr",
    alpha: float = ALPHA,
) -> Zoo:
    """How strongly each head plays each role, with intervals, controls, and tests corrected over the heads.

    Args:
        model: Model to read.
        roles: Names in `ZOO`, or ``positional_k``; None: all that need no task.
        seq_len: Random tokens of a half; None for `default_seq_len`.
        batch: Prompts.
        seed: Of the random tokens, and of the controls of weights.
        correction: ``"fdr"``: Benjamini and Hochberg; ``"max"``: the max-statistic; over the heads, role by role.
        alpha: As for `Measurement.significant`.

    Returns:
        The roles in the order asked for. One that this model cannot have has a reason instead of scores.

    Raises:
        UnknownNameError: There is no such role, or no such correction.
        ArgumentError: A role needs a task; `seq_len` or `batch` cannot be.

    Warns:
        MisreadWarning: Too few prompts for anything to come out significant.

    Source: the roles' own: Olsson et al. 2022 (attention), Elhage et al. 2021 (copying, composition), McDougall et al.
    2023 (copy suppression), Gould et al. 2023 (successor).

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> found = zoo(model, ["previous_token", "induction", "copying"])
        >>> found["previous_token"].players(), sorted(found["copying"].players())
        (['0.1'], ['1.0', '1.1', '1.2', '1.3'])
    """
    named = [role for role in ZOO.values() if role.kind != "task"] if roles is None else list(map(role_named, roles))
    for role in named:
        if role.kind == "task":
            raise ArgumentError(
                f"the role {role.name} needs a task; take pellucid.studies.heads_page.task_roles, or `pellucid heads "
                f"--role {role.name}`"
            )
    tokens = None
    if any(role.kind == "attention" for role in named):
        tokens = repeated_tokens(model, seq_len=seq_len, batch=batch, seed=seed)
    found = {} if tokens is None else _by_attention(model, named, tokens, correction, alpha)
    found |= {role.name: _by_weights(model, role, seed) for role in named if role.kind == "weights"}
    return Zoo({role.name: found[role.name] for role in named}, correction)


def _by_attention(
    model: HookedTransformer, named: Sequence[ZooRole], tokens: RepeatedTokens, correction: str, alpha: float
) -> dict[str, Found]:
    """The attention roles among those named, together."""
    found, stripes, offsets = {}, [], []
    longest = tokens.tokens.shape[1] - 1 - tokens.bos
    asked = {role.name: role for role in named if role.kind == "attention"}
    for name, role in asked.items():
        if name == "bos" and not tokens.bos:
            found[name] = Found(role=role, reason=about_bos(model))
        elif name in _STRIPES:
            stripes.append(_STRIPES[name])
        elif (k := int(name.removeprefix(POSITIONAL))) <= longest:
            offsets.append(k)
        else:
            reason = f"no token lies {k} back in prompts of {tokens.tokens.shape[1]} tokens"
            found[name] = Found(role=role, reason=reason)
    made = attention_roles(model, tokens, stripes, offsets=offsets)
    for name, role in asked.items():
        if name not in found:
            stripe = _STRIPES[name].name if name in _STRIPES else name.replace("_", " ")
            found[name] = Found.of(role, *made[stripe], correction=correction, alpha=alpha)
    return found


def _by_weights(model: HookedTransformer, role: ZooRole, seed: int) -> Found:
    """A role that is told from the weights, or why it is not."""
    try:
        if role.name in _INPUTS:
            return _composing(model, role, seed)
        read = {
            "copying": lambda: copying_score(model, seed=seed),
            "copy_suppression": lambda: copy_suppression(model, seed=seed),
            "successor": lambda: successor(model),
        }
        score = read[role.name]()
    except (ArgumentError, TokenError) as error:
        return Found(role=role, reason=str(error))
    return Found(role=role, score=score, control=_beside(score, score.dataset["control"].values, role))


def _composing(model: HookedTransformer, role: ZooRole, seed: int) -> Found:
    """For each head the earlier head that it composes with most; none below the second layer."""
    pairs = composition(model, seed=seed).sel(input=_INPUTS[role.name]).dataset
    n_layers, n_heads = model.config.n_layers, model.config.attention.n_heads
    raw, chance = pairs["raw"].values.reshape(n_layers * n_heads, n_layers, n_heads), float(pairs["baseline"])
    score = np.full((n_layers, n_heads), np.nan)
    partners = [""] * (n_layers * n_heads)
    for layer in range(1, n_layers):
        earlier = raw[: layer * n_heads, layer]
        score[layer] = earlier.max(0)
        for head, at in enumerate(earlier.argmax(0)):
            partners[layer * n_heads + head] = "{}.{}".format(*divmod(int(at), n_heads))
    record = record_of(model, task=role.name, seed=seed, settings={"norms": "folded", "partner": "strongest"})
    made = Measurement(score, ("layer", "head"), unit="fraction", record=record, name=role.name)
    control = np.where(np.isnan(score), np.nan, chance)
    return Found(role=role, score=made, control=_beside(made, control, role), partners=tuple(partners))


def _beside(score: Measurement, control: np.ndarray, role: ZooRole) -> Measurement:
    name = f"{role.name}, control"
    return Measurement(control, score.dims, unit=score.unit, record=score.record, name=name)
