"""What each head's attention looks like on some texts: how sharp, how far back, how much rests on the first token.

In: a model and texts. Out: numbers of each row of text and head, means over its queries. Each pattern is reduced inside
the run that makes it. Whoever averages patterns must know whether heads rest on BOS: `warn_of_rest` tells them.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.attention import on_bos, warn_of_rest
from pellucid.analysis.texts import Rows, Texts, rows_of
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.point import HookPoint
from pellucid.measurement import Measurement
from pellucid.model.norms import widened


@dataclass(frozen=True)
class PatternStatistics:
    """What attention looks like: each ``[prompt layer head]``, a mean over the queries of a row of text.

    Queries are those that have a choice, from the second token on. Each has a variable ``control`` ``[prompt]``: what
    uniform attention over the visible keys gives.
    """

    entropy: Measurement
    """−Σ p ln p, nats: 0 where all attention lies on one key."""
    keys: Measurement
    """exp(entropy), the effective number of keys, tokens."""
    distance: Measurement
    """How far back attention looks, Σ p · (query − key), tokens; rest on the first token counts as far."""
    first: Measurement
    """Attention to the first token of the row, BOS where there is one; attention mass."""
    itself: Measurement
    """Attention to the query's own token, attention mass."""
    previous: Measurement
    """Attention to the token before; attention mass. BOS is not counted as a previous token."""


@torch.no_grad()
def pattern_statistics(model: HookedTransformer, texts: Texts, *, length: int | None = None) -> PatternStatistics:
    """How sharp each head's attention is, how far it looks back, and how much of it rests on the first token.

    Args:
        model: Model to read.
        texts: A `Corpus`, texts, or rows of token ids without padding; a long text makes several rows.
        length: Tokens of a row at most, BOS included; None: the model's context.

    Returns:
        Measurements ``[prompt layer head]``, of each row of three tokens or more.

    Warns:
        MisreadWarning: Most heads rest on the first token.

    Raises:
        ArgumentError: No row has three tokens; the model has no layers.
        TokenError: A text cannot be encoded; rows of ids lack the BOS that the tokenizer's policy asks for.

    Example:
        >>> from pellucid.analysis.repeated import repeated_tokens
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> found = pattern_statistics(model, repeated_tokens(model).tokens)
        >>> found.previous.mean("prompt").top(1).label, found.entropy.unit
        ('0.1', 'nats')
    """
    n_heads = model.config.attention.n_heads
    if not model.config.n_layers:
        raise ArgumentError("statistics of attention need a model with layers, got n_layers=0")
    names = [field.name for field in fields(PatternStatistics)]
    found, controls, documents, bos = [], [], [], True
    n_pos = model.config.n_ctx if length is None else length
    for rows in rows_of(model, texts, widest=4 * n_heads * n_pos, length=length):
        long = rows.mask.sum(1) >= 3
        if bool(long.any()):
            found.append(_of_rows(model, rows)[:, long])
            controls.append(_of_uniform(rows)[:, long])
            documents += rows.document[long].tolist()
            bos = bos and on_bos(model, rows.tokens[long])
    if not found:
        raise ArgumentError("texts must hold a row of three tokens or more, BOS included, got none; give longer ones")
    values, control = torch.cat(found, 1), torch.cat(controls, 1)
    warn_of_rest(values[names.index("first")].mean(0), bos=bos, stacklevel=4)
    units = {"entropy": "nats", "keys": "tokens", "distance": "tokens"}
    record = record_of(model, task="pattern statistics", settings={"rows": len(documents), "length": length})
    told = {
        name: Measurement(
            values[i],
            ("prompt", "layer", "head"),
            unit=units.get(name, "attention mass"),
            record=record,
            name={"first": "attention to the first token"}.get(name, f"attention: {name}"),
            coords={"document": ("prompt", documents)},
            variables={"control": ("prompt", control[i])},
        )
        for i, name in enumerate(names)
    }
    return PatternStatistics(**told)


def _of_rows(model: HookedTransformer, rows: Rows) -> Float[Tensor, "statistic row layer head"]:
    """The statistics of each row; NaN where it has no query that counts."""
    counted = _counted(rows).to(model.device)
    found: dict[int, Tensor] = {}

    def reduce(pattern: Tensor, hook: HookPoint) -> None:
        found[hook.layer()] = statistics_of(pattern, counted).double().cpu()

    model.run_with_hooks(
        rows.tokens.to(model.device),
        return_type=None,
        attention_mask=None if rows.attention_mask is None else rows.attention_mask.to(model.device),
        padding_side="right",
        fwd_hooks=[("pattern", reduce)],
    )
    return torch.stack([found[layer] for layer in sorted(found)], 2)


def _of_uniform(rows: Rows) -> Float[Tensor, "statistic row"]:
    """The same of uniform attention over the visible keys."""
    uniform = torch.ones(rows.tokens.shape[1], rows.tokens.shape[1], dtype=torch.float64).tril()
    uniform = uniform / uniform.sum(1, keepdim=True)
    return statistics_of(uniform.expand(len(rows), 1, -1, -1), _counted(rows))[..., 0]


def statistics_of(
    pattern: Float[Tensor, "row head q_pos k_pos"], counted: Tensor
) -> Float[Tensor, "statistic row head"]:
    """Entropy, effective keys, distance, and attention to the first, the own, and the previous token.

    Args:
        pattern: Rows that sum to 1, or are 0 where nothing is real.
        counted: ``[2 row q_pos]``: which queries count, and which have a previous token that is not BOS.
    """
    p = widened(pattern)
    place = torch.arange(p.shape[-1], device=p.device)
    entropy = -torch.special.xlogy(p, p).sum(-1)
    each = [entropy, entropy.exp(), (p * (place[:, None] - place)).sum(-1), p[..., 0], p.diagonal(dim1=-2, dim2=-1)]
    queries, behind = counted[:, :, None].to(p)
    means = [(x * queries).sum(-1) / queries.sum(-1) for x in each]
    previous = torch.nn.functional.pad(p.diagonal(offset=-1, dim1=-2, dim2=-1), (1, 0))
    return torch.stack([*means, (previous * behind).sum(-1) / behind.sum(-1)])


def _counted(rows: Rows) -> Tensor:
    """``[2 row q_pos]``: queries that have a choice, and those whose previous token is not BOS."""
    queries, behind = rows.mask.clone(), rows.mask.clone()
    queries[:, 0] = False
    behind[:, 0] = False
    behind[:, 1:] &= rows.counted[:, :-1]
    return torch.stack([queries, behind])
