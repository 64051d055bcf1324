"""Does an MLP matter where tokens repeat? Its output in the second copy is replaced by its output in the first one.

In: a model and repeated tokens. Out: by how much the loss over the second copy grows, for each layer and position
alone, for a whole layer, and for all layers. The MLP of the first copy saw the same token, but before anything was
repeated.

A patch changes nothing below its layer and nothing before its position: each run begins there, with the stream, keys
and values of the unpatched one, and several positions go through it together.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.reading import NUMBERS
from pellucid.analysis.repeated import RepeatedTokens
from pellucid.base.errors import ArgumentError
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.edits import Replace
from pellucid.hooks.names import get_act_name
from pellucid.measurement import Measurement
from pellucid.model.norms import widened
from pellucid.model.past import KeyValueCache
from pellucid.model.positional import Rotary

TOGETHER = 8
"""Positions that share a run, which begins at the first of them."""


class ShiftedMLP(NamedTuple):
    """How much the mean loss over the second copy grows, in nats."""

    single: Measurement
    """``[prompt layer pos]``: one layer, one position."""
    summed: Measurement
    """``[prompt layer]``: the sum of `single` over the positions, to compare with `layer`."""
    layer: Measurement
    """``[prompt layer]``: one layer, all positions at once."""
    whole: Measurement
    """``[prompt]``: all layers, all positions at once."""


@torch.no_grad()
def shifted_mlp(model: HookedTransformer, repeated: RepeatedTokens) -> ShiftedMLP:
    """Patches each MLP's output in the second copy with the same run's output S positions before.

    Ours patches p = S+1 … 2S from p−S (with BOS; without one p = S … 2S−1), so that BOS is never a source; the loss is
    the mean over the tokens of the second copy but its first, which cannot be predicted. ``rule="article"`` patches
    p = S … 2S−1 from 0 … S−1, so that with BOS its first column is the end of the first copy overwritten by what the
    MLP makes of BOS; its loss is the mean over the logits at S … 2S−2. A patch behind all the logits that count changes
    nothing.

    Args:
        model: Any model with MLPs.
        repeated: The tokens; `rule` is theirs.

    Raises:
        ArgumentError: The model has attention only.

    Source: "How one can interpret GPT2-small".
    """
    if model.config.mlp is None:
        raise ArgumentError("shifting MLPs needs a model that has some, this one has attention only")
    S, n_layers = repeated.seq_len, model.config.n_layers
    first = S if repeated.rule == "article" else repeated.middle
    positions = list(range(first, first + S))
    single = torch.zeros(len(repeated.tokens), n_layers, S, dtype=torch.float64)
    layer, whole = single.new_zeros(single.shape[:2]), single.new_zeros(single.shape[:1])
    for prompt, tokens in enumerate(repeated.tokens):
        run = _Shifts(model, tokens[None].to(model.device), by=S, last=positions[-1] - 1)
        for n in range(n_layers):
            single[prompt, n] = run.each(n, positions)
            layer[prompt, n] = run.growth([n], [positions])[0]
        whole[prompt] = run.growth(range(n_layers), [positions])[0]
    growths = {"single": single / (S - 1), "layer": layer / (S - 1), "whole": whole / (S - 1)}
    record = record_of(model, task="shifted MLP", seed=repeated.seed, settings=repeated.settings)

    def measured(values: Tensor, name: str, **coords: list[int]) -> Measurement:
        axes = ("prompt", "layer", "pos")[: values.ndim]
        return Measurement(values, axes, unit="nats", record=record, name=name, coords=coords)

    return ShiftedMLP(
        measured(growths["single"], "loss with one MLP shifted at one position", pos=positions),
        measured(growths["single"].sum(-1), "loss with one MLP shifted, summed over positions"),
        measured(growths["layer"], "loss with one MLP shifted"),
        measured(growths["whole"], "loss with all MLPs shifted"),
    )


class _Shifts:
    """One prompt, its unpatched run, and runs that continue it with MLP outputs shifted."""

    def __init__(self, model: HookedTransformer, tokens: Int[Tensor, "1 pos"], *, by: int, last: int) -> None:
        self.model, self.tokens, self.by = model, tokens, by
        self.stop = last + 1
        """Behind the last position whose logits count."""
        self.keys = "rot_k" if isinstance(model.config.positions, Rotary) else "k"
        done = model.run(tokens, reads=["resid_pre", "mlp_out", self.keys, "v"])
        self.cache = done.cache
        self.losses = self._losses(done.logits[:, : self.stop], 0)

    def each(self, layer: int, positions: Sequence[int]) -> Float[Tensor, " pos"]:
        """How much the summed loss grows for each position alone."""
        grown = torch.zeros(len(positions), dtype=torch.float64)
        reached = [[p] for p in positions if p < self.stop]
        rows = self.stop - positions[0]
        size = max(1, min(TOGETHER, NUMBERS // (rows * self.model.config.vocab_out)))
        for start in range(0, len(reached), size):
            group = reached[start : start + size]
            grown[start : start + len(group)] = self.growth([layer], group)
        return grown

    def growth(self, layers: Sequence[int], patches: Sequence[Sequence[int]]) -> Float[Tensor, " patch"]:
        """How much the summed loss grows for each patch, which shifts its positions in all these layers at once."""
        model, first, more = self.model, min(patch[0] for patch in patches), {}
        x = self.tokens[:, : self.stop]
        if model.board:  # standing hooks must meet whole prompts, and each activation once
            first = 0
        else:
            x = self.cache[get_act_name("resid_pre", layers[0])][:, first : self.stop]
            more = {"start_at_layer": layers[0], "past": self._past(first)}
        reached = torch.tensor([[row in patch for row in range(first, self.stop)] for patch in patches]).to(
            model.device
        )
        edits = []
        for layer in layers:
            out = self.cache[get_act_name("mlp_out", layer)][:, : self.stop]
            shifted = torch.where(reached[..., None], out.roll(self.by, dims=1)[:, first:], out[:, first:])
            edits.append(Replace(shifted, "mlp_out", layer=layer))
        logits = model.run(x.expand(len(patches), *x.shape[1:]), edits=edits, **more).logits
        grown = self._losses(logits, first) - self.losses[:, first:]
        return (grown * reached.cummax(dim=1).values).sum(-1).cpu()

    def _past(self, length: int) -> KeyValueCache:
        """Keys and values of the unpatched run before a position."""
        past = KeyValueCache(self.model.config.n_layers)
        past.length = length
        for layer in range(self.model.config.n_layers):
            k, v = (self.cache[get_act_name(name, layer)][:, :length] for name in (self.keys, "v"))
            past.entries[layer] = k, v
        return past

    def _losses(self, logits: Float[Tensor, "patch row d_vocab"], first: int) -> Float[Tensor, "patch row"]:
        """Of the tokens after these rows, the first of which stands at a position."""
        targets = self.tokens[0, first + 1 : first + 1 + logits.shape[1]].expand(len(logits), -1)
        return torch.nn.functional.cross_entropy(widened(logits).mT, targets, reduction="none").double()
