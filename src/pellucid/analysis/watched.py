"""What is watched in a model: neurons, heads, directions; by what name, and how active each is at the tokens of a run.

In: a model and names or values of what is meant. Out: the same, checked; and its activations on rows of tokens, from a
plain run that stops behind the last layer needed and keeps nothing else.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.texts import Rows
from pellucid.analysis.token_circuits import within
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.index import plain
from pellucid.model.decompose import layer_read, parts, stream
from pellucid.model.norms import widened


@dataclass(frozen=True)
class Neuron:
    """A neuron of an MLP; its activation is ``post``, behind the activation function (and the gate)."""

    layer: int
    neuron: int

    @property
    def label(self) -> str:
        """``L8N2744``."""
        return f"L{self.layer}N{self.neuron}"


@dataclass(frozen=True, eq=False)
class HeadOutput:
    """What a head writes, without the layer's output bias: how long it is, or how far it goes along a direction."""

    layer: int
    head: int
    along: Float[Tensor, " d_model"] | None = None
    """In the stream, of any length; None: the length of what is written."""

    @property
    def label(self) -> str:
        """``5.1``."""
        return f"{self.layer}.{self.head}"


@dataclass(frozen=True, eq=False)
class StreamDirection:
    """How far the stream goes along a direction (the dot product), where a layer reads it."""

    layer: int
    """`n_layers` or −1: the final stream."""
    vector: Float[Tensor, " d_model"]
    name: str = "direction"
    mlp_input: bool = False
    """Where the layer's MLP reads it, behind its attention."""

    @property
    def label(self) -> str:
        """Its name."""
        return self.name


Watched: TypeAlias = Neuron | HeadOutput | StreamDirection
What: TypeAlias = Any
"""One `Watched`, or several; also as people call them: ``"L8N2744"`` or ``(8, 2744)`` a neuron, ``"5.1"`` a head."""


def watched(model: HookedTransformer, what: What) -> list[Watched]:
    """What is meant, checked against the model.

    Raises:
        ArgumentError: It is not in the model, or occurs twice.
        UnknownNameError: A name that means nothing to watch.

    Example:
        >>> model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
        >>> watched(model, "1.3")[0].label
        '1.3'
    """
    several = isinstance(what, Sequence) and not isinstance(what, str) and not _is_pair(what)
    found = [_one(model, one) for one in (what if several else [what])]
    labels = [one.label for one in found]
    if not found or len(set(labels)) < len(labels):
        raise ArgumentError(f"what is watched must be one thing or more, each of another name, got {labels}")
    return found


def _is_pair(what: Any) -> bool:
    return (
        isinstance(what, tuple)
        and len(what) == 2
        and not any(isinstance(i, str | tuple) for i in what)
        and all(hasattr(i, "__index__") for i in what)
    )


def _one(model: HookedTransformer, what: Any) -> Watched:
    config = model.config
    if isinstance(what, str):
        neuron, head = re.fullmatch(r"L(\d+)N(\d+)", what), re.fullmatch(r"(\d+)\.(\d+)", what)
        if neuron is None and head is None:
            raise UnknownNameError(f"a name must be like 'L8N2744', a neuron, or '5.1', a head, got {what!r}")
        if neuron is not None:
            what = Neuron(int(neuron[1]), int(neuron[2]))
        elif head is not None:
            what = HeadOutput(int(head[1]), int(head[2]))
    elif isinstance(what, tuple | list) and len(what) == 2:
        what = Neuron(*plain(list(what), "a neuron"))
    if isinstance(what, Neuron):
        if config.mlp is None:
            raise ArgumentError("neurons need a model with MLPs, and this model has attention only; watch its heads")
        within("layer", what.layer, config.n_layers)
        within("neuron", what.neuron, config.mlp.d_mlp)
    elif isinstance(what, HeadOutput):
        within("layer", what.layer, config.n_layers)
        within("head", what.head, config.attention.n_heads)
    elif isinstance(what, StreamDirection):
        layer_read(config, what.layer, mlp_input=what.mlp_input)
    else:
        raise ArgumentError(f"what is watched must be Neuron, HeadOutput, StreamDirection or a name, got {what!r}")
    vector = getattr(what, "vector", getattr(what, "along", None))
    if vector is not None and vector.shape != (config.d_model,):
        raise ArgumentError(f"a direction must be [{config.d_model}], got {list(vector.shape)}")
    return what


class Watch:
    """What is read of a run, and what is made of it."""

    def __init__(self, model: HookedTransformer, things: list[Watched]) -> None:
        self.model, self.things, config = model, things, model.config
        self.labels = [one.label for one in things]
        names, last = [], 0
        for one in things:
            if isinstance(one, StreamDirection):
                at = layer_read(config, one.layer, mlp_input=one.mlp_input)
                names += _of_stream(model, at, one.mlp_input)
            else:
                at = one.layer
                names.append(f"blocks.{at}." + ("mlp.hook_post" if isinstance(one, Neuron) else "attn.hook_z"))
            last = max(last, min(at + 1, config.n_layers))
        self.names, self.stop = list(dict.fromkeys(names)), last

    @property
    def widest(self) -> int:
        """Numbers that all of it takes for each position, bins included."""
        config = self.model.config
        mlp = 0 if config.mlp is None else config.mlp.d_mlp
        largest = max(config.d_model, mlp, config.attention.n_heads * config.attention.d_head)
        return (len(self.names) + 2) * largest + 8 * len(self.things)

    def values(self, rows: Rows) -> Float[Tensor, "component row pos"]:
        """The activations at all tokens, on the CPU."""
        model = self.model
        mask = None if rows.attention_mask is None else rows.attention_mask.to(model.device)
        cache = model.run(
            rows.tokens.to(model.device),
            reads=self.names,
            stop_at_layer=self.stop,
            attention_mask=mask,
            padding_side="right",
        ).cache
        found: list[Tensor | None] = [None] * len(self.things)
        by_layer: dict[int, list[int]] = {}
        for i, one in enumerate(self.things):
            if isinstance(one, Neuron):
                by_layer.setdefault(one.layer, []).append(i)
            else:
                found[i] = self._value(one, cache).cpu()
        for layer, places in by_layer.items():  # together: one gather by layer
            chosen = [one.neuron for one in self.things if isinstance(one, Neuron) and one.layer == layer]
            post = widened(cache[f"blocks.{layer}.mlp.hook_post"][..., chosen]).cpu().movedim(-1, 0)
            for i, values in zip(places, post, strict=True):
                found[i] = values
        return torch.stack([values for values in found if values is not None])

    def _value(self, one: HeadOutput | StreamDirection, cache: Any) -> Float[Tensor, "row pos"]:
        model = self.model
        if isinstance(one, StreamDirection):
            x = widened(stream(model.config, cache, one.layer, mlp_input=one.mlp_input))
            return x @ one.vector.detach().to(x)
        z = widened(cache[f"blocks.{one.layer}.attn.hook_z"][..., one.head, :])
        W_O = model.blocks[one.layer].attn.W_O[one.head].detach().to(z)
        return (z @ W_O).norm(dim=-1) if one.along is None else z @ (W_O @ one.along.detach().to(z))


def _of_stream(model: HookedTransformer, at: int, mlp_input: bool) -> list[str]:
    """What `stream` needs."""
    n = model.config.n_layers
    if not n:
        return [part.name for part in parts(model.config)]
    return [f"blocks.{n - 1}.hook_resid_post" if at == n else f"blocks.{at}.hook_resid_{'mid' if mlp_input else 'pre'}"]
