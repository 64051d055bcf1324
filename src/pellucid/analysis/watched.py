"""What is watched in a model: neurons, heads, directions; by what name, and how active each is at the tokens of a run.

In: a model and names or values of what is meant. Out: the same, checked; and its activations on rows of tokens, from a
plain run that stops behind the last layer needed and keeps nothing else.
"""

import hashlib
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
from pellucid.model.config import Config
from pellucid.model.decompose import Activations, layer_read, parts, stream, value_bias
from pellucid.model.norms import LayerNorm, widened
from pellucid.pretrained.files import bytes_of

LEAST = 1e-6
"""Share of a direction that must be left without its mean: less is rounding."""
SAMPLE = 64
"""Numbers of each parameter that a fingerprint holds."""


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
    """What a head writes: how long it is, or how far it goes along a direction.

    Biases are left out, the values' too: wherever the head attends it writes them, and processing makes them one with
    the layer's output bias. Where LayerNorm reads the stream, what is written is taken without its mean, which is never
    read. So processing the weights changes nothing.
    """

    layer: int
    head: int
    along: Float[Tensor, " d_model"] | None = None
    """In the stream, of any length; None: the length of what is written."""
    name: str = "direction"
    """What `along` is called."""

    @property
    def label(self) -> str:
        """``5.1``; along a direction ``5.1 along`` and its name."""
        return f"{self.layer}.{self.head}" + ("" if self.along is None else f" along {self.name}")


@dataclass(frozen=True, eq=False)
class StreamDirection:
    """How far the stream goes along a direction (the dot product), where a layer reads it.

    Where LayerNorm reads the stream, the stream is taken without its mean, so that processing changes nothing.
    """

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
        ArgumentError: It is not in the model, or occurs twice; a direction that is none.
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
        raise ArgumentError(
            f"what is watched must be one thing or more, each of another name, got {labels}; directions take a name=…"
        )
    return found


def centred(config: Config, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
    """What the model's norms leave of what is in the stream: under LayerNorm all but its mean, else all."""
    return x - x.mean(-1, keepdim=True) if isinstance(config.norm, LayerNorm) else x


def fingerprint(model: HookedTransformer, things: list[Watched]) -> str:
    """A hash of what is watched, directions included, and of some numbers of each of the model's parameters.

    It is cheap, and the same wherever the model lies; unlike `weights_hash` it does not see every change.
    """
    digest = hashlib.sha256()
    for name, x in sorted(model.state_dict().items()):
        some = (x if x.ndim else x[None])[-1:].flatten()[:SAMPLE]
        digest.update(f"{name} {x.dtype} {list(x.shape)}\n".encode())
        digest.update(bytes_of(some.cpu().contiguous()))
    for one in things:
        digest.update(f"{one.label} {getattr(one, 'layer', None)} {getattr(one, 'mlp_input', None)}\n".encode())
        vector = _vector(one)
        if vector is not None:
            digest.update(bytes_of(vector.detach().cpu().double().contiguous()))
    return digest.hexdigest()[:16]


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
    vector = _vector(what)
    if vector is not None:
        _check_direction(config, vector)
    return what


def _check_direction(config: Config, vector: Tensor) -> None:
    if not isinstance(vector, Tensor):
        raise ArgumentError(f"a direction must be a tensor [{config.d_model}], got {type(vector).__name__}")
    if vector.shape != (config.d_model,):
        raise ArgumentError(f"a direction must be [{config.d_model}], got {list(vector.shape)}")
    x = vector.detach().cpu().double()
    left, whole = float(centred(config, x).norm()), float(x.norm())
    if not left > LEAST * whole:
        raise ArgumentError(
            "a direction must be finite and longer than 0, under LayerNorm without its mean too, which is never read; "
            f"got length {whole:.3g}, without its mean {left:.3g}"
        )


def _is_length(one: Watched) -> bool:
    return isinstance(one, HeadOutput) and one.along is None


def _vector(one: Watched) -> Tensor | None:
    """The direction that it was given, if any."""
    return one.vector if isinstance(one, StreamDirection) else one.along if isinstance(one, HeadOutput) else None


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
        self.from_zero = torch.tensor([isinstance(one, Neuron) or _is_length(one) for one in things])
        """Whether 0 means that nothing happens: of neurons and lengths. Along a direction it means nothing special."""

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
        return self.of(cache)

    def of(self, cache: Activations) -> Float[Tensor, "component *rows"]:
        """The activations in a run, on the CPU, in max(dtype, float32)."""
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

    def _value(self, one: HeadOutput | StreamDirection, cache: Activations) -> Float[Tensor, "*rows"]:
        model = self.model
        if isinstance(one, StreamDirection):
            x = widened(stream(model.config, cache, one.layer, mlp_input=one.mlp_input))
            return x @ centred(model.config, one.vector.detach().to(x))
        z = widened(cache[f"blocks.{one.layer}.attn.hook_z"][..., one.head, :])
        z = z - value_bias(model, one.layer)[one.head].to(z)
        W_O = model.blocks[one.layer].attn.W_O[one.head].detach().to(z)
        if one.along is not None:
            return z @ (W_O @ centred(model.config, one.along.detach().to(z)))
        return (z @ centred(model.config, W_O)).norm(dim=-1)


def _of_stream(model: HookedTransformer, at: int, mlp_input: bool) -> list[str]:
    """What `stream` needs."""
    n = model.config.n_layers
    if not n:
        return [part.name for part in parts(model.config)]
    return [f"blocks.{n - 1}.hook_resid_post" if at == n else f"blocks.{at}.hook_resid_{'mid' if mlp_input else 'pre'}"]
