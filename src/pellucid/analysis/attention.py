"""Where attention goes, for every head at once: means of a pattern's cells, and heads that rest on the first token.

In: a model, tokens, and the cells that count. Out: for each prompt and head, the attention that lies there. Each
pattern is reduced inside the run that makes it, so only one layer of one part of the batch is ever held.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.reading import chunks
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.base.errors import ArgumentError, MisreadWarning
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.names import get_act_name
from pellucid.measurement import Measurement
from pellucid.model.norms import widened

HALVES = ("first half", "second half")
TELLING = 8
"""Tokens from which on attention to the first one tells rest from attention to all alike."""
RESTING = 0.5
"""From this share of its attention on, a head is said to rest on BOS."""


def warn_of_rest(first: Float[Tensor, "layer head"], *, bos: bool = True, when: str = "", stacklevel: int = 3) -> None:
    """Warns where most heads rest on the first token, so that patterns, averaged, say little of what they do.

    Args:
        first: Mean attention of each head to the first token, attention mass.
        bos: The first token is BOS.
        when: When they rest there, such as ``" in both halves"``.
        stacklevel: As for `warnings.warn`, of the caller's caller by default.

    Warns:
        MisreadWarning: More than half of the heads give it `RESTING` or more.

    Example:
        >>> warn_of_rest(torch.tensor([[0.9, 0.1]]))
    """
    resting = float((first >= RESTING).double().mean()) if first.numel() else 0.0
    if resting > 0.5:
        where = "BOS" if bos else "the first token"
        warnings.warn(
            f"{resting:.0%} of the heads rest on {where}{when}: what they do on a match is not in means over these "
            "patterns, which are alike for that reason alone",
            MisreadWarning,
            stacklevel=stacklevel,
        )


@dataclass(frozen=True)
class Cells:
    """The cells of a pattern that a score is the mean of, and which of them count on each prompt."""

    queries: Int[Tensor, " cell"]
    keys: Int[Tensor, " cell"]
    counted: Tensor | None = None
    """``[batch cell]``; None: all."""

    @property
    def weights(self) -> Float[Tensor, "#batch cell"]:
        """What each cell weighs in the mean, on each prompt."""
        counted = torch.ones(1, len(self.queries)) if self.counted is None else self.counted.cpu()
        return counted.double() / counted.sum(1, keepdim=True)

    def uniform(self) -> float:
        """What uniform attention over the visible keys scores."""
        return float((1 / (self.queries + 1.0)).mean())


class _AllSeenError(Exception):
    """The last pattern was read: what else the pass would compute, nobody asked for."""


def masses(
    model: HookedTransformer, tokens: Int[Tensor, "batch pos"], cells: Sequence[Cells], *, quiet: bool = False
) -> Float[Tensor, "batch score layer head"]:
    """The mean attention on some cells, for every head, from one pass, which ends where the last pattern is made.

    Each pattern is reduced inside the pass, and what lies behind the last one (its MLP, the logits) is never computed.

    Args:
        model: Model to read.
        tokens: Prompts of one length, without padding.
        cells: What each score is the mean of.
        quiet: Not to warn.

    Returns:
        Attention mass, float64.

    Warns:
        MisreadWarning: Most heads rest on the first token, unless `quiet`.
    """
    n_layers, n_heads = model.config.n_layers, model.config.attention.n_heads
    first = None if quiet or not n_layers or not cells else first_column(tokens)
    cells = [*cells, *([] if first is None else [first])]
    out = torch.empty(len(tokens), len(cells), n_layers, n_heads, dtype=torch.float64)
    if not n_layers or not cells:
        return out
    queries, keys = (
        torch.cat([getattr(cell, name) for cell in cells]).to(model.device) for name in ("queries", "keys")
    )
    weights = _weights(cells).to(model.device, widened(torch.empty(0, dtype=model.dtype)).dtype)
    for rows in chunks(tokens, widest=n_heads * tokens.shape[1]):
        run = model.live_run(explicit=False)
        for layer in range(n_layers):

            def read(pattern: Tensor, _: object, rows: slice = rows, layer: int = layer) -> None:
                picked = widened(pattern[:, :, queries, keys])  # all scores' cells at once
                means = picked @ (weights if len(weights) == 1 else weights[rows])
                out[rows, :, layer] = means.transpose(1, 2).to(out)
                if layer == n_layers - 1:
                    raise _AllSeenError

            run.add_reader(get_act_name("pattern", layer), read)
        with suppress(_AllSeenError):
            model(tokens[rows].to(model.device), return_type=None, run=run)
    if first is None:
        return out
    warn_of_rest(out[:, -1].mean(0), bos=on_bos(model, tokens), stacklevel=4)
    return out[:, :-1]


def _weights(cells: Sequence[Cells]) -> Float[Tensor, "#batch cell score"]:
    """What the cells of all scores, one after the other, weigh in each score."""
    parts = [cell.weights for cell in cells]
    n, ends = max(len(part) for part in parts), np.cumsum([0, *(part.shape[1] for part in parts)])
    out = torch.zeros(n, int(ends[-1]), len(parts), dtype=torch.float64)
    for score, part in enumerate(parts):
        out[:, ends[score] : ends[score + 1], score] = part
    return out


def first_column(tokens: Int[Tensor, "batch pos"]) -> Cells | None:
    """The first column of patterns, behind the first token; None where prompts are too short to tell rest there."""
    if tokens.shape[1] < TELLING:
        return None
    queries = torch.arange(1, tokens.shape[1])
    return Cells(queries, torch.zeros_like(queries))


def on_bos(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> bool:
    """Whether the first token of every prompt is the model's BOS."""
    bos = None if model.policy is None else model.policy.bos_id
    return bos is not None and bool((tokens[:, 0] == bos).all())


@torch.no_grad()
def rest_scores(model: HookedTransformer, tokens: RepeatedTokens) -> Measurement:
    """How much each head attends to BOS, from the first half and from the second.

    A head that has nothing to do rests there. One that waits for a repetition rests in the first half and leaves in the
    second; one that rests in both shows nothing of what it does, and patterns averaged over such heads look all alike.

    Args:
        model: Model to read.
        tokens: Repeated tokens that begin with BOS.

    Returns:
        ``[prompt group layer head]``, attention mass; group is ``"first half"`` or ``"second half"``.

    Warns:
        MisreadWarning: Most heads rest on BOS in both halves.

    Raises:
        ArgumentError: The tokens have no BOS.
    """
    if not tokens.bos:
        raise ArgumentError("rest on BOS needs tokens that begin with BOS, got some without; this model may have none")
    queries = torch.arange(1, tokens.tokens.shape[1]).split(tokens.seq_len)
    values = masses(model, tokens.tokens, [Cells(half, torch.zeros_like(half)) for half in queries], quiet=True)
    warn_of_rest(values.mean(0).amin(0), when=" in both halves")  # what rests in both rests in the lesser one
    record = record_of(model, task="rest on BOS", seed=tokens.seed, settings=tokens.settings)
    dims, halves = ("prompt", "group", "layer", "head"), {"group": list(HALVES)}
    return Measurement(values, dims, unit="attention mass", record=record, name="rest on BOS", coords=halves)
