"""Which head does what, told from where it attends.

In: a model and tokens. Out: for each prompt and head, how much attention lies where a role says it must. Each
pattern is reduced inside the run that makes it, so only one layer of one part of the batch is ever held.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from pellucid.analysis.attention import Cells, masses
from pellucid.analysis.reading import starts_with_bos
from pellucid.analysis.repeated import RepeatedTokens, front_of, ordinary_tokens, unrepeated_tokens
from pellucid.base.errors import ArgumentError
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement


@dataclass(frozen=True, kw_only=True)
class Role:
    """Where a head attends that plays a role: a stripe parallel to the diagonal, or the first column.

    Args:
        name: What people call it.
        repeated: Counted from the token's place in the first copy, so that the role needs repeated tokens.
        back: How many tokens back, from there or from the token itself.
        to_bos: To BOS instead, wherever that is.

    Example:
        >>> Role(name="two back", back=2).key(7, seq_len=5)
        5
    """

    name: str
    repeated: bool = False
    back: int = 0
    to_bos: bool = False

    def key(self, query: int, *, seq_len: int) -> int:
        """The position that a query attends to."""
        return 0 if self.to_bos else query - self.back - (seq_len if self.repeated else 0)


INDUCTION = Role(name="induction", repeated=True, back=-1)
"""From a token to what followed it the last time: p → p−S+1, p in the second copy."""
DUPLICATE = Role(name="duplicate token", repeated=True)
"""From a token to itself in the first copy: p → p−S."""
PREVIOUS = Role(name="previous token", back=1)
"""p → p−1, BOS not counted as a previous token."""
BOS = Role(name="BOS", to_bos=True)
"""p → 0."""
SELF = Role(name="self")
"""p → p."""
ROLES = (PREVIOUS, DUPLICATE, INDUCTION, BOS, SELF)


@torch.no_grad()
def head_scores(model: HookedTransformer, tokens: RepeatedTokens | Int[Tensor, "batch pos"], role: Role) -> Measurement:
    """How strongly each head plays a role, on each prompt.

    Args:
        model: Model to read.
        tokens: Repeated tokens, or any ``[batch pos]`` without padding for a role that needs no repetition; must start
            with BOS if the model was trained with it.
        role: Where a head of this role attends, e.g. `INDUCTION`.

    Returns:
        ``[prompt layer head]``, attention mass, 0 to 1: the mean over the queries that the role speaks of.

    Raises:
        TokenError: `tokens` lacks BOS and the tokenizer's policy asks for it.
        ArgumentError: The role needs repeated tokens, or BOS, or longer prompts.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads"; the scores as "How one can interpret
    GPT2-small" takes them, but on the second copy alone.

    Example:
        >>> from pellucid import HookedTransformer
        >>> from pellucid.analysis.repeated import repeated_tokens
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> scores = head_scores(model, repeated_tokens(model), PREVIOUS)
        >>> scores.mean("prompt").top(1).label
        '0.1'
    """
    on_purpose = isinstance(tokens, RepeatedTokens) and tokens.bos_left_out
    starts = starts_with_bos(model, _ids(tokens), may_lack=on_purpose)
    if role.repeated and not isinstance(tokens, RepeatedTokens):
        raise ArgumentError(f"the role {role.name!r} needs RepeatedTokens; make them with repeated_tokens(model)")
    bos = tokens.bos if isinstance(tokens, RepeatedTokens) else starts
    values = masses(model, _ids(tokens), [cells_of(role, tokens, bos=bos)])[:, 0]
    return _measured(model, tokens, values, ("prompt", "layer", "head"), role.name)


class RoleScores(NamedTuple):
    """Scores and their controls; ``score - control`` is how much of a score the role alone explains."""

    score: Measurement
    """``[prompt role layer head]``, attention mass."""
    control: Measurement
    """On the same axes."""


@torch.no_grad()
def role_scores(model: HookedTransformer, tokens: RepeatedTokens, roles: Sequence[Role] | None = None) -> RoleScores:
    """How strongly each head plays each role, and the control of each, from one pass over all these tokens.

    The control of a role that needs a repetition is the same stripe on tokens that do not repeat, accidental matches
    left out; a head that looks S−1 back by position alone scores high on both. The control of the others is uniform
    attention over the visible keys.

    Args:
        model: Model to read.
        tokens: Repeated tokens.
        roles: None: all of `ROLES` that the model can have (`BOS` only where it has one).

    Returns:
        Two Measurements ``[prompt role layer head]``, attention mass.

    Raises:
        TokenError: `tokens` lacks BOS and the tokenizer's policy asks for it.
        ArgumentError: `BOS` where there is none; two roles of one name.
    """
    roles = [role for role in ROLES if tokens.bos or not role.to_bos] if roles is None else list(roles)
    scores, controls, others = scored(model, tokens, roles)
    dims, names = ("prompt", "role", "layer", "head"), {"role": [role.name for role in roles]}
    return RoleScores(
        _measured(model, tokens, scores, dims, "head roles", coords=names),
        _measured(model, others or tokens, controls, dims, "head roles, control", coords=names),
    )


class Scored(NamedTuple):
    """Scores and controls of several roles as bare numbers, ``[prompt role layer head]``, attention mass."""

    scores: Tensor
    controls: Tensor
    others: RepeatedTokens | None
    """The tokens that do not repeat; None where no role needs them."""


def scored(
    model: HookedTransformer, tokens: RepeatedTokens, roles: Sequence[Role], elsewhere: Sequence[Role] = ()
) -> Scored:
    """Roles on tokens that repeat, each with its control, and behind them roles on tokens that do not: one pass.

    Args:
        model: Model to read.
        tokens: Repeated tokens; those that do not are drawn with the same seed.
        roles: Roles read off `tokens`.
        elsewhere: Roles read off the tokens that do not repeat; none of them may need a repetition.

    Raises:
        TokenError: `tokens` lacks BOS and the tokenizer's policy asks for it.
        ArgumentError: A role needs BOS where there is none, or longer prompts; two roles of one name.
    """
    names = [role.name for role in (*roles, *elsewhere)]
    if len(set(names)) < len(names):
        raise ArgumentError(f"roles must have different names, got {', '.join(names)}; rename one")
    starts_with_bos(model, tokens.tokens, may_lack=tokens.bos_left_out)
    n, others = len(tokens.tokens), None
    if elsewhere or any(role.repeated for role in roles):
        told: dict[str, Any] = {"seq_len": tokens.seq_len, "batch": n, "seed": tokens.seed}
        others = unrepeated_tokens(model, **told, rule=tokens.rule, bos=tokens.bos)
    both = tokens.tokens if others is None else torch.cat([tokens.tokens, others.tokens])
    cells = [_both(role, tokens, others) for role in roles]
    cells += [cells_of(role, others or tokens, bos=tokens.bos) for role in elsewhere]
    found = masses(model, both, cells)
    scores, controls = found[:n].clone(), torch.empty_like(found[:n])
    for i, cell in enumerate(cells):
        controls[:, i] = found[n:, i] if i < len(roles) and roles[i].repeated else cell.uniform()
        if i >= len(roles):
            scores[:, i] = found[n:, i]
    return Scored(scores, controls, others)


def _both(role: Role, tokens: RepeatedTokens, others: RepeatedTokens | None) -> Cells:
    """A role's cells for the tokens given and, behind them, those that do not repeat."""
    cell = cells_of(role, tokens, bos=tokens.bos)
    if others is None or not role.repeated:
        return cell
    beside = cells_of(role, others, bos=others.bos).counted
    if beside is None:
        return cell
    ours = torch.ones_like(beside) if cell.counted is None else cell.counted
    return Cells(cell.queries, cell.keys, torch.cat([ours, beside]))


COPIES = 4
"""How often the tokens of prefix matching stand."""


@torch.no_grad()
def prefix_matching(model: HookedTransformer, *, batch: int = 30, seed: int = 0, bos: bool | None = None) -> RoleScores:
    """How much each head attends from a token to whatever followed that token before, in all earlier copies together.

    Min(25, (n_ctx − 1) // 4) random tokens stand four times; the queries are those of the last three copies.

    Args:
        model: Model to read.
        batch: Prompts.
        seed: Of the random tokens.
        bos: False leaves BOS out where the model has one.

    Returns:
        Score and control, ``[prompt layer head]``, attention mass; the control is the same cells on tokens that do not
        repeat, accidental matches left out.

    Raises:
        ArgumentError: The context is too short for four copies of two tokens.

    Source: Olsson et al. 2022, "In-context Learning and Induction Heads", prefix matching score.
    """
    n, front = min(25, (model.config.n_ctx - 1) // COPIES), front_of(model, bos)
    if n < 2:
        raise ArgumentError(f"prefix matching needs a context of 9 tokens or more, got n_ctx={model.config.n_ctx}")
    ordinary, draws = ordinary_tokens(model), generator(seed)
    pairs = [(q, q - back * n + 1) for q in range(n, COPIES * n) for back in range(1, q // n + 1)]
    queries, keys = (torch.tensor(side) + len(front) for side in zip(*pairs, strict=True))
    drawn = torch.stack([_several(ordinary, n, draws) for _ in range(batch)])
    repeated = drawn[:, :n].repeat(1, COPIES)
    parts = []
    for tokens in (repeated, drawn):
        full = torch.cat([torch.tensor([front] * batch, dtype=torch.int64), tokens], dim=1)
        counted = None if tokens is repeated else full[:, queries] != full[:, keys - 1]
        mean = masses(model, full.to(model.device), [Cells(queries, keys, counted)])[:, 0]
        parts.append(mean * len(pairs) / ((COPIES - 1) * n))
    settings = {"seq_len": n, "copies": COPIES, "batch": batch, "bos": bool(front)}
    names = ("prefix matching", "prefix matching, control")
    score, control = (
        Measurement(
            values,
            ("prompt", "layer", "head"),
            unit="attention mass",
            record=record_of(model, task=name, seed=seed, settings=settings),
            name=name,
        )
        for values, name in zip(parts, names, strict=True)
    )
    return RoleScores(score, control)


def _several(ordinary: Int[Tensor, " token"], n: int, draws: torch.Generator) -> Int[Tensor, " pos"]:
    """Tokens of all copies of a control, all different where the vocabulary allows, else within each copy if it can."""
    if COPIES * n <= len(ordinary):
        return ordinary[torch.randperm(len(ordinary), generator=draws)[: COPIES * n]]
    if n > len(ordinary):
        return ordinary[torch.randint(len(ordinary), (COPIES * n,), generator=draws)]
    return torch.cat([ordinary[torch.randperm(len(ordinary), generator=draws)[:n]] for _ in range(COPIES)])


def cells_of(role: Role, tokens: RepeatedTokens | Tensor, *, bos: bool) -> Cells:
    """Where a role attends in these tokens.

    Queries that have no choice or no such key are passed over: p ≥ 1, and p → p−1 not from the first token to BOS.
    """
    n_pos, start = _ids(tokens).shape[1], int(bos)
    first, seq_len, counted = max(1, start + role.back), 0, None
    if role.to_bos:
        first = 1
        if not bos:
            raise ArgumentError(f"the role {role.name!r} needs prompts that start with BOS, got some without")
    elif role.repeated and isinstance(tokens, RepeatedTokens):
        seq_len = tokens.seq_len
        whole_diagonal = tokens.rule is not None and role == INDUCTION
        first = seq_len - 1 if whole_diagonal else tokens.middle
        if not tokens.repeated:
            before = torch.ones(len(tokens.tokens), tokens.middle - first, dtype=torch.bool)
            counted = torch.cat([before, ~tokens.matches.cpu()], dim=1)
    queries = torch.arange(first, max(first, n_pos))
    keys = torch.tensor([role.key(q, seq_len=seq_len) for q in queries.tolist()], dtype=torch.int64)
    if not len(queries) or int(keys.min()) < 0 or bool((keys > queries).any()):
        raise ArgumentError(
            f"each query of the role {role.name!r} must have a key to attend to, but in prompts of {n_pos} tokens some "
            "have none; give longer ones"
        )
    return Cells(queries, keys, counted)


def _ids(tokens: RepeatedTokens | Tensor) -> Tensor:
    return tokens.tokens if isinstance(tokens, RepeatedTokens) else tokens


def _measured(
    model: HookedTransformer,
    tokens: RepeatedTokens | Tensor,
    values: Tensor,
    dims: Sequence[str],
    name: str,
    **more: Any,
) -> Measurement:
    told: dict[str, Any] = {"task": name}
    if isinstance(tokens, RepeatedTokens):
        told |= {"seed": tokens.seed, "settings": tokens.settings}
    return Measurement(values, dims, unit="attention mass", record=record_of(model, **told), name=name, **more)
