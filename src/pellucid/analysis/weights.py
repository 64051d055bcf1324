"""The circuit of two heads, read off the weights alone: does each token's query find the token after the same token?

In: a model, previous-token heads, induction heads. Out: for each pair, how many tokens have themselves as best key and
as best query; and where a token has not, whether what it has instead is much like it. The circuit is a matrix between
all tokens and all tokens, of the rank of a head: it stays factored, and is formed only in parts, a bounded number of
rows at a time.

Biases and positions are left out of the circuit. So are the norms: what a norm multiplies by is in the weights only
where it was folded into them, which the record says.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.token_circuits import PART, embedded, rotation, shared, token_ids, turned
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.base.record import Record
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.maths.factored import FactoredMatrix
from pellucid.measurement import Measurement
from pellucid.model.norms import widened

DIRECTIONS = ("key per query", "query per key")
"""The best key of each token as a query, and the best query of each token as a key."""
TOP = (1, 5)
NEAR = 10
"""How many neighbours count as near."""


@torch.no_grad()
def two_head_circuit(
    model: HookedTransformer,
    previous: str,
    induction: str,
    *,
    embedding: str = "raw",
    distance: int | None = None,
) -> FactoredMatrix:
    """`W_E W_Q (W_E W_V W_O W_K)ᵀ`: how well each token, as a query, finds each token through what a head copied.

    Args:
        model: Any model with residual connections.
        previous: The head whose output keys are made of, such as ``"4.11"``.
        induction: The head, in a later layer, whose queries and keys these are.
        embedding: ``"raw"``: `W_E`, as "How one can interpret GPT2-small" has it. ``"extended"``: `W_E` plus the first
            block's MLP of its norm of `W_E`, biases of that MLP included; heads of layer 0, which lie before it, read
            the raw one.
        distance: How many positions the key lies before the query; for models with rotary positions, where the scores
            depend on it, and only for them. S − 1 for repeated tokens.

    Returns:
        ``[d_vocab d_vocab]``, queries by keys, factored; without the attention's scale.

    Raises:
        UnknownNameError: There is no such head, or no such embedding.
        ArgumentError: The heads are not in this order; the model has no MLP to extend by, or no residual connections;
            a distance is missing, or makes no difference here.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits", K-composition.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> two_head_circuit(model, "0.1", "1.0")
        FactoredMatrix(64 × 64, rank at most 16)
    """
    circuits = _Circuits(model, embedding, distance)
    sender, receiver = circuits.head(previous), circuits.head(induction)
    if sender[0] >= receiver[0]:
        raise ArgumentError(
            f"the previous-token head must lie in an earlier layer than the induction head, got {previous} and "
            f"{induction}; exchange them, or choose others"
        )
    return FactoredMatrix(circuits.queries(receiver), circuits.keys(sender, receiver).T)


class CircuitMatches(NamedTuple):
    """How many tokens a two-head circuit matches with themselves, and what it takes the others for."""

    accuracy: Measurement
    """``[sender receiver group]``, fraction of all tokens that have themselves as best key (``"top-1 key per query"``),
    or among the five best; likewise as best query (``"top-1 query per key"``). ``chance`` is the same by chance."""
    near_misses: Measurement
    """``[sender receiver group]``, group being one of `DIRECTIONS`: of the tokens whose best is another token, the
    fraction for which that is one of their ten nearest neighbours, by cosine of `W_E`. ``shuffled`` is the same with
    the misses' bests dealt to each other, ``chance`` with any token for them; ``rank`` is the median rank among the
    neighbours, ``missed`` the number of such tokens. NaN where none was missed."""


@torch.no_grad()
def two_head_matches(
    model: HookedTransformer,
    previous: Sequence[str],
    *,
    induction: Sequence[str],
    embedding: str = "raw",
    distance: int | None = None,
    sample: int | None = 1000,
    seed: int = 0,
) -> CircuitMatches:
    """Which token each token finds through the circuit of two heads, for every pair of heads.

    Args:
        model: As for `two_head_circuit`, like `embedding` and `distance`.
        previous: Heads whose output keys are made of; the axis ``sender``.
        induction: Heads whose queries and keys these are; the axis ``receiver``.
        embedding: ``"raw"`` or ``"extended"``.
        distance: For rotary positions.
        sample: Missed tokens that neighbours are looked up of, at most; None for all of them.
        seed: Of that sample.

    Returns:
        Two Measurements; a pair that cannot be, since the second head does not lie in a later layer, is NaN.

    Raises:
        UnknownNameError: As for `two_head_circuit`.
        ArgumentError: As for `two_head_circuit`, but for the order of the heads; no heads; a sample below 1.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> found = two_head_matches(model, ["0.1"], induction=["1.0"])
        >>> found.accuracy.sel(group="top-1 key per query").item() > 0.9
        True
    """
    if not previous or not induction or (sample is not None and sample < 1):
        raise ArgumentError(
            "previous and induction must name one head or more each, and sample 1 token or more (or None, for all), "
            f"got {list(previous)}, {list(induction)} and {sample}"
        )
    circuits = _Circuits(model, embedding, distance)
    senders, receivers = ([circuits.head(label) for label in labels] for labels in (previous, induction))
    shape = (len(senders), len(receivers), len(DIRECTIONS))
    hits = torch.full((*shape, len(TOP)), torch.nan, dtype=torch.float64)
    misses = torch.full((*shape, len(_Misses._fields)), torch.nan, dtype=torch.float64)
    for r, receiver in enumerate(receivers):
        queries = circuits.queries(receiver)
        for s, sender in enumerate(senders):
            if sender[0] < receiver[0]:
                keys = circuits.keys(sender, receiver)
                for d, (ours, others) in enumerate([(queries, keys), (keys, queries)]):
                    best = _best(ours, others)
                    hits[s, r, d] = _hits(best)
                    found = _misses(circuits.raw, best[:, 0], sample, seed)
                    misses[s, r, d] = torch.tensor(found, dtype=torch.float64)
    settings = {"embedding": embedding, "distance": distance, "sample": sample, "near": NEAR}
    record = record_of(model, task="two-head circuit", seed=seed, settings=settings)
    heads = {"sender": list(previous), "receiver": list(induction)}
    return _measured(hits, misses, record, heads, model.config.d_vocab)


def _measured(
    hits: Tensor, misses: Tensor, record: Record, heads: dict[str, list[str]], d_vocab: int
) -> CircuitMatches:
    axes = ("sender", "receiver", "group")
    by_chance = [min(k, d_vocab) / d_vocab for k in TOP] * len(DIRECTIONS)
    accuracy = Measurement(
        hits.flatten(2),
        axes,
        unit="fraction",
        record=record,
        name="two-head circuit",
        coords=heads | {"group": [f"top-{k} {direction}" for direction in DIRECTIONS for k in TOP]},
        variables={"chance": ("group", by_chance)},
    )
    near, *others = misses.unbind(-1)
    near_misses = Measurement(
        near,
        axes,
        unit="fraction",
        record=record,
        name="near misses of the two-head circuit",
        coords=heads | {"group": DIRECTIONS},
        variables={name: (axes, part) for name, part in zip(_Misses._fields[1:], others, strict=True)},
    )
    return CircuitMatches(accuracy, near_misses)


class _Circuits:
    """Both sides of the circuit of any two heads, `[d_vocab d_head]` each."""

    def __init__(self, model: HookedTransformer, embedding: str, distance: int | None) -> None:
        if not model.config.residual:
            raise ArgumentError(
                "the circuit of two heads needs residual connections, through which the second reads what the first "
                "wrote; this model has none"
            )
        self.model = model
        self.raw = widened(model.W_E)
        self.extended = embedded(model, token_ids(model, None), embedding, 1)  # as any layer but the first reads it
        self.rotation = rotation(model, distance)

    def head(self, label: str) -> tuple[int, int]:
        """Layer and head of a label such as "4.11"."""
        config = self.model.config
        known = [f"{layer}.{head}" for layer in range(config.n_layers) for head in range(config.attention.n_heads)]
        if label not in known:
            near = nearest(label, known)
            raise UnknownNameError(f"a head must be one of the model's, as layer.head, got {label!r}{near}")
        layer, head = label.split(".")
        return int(layer), int(head)

    def queries(self, receiver: tuple[int, int]) -> Float[Tensor, "d_vocab d_head"]:
        """`W_E W_Q`; with rotary positions turned by the distance, keys being left where they are."""
        return turned(self.extended @ self._weight("W_Q", receiver), self.rotation)

    def keys(self, sender: tuple[int, int], receiver: tuple[int, int]) -> Float[Tensor, "d_vocab d_head"]:
        """`W_E W_V W_O W_K`, the small product first."""
        read = self.raw if sender[0] == 0 else self.extended
        W_V, W_O, W_K = (self._weight(*of) for of in (("W_V", sender), ("W_O", sender), ("W_K", receiver)))
        return read @ (W_V @ (W_O @ W_K))

    def _weight(self, name: str, at: tuple[int, int]) -> Tensor:
        """Of a query head; keys and values may be shared by several."""
        layer, head = at
        stack = getattr(self.model.blocks[layer].attn, name)
        return widened(shared(stack, head, self.model.config.attention.n_heads))


def _best(ours: Float[Tensor, "token d_head"], others: Float[Tensor, "token d_head"]) -> Int[Tensor, "token k"]:
    """For each token the others that fit it best, best first."""
    k = min(max(TOP), len(others))
    best = torch.empty(len(ours), k, dtype=torch.int64, device=ours.device)
    for rows, scores in _products(ours, others):
        best[rows] = scores.topk(k, dim=-1).indices
    return best


def _products(
    ours: Float[Tensor, "row d"], others: Float[Tensor, "column d"]
) -> Iterator[tuple[slice, Float[Tensor, "part column"]]]:
    """`ours othersᵀ`, some rows at a time, always in the same memory."""
    size = max(1, PART // len(others))
    room = ours.new_empty(min(size, len(ours)), len(others))
    for start in range(0, len(ours), size):
        part = ours[start : start + size]
        yield slice(start, start + size), torch.mm(part, others.T, out=room[: len(part)])


def _hits(best: Int[Tensor, "token k"]) -> Float[Tensor, " top"]:
    """The fraction of tokens that are among their own best 1, and best 5."""
    itself = best == torch.arange(len(best), device=best.device)[:, None]
    return torch.stack([itself[:, :k].any(-1).double().mean() for k in TOP]).cpu()


class _Misses(NamedTuple):
    """Where tokens that are not their own best find it instead."""

    near: float
    shuffled: float
    chance: float
    rank: float
    missed: float


def _misses(W_E: Float[Tensor, "token d_model"], best: Int[Tensor, " token"], sample: int | None, seed: int) -> _Misses:
    """How near the best of the missed tokens lie to them, over a sample of these."""
    device, V = W_E.device, len(best)
    missed = torch.nonzero(best.cpu() != torch.arange(V))[:, 0]
    nan = float("nan")
    if not len(missed):
        return _Misses(nan, nan, nan, nan, 0)
    chosen = missed[torch.randperm(len(missed), generator=generator(seed))[:sample]].to(device)
    lengths = W_E.norm(dim=-1).clamp(min=1e-30)
    found = best[chosen]
    ranks = torch.empty(2, len(chosen), dtype=torch.int64)
    for rows, products in _products(W_E[chosen], W_E):
        cosines = products.div_(lengths)  # times the row's own length, which changes no rank
        cosines.scatter_(1, chosen[rows, None], -torch.inf)  # nobody's neighbour is itself
        for rank, other in zip(ranks, (found, found.roll(1)), strict=True):
            rank[rows] = 1 + (cosines > cosines.gather(1, other[rows, None])).sum(-1).cpu()
    near, dealt = ((rank <= NEAR).double().mean().item() for rank in ranks)
    chance = min(1.0, NEAR / (V - 1))
    return _Misses(near, dealt if len(chosen) > 1 else nan, chance, ranks[0].double().median().item(), len(missed))
