"""The zoo of head roles: for each a score, a control, a test of one against the other, and a plain yes or no.

In: a model. Out: every head in every role of `zoo_roles.py`. Roles of attention are told from one batched pass over
random tokens, the others from the weights: by tokens, or beside what chance gives. Those that need a task are found
where tasks are known: `pellucid.studies.heads_page.task_roles`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pellucid.analysis.compose import MODELS, composition, strongest_by_chance
from pellucid.analysis.copying import copying_by_chance, multiplications
from pellucid.analysis.heads import BOS, DUPLICATE, INDUCTION, PREVIOUS, SELF, role_scores
from pellucid.analysis.reading import about_bos
from pellucid.analysis.repeated import RepeatedTokens, repeated_tokens
from pellucid.analysis.texts import Texts
from pellucid.analysis.zoo_attention import attention_roles, positional_on_texts
from pellucid.analysis.zoo_found import ALPHA, Found, check_test
from pellucid.analysis.zoo_roles import INDUCTION_ALONE, POSITIONAL, SHUFFLED, ZOO, ZooRole, positional, roles_named
from pellucid.analysis.zoo_weights import copy_suppression, successor
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.base.shown import Showing, Shown
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.measurement import Measurement

STRIPES = {"previous_token": PREVIOUS, "duplicate_token": DUPLICATE, "induction": INDUCTION, "bos": BOS, "self": SELF}
"""Where a head attends that plays a role of attention, by the role's name in the zoo."""
DRAWS, FEW, LONG = 99, 49, 10**12
"""Shuffled vocabularies that copying is ranked among, and how many where the first would take more multiplications than
the last number, which are about half a minute on one core. With 19 a head 5 deviations out of 144 is missed once in
three."""
MOST = 9999
"""Random models at most, which cost little; they are more than `MODELS` where a small `alpha` asks for it."""
_INPUTS = {f"{name}_composition": name for name in "qkv"}
_SHARES = (2 / 3, 1 / 2, 3 / 2, 2)
"""Other distances that induction is asked for at, as shares of the tokens' own: the first two that fit."""


@dataclass(frozen=True, eq=False, repr=False)
class Zoo(Showing):
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
        """Score minus control, of each role that could be tested."""
        return {name: one.test for name, one in self.found.items() if one.test is not None}

    def _shown(self, *, brief: bool) -> Shown:
        """The best head of each role, and who clearly plays it."""
        columns, rows = ["role", "best head", "score", "control", "p", "clear heads"], []
        for name, one in self.found.items():
            best = one.leader()
            if best is None:
                rows.append([name, "-", "-", "-", "-", one.reason or "; ".join(one.bars())])
                continue
            p = "-" if np.isnan(best.p) else f"{best.p:.2g}"
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
    texts: Texts | None = None,
    correction: str = "fdr",
    alpha: float = ALPHA,
) -> Zoo:
    """How strongly each head plays each role, with intervals, controls, and tests corrected over the heads.

    Induction is asked for at two other distances too: shorter ones, or longer ones where the halves are too short for
    that and the context has room. A head that clearly fails there cannot play it. Copying and composition are read off
    the weights, where nothing is sampled: they have no interval, and are ranked among what shuffled vocabularies and
    random heads give, by the farthest head of each draw, whichever correction is asked for. Copying takes longest: at
    GPT-2 small's size about 40 seconds on one core.

    Args:
        model: Model to read.
        roles: Names in `ZOO`, or ``positional_k``; None: all that need no task.
        seq_len: Random tokens of a half; None for `default_seq_len`.
        batch: Prompts.
        seed: Of the random tokens, and of the controls of weights.
        texts: What positional roles are told from, its tokens shuffled within each row; rows are as long as the random
            prompts, and as many at most. None: random tokens that do not repeat.
        correction: ``"fdr"``: Benjamini and Hochberg; ``"max"``: the max-statistic; over the heads, role by role.
        alpha: As for `Measurement.significant`.

    Returns:
        The roles in the order asked for. One that this model cannot have has a reason instead of scores.

    Raises:
        UnknownNameError: There is no such role, or no such correction.
        ArgumentError: A role needs a task; an argument that cannot be; no row of the texts is long enough.

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
    named = [role for role in ZOO.values() if role.kind != "task"] if roles is None else roles_named(roles)
    for role in named:
        if role.kind == "task":
            raise ArgumentError(
                f"the role {role.name} needs a task; take pellucid.studies.heads_page.task_roles, or `pellucid heads "
                f"--role {role.name}`"
            )
    check_test(correction, alpha)
    check_seed(seed)
    at_least("batch", batch, 1)
    seq_len = None if seq_len is None else at_least("seq_len", seq_len, 2)
    test: dict[str, Any] = {"correction": correction, "alpha": alpha}
    found: dict[str, Found] = {}
    if asked := {role.name: role for role in named if role.kind == "attention"}:
        found |= _by_attention(
            model, asked, repeated_tokens(model, seq_len=seq_len, batch=batch, seed=seed), texts, test
        )
    found |= _by_weights(model, {role.name: role for role in named if role.kind == "weights"}, seed, test)
    return Zoo({role.name: found[role.name] for role in named}, correction)


def check_seed(seed: int) -> None:
    """Whether random numbers can have this seed.

    Raises:
        ArgumentError: They cannot.
    """
    if at_least("seed", seed, 0) >= 2**63:
        raise ArgumentError(f"seed must lie below 2^63, got {seed}")


def _by_attention(
    model: HookedTransformer,
    asked: Mapping[str, ZooRole],
    tokens: RepeatedTokens,
    texts: Texts | None,
    test: Mapping[str, Any],
) -> dict[str, Found]:
    """The attention roles among those asked for, together."""
    found, offsets, n_pos = {}, {}, tokens.tokens.shape[1]
    for name, role in asked.items():
        k = 0 if name in STRIPES else int(name.removeprefix(POSITIONAL))
        if name == "bos" and not tokens.bos:
            found[name] = Found(role=role, reason=about_bos(model))
        elif k > n_pos - 1 - tokens.bos:
            found[name] = Found(role=role, reason=f"no token lies {k} back in prompts of {n_pos} tokens")
        elif k:
            offsets[name] = k
    stripes = [STRIPES[name] for name in asked if name in STRIPES and name not in found]
    made = attention_roles(model, tokens, stripes, offsets=list(offsets.values()) if texts is None else ())
    if texts is not None and offsets:
        rows = {"length": n_pos, "rows": len(tokens.tokens), "seed": tokens.seed}
        made |= positional_on_texts(model, texts, list(offsets.values()), **rows)
    for name, role in asked.items():
        if name in found:
            continue
        role = positional(offsets[name], SHUFFLED) if name in offsets and texts is not None else role
        scored = made[STRIPES[name].name if name in STRIPES else name.replace("_", " ")]
        if name != "induction":
            found[name] = Found.of(role, *scored, **test)
            continue
        others = _other_distances(model, tokens)
        barred = _at_one_distance(model, tokens, others, *scored, role.least)
        asked_at = f"asked at {' and '.join(map(str, others))} tokens too"
        if not others:
            asked_at = "asked at no other distance, for which the context has no room"
            role = replace(role, about=f"{INDUCTION_ALONE}, at {tokens.seq_len} tokens alone")
        one = Found.of(role, *scored, **test, barred=barred)
        found[name] = replace(one, how=f"{one.how}; {asked_at}" if one.how else "")
    return found


def _other_distances(model: HookedTransformer, tokens: RepeatedTokens) -> list[int]:
    """At how many tokens else induction is asked for: two, or what there is room for."""
    own, room = tokens.seq_len, (model.config.n_ctx - tokens.bos) // 2
    return [n for n in dict.fromkeys(int(own * share) for share in _SHARES) if 2 <= n <= room and n != own][:2]


def _at_one_distance(
    model: HookedTransformer,
    tokens: RepeatedTokens,
    others: Sequence[int],
    score: Measurement,
    control: Measurement,
    least: float,
) -> np.ndarray | None:
    """The heads that look back as induction heads do, and at another distance clearly do not.

    Clearly: the 95 % interval of score minus control lies below `least` there, over a third of the prompts. Where it
    does not, the head stays as it is.
    """
    if not others or not score.values.size:
        return None
    batch, failed = max(2, len(tokens.tokens) // 3), []
    for n in others:
        again = repeated_tokens(model, seq_len=n, batch=batch, seed=tokens.seed, rule=tokens.rule, bos=tokens.bos)
        there = role_scores(model, again, [INDUCTION])
        failed.append((there.score - there.control).mean("prompt").dataset["high"].values[0] < least)
    plays = (score - control).values.mean(0) >= least
    barred = np.full(plays.shape, "", dtype=object)
    for at in zip(*np.nonzero(plays & np.any(failed, 0)), strict=True):
        where = " or ".join(str(n) for n, fails in zip(others, failed, strict=True) if fails[at])
        barred[at] = f"does so where the copy begins after {tokens.seq_len} tokens, and not after {where}"
    return barred


def _by_weights(
    model: HookedTransformer, asked: Mapping[str, ZooRole], seed: int, test: Mapping[str, Any]
) -> dict[str, Found]:
    """The roles that are told from the weights, or why they are not."""
    found = {}
    composed = [role for name, role in asked.items() if name in _INPUTS]
    ways = {"copying": lambda role: _copying(model, role, seed, test["alpha"])}
    ways["copy_suppression"] = lambda role: _by_tokens(role, copy_suppression(model, seed=seed), test, "tokens")
    ways["successor"] = lambda role: _by_tokens(role, successor(model), test, "words")
    for name, role in asked.items():
        if name in ways:
            try:
                found[name] = ways[name](role)
            except (ArgumentError, TokenError) as error:
                found[name] = Found(role=role, reason=str(error))
    return found | (_composing(model, composed, seed, test["alpha"]) if composed else {})


def _reaching(alpha: float) -> int:
    """How many draws of chance reach `alpha`."""
    return math.ceil(1 / alpha - 1e-9) - 1


def _copying(model: HookedTransformer, role: ZooRole, seed: int, alpha: float) -> Found:
    usual = FEW if DRAWS * multiplications(model) > LONG else DRAWS
    draws = max(usual, min(999, _reaching(alpha)))
    made = copying_by_chance(model, draws=draws, seed=seed).numpy()
    record = record_of(model, task=role.name, seed=seed, settings={"embedding": "raw", "norms": "folded"})
    score = Measurement(made[0], ("layer", "head"), unit="fraction", record=record, name=role.name)
    found = Found.by_chance(role, score, made[1:], alpha=alpha)
    return (
        replace(found, how=f"{found.how}; {draws}, not {DRAWS}, for a model of this size") if draws < DRAWS else found
    )


def _by_tokens(role: ZooRole, score: Measurement, test: Mapping[str, Any], unit: str) -> Found:
    coords = {key: ("prompt", score.dataset[key].values.tolist()) for key in ("token", "frame") if key in score.dataset}
    told = {"unit": score.unit, "record": score.record, "name": f"{role.name}, control", "coords": coords}
    control = Measurement(score.dataset["control"].values, score.dims, **told)
    return Found.of(role, score, control, **test, unit=unit)


def _composing(model: HookedTransformer, roles: Sequence[ZooRole], seed: int, alpha: float) -> dict[str, Found]:
    """For each head the earlier head that it composes with most; none in the first layer."""
    n_layers, n_heads = model.config.n_layers, model.config.attention.n_heads
    try:
        pairs = composition(model, seed=seed)
    except ArgumentError as error:
        return {role.name: Found(role=role, reason=str(error)) for role in roles}
    if n_layers < 2:
        return {role.name: Found(role=role, reason="no head lies in an earlier layer") for role in roles}
    draws = max(MODELS, min(MOST, _reaching(alpha)))
    chance, found = strongest_by_chance(model, draws=draws, seed=seed).numpy(), {}
    barred = np.full((n_layers, n_heads), "", dtype=object)
    barred[0] = "no head lies in an earlier layer"
    for role in roles:
        raw = pairs.sel(input=_INPUTS[role.name]).dataset["raw"].values.reshape(-1, n_layers, n_heads)
        score, partners = np.full((n_layers, n_heads), np.nan), [""] * (n_layers * n_heads)
        for layer in range(1, n_layers):
            earlier = raw[: layer * n_heads, layer]
            score[layer] = earlier.max(0)
            for head, at in enumerate(earlier.argmax(0)):
                partners[layer * n_heads + head] = "{}.{}".format(*divmod(int(at), n_heads))
        record = record_of(model, task=role.name, seed=seed, settings={"norms": "folded", "partner": "strongest"})
        made = Measurement(score, ("layer", "head"), unit="fraction", record=record, name=role.name)
        found[role.name] = Found.by_chance(role, made, chance, alpha=alpha, barred=barred, partners=partners)
    return found
