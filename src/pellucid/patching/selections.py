"""Which parts of a model send, and which receive: `heads() + mlps() + embed()`.

Pure: a selection is made before a model is known, and told apart once it is.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.model.config import Config

Kind: TypeAlias = Literal["embed", "head", "kv_head", "mlp", "neuron", "logits"]
Layers: TypeAlias = int | Sequence[int] | None
INPUTS = ("q", "k", "v", "mlp", "logits")
"""What a receiver reads by, in their order."""


@dataclass(frozen=True)
class Component:
    """A part of a model that writes into the stream or reads from it."""

    kind: Kind
    layer: int
    """-1 for the embedding, the number of layers for the logits."""
    index: int = 0
    """Of a head or a neuron, in its layer."""

    @property
    def label(self) -> str:
        """What people call it."""
        match self.kind:
            case "head":
                return f"{self.layer}.{self.index}"
            case "kv_head":
                return f"{self.layer}.kv{self.index}"
            case "neuron":
                return f"L{self.layer}N{self.index}"
            case "mlp":
                return f"mlp{self.layer}"
        return self.kind


@dataclass(frozen=True)
class Part:
    """One kind of component, in some layers."""

    kind: Kind
    layer: Layers = None
    index: int | None = None
    inputs: str = ""
    """By which of q, k and v heads receive; empty: by all."""

    def found(self, config: Config) -> Iterable[tuple[Component, tuple[str, ...]]]:
        """Its components in a model, and by what each receives."""
        attention, n_layers = config.attention, config.n_layers
        if self.kind in ("embed", "logits"):
            yield Component(self.kind, -1 if self.kind == "embed" else n_layers), (self.kind,)
            return
        if self.kind in ("mlp", "neuron") and config.mlp is None:
            raise ArgumentError(
                f"{self.kind}s must be there to send or receive, this model has no MLPs; leave them out"
            )
        d_mlp = 0 if config.mlp is None else config.mlp.d_mlp
        sizes = {"head": attention.n_heads, "kv_head": attention.kv_heads, "mlp": 1, "neuron": d_mlp}
        for layer in self._layers(n_layers):
            if self.index is not None and self.index >= sizes[self.kind]:
                raise ArgumentError(f"a {self.kind} must be one of 0..{sizes[self.kind] - 1}, got {self.index}")
            for index in range(sizes[self.kind]) if self.index is None else [self.index]:
                yield Component(self.kind, layer, index), (self.kind,) if self.kind == "mlp" else ()

    def _layers(self, n_layers: int) -> list[int]:
        told = range(n_layers) if self.layer is None else [self.layer] if isinstance(self.layer, int) else self.layer
        found = [layer + n_layers if layer < 0 else layer for layer in told]
        if not all(0 <= layer < n_layers for layer in found):
            raise ArgumentError(f"layer must lie in 0..{n_layers - 1}, got {list(told)}")
        return sorted(set(found))


@dataclass(frozen=True)
class Selection:
    """Parts of a model; `+` joins two."""

    parts: tuple[Part, ...]

    def __add__(self, other: "Selection | str") -> "Selection":
        return Selection((*self.parts, *selection(other).parts))

    def __radd__(self, other: "Selection | str") -> "Selection":
        return selection(other) + self

    def senders(self, config: Config) -> list[Component]:
        """What sends, from the lowest up.

        Raises:
            ArgumentError: Something among them cannot send, or is not there.
        """
        if not self.parts:
            raise ArgumentError("senders must name one part at least, got none; such as 'heads'")
        found = dict.fromkeys(component for part in self.parts for component, _ in part.found(config))
        for component in found:
            if component.kind in ("kv_head", "logits"):
                raise ArgumentError(
                    f"senders must write into the stream: embed, heads, mlps, neurons, got {component.label}; "
                    "make it a receiver"
                )
        return sorted(found, key=_height)

    def receivers(self, config: Config) -> dict[Component, tuple[str, ...]]:
        """What receives, from the lowest up, and by which inputs. Keys and values belong to key/value heads.

        Raises:
            ArgumentError: Something among them cannot receive, or is not there.
        """
        if not self.parts:
            raise ArgumentError("receivers must name one part at least, got none; such as 'logits'")
        grouped = config.attention.kv_heads != config.attention.n_heads
        found: dict[Component, set[str]] = {}
        for part in self.parts:
            if part.kind in ("embed", "neuron"):
                raise ArgumentError(
                    f"receivers must read the stream as a whole: heads, mlps, logits, got {part.kind}; make it a sender"
                )
            whole = part.index is None
            if part.kind not in ("head", "kv_head"):
                for component, inputs in part.found(config):
                    found.setdefault(component, set()).update(inputs)
                continue
            if part.kind == "kv_head" and "q" in part.inputs:
                raise ArgumentError(
                    f"a key/value head must receive by k or v, got {part.layer}.kv{part.index}:{part.inputs}; queries "
                    f"are those of a head, such as '{part.layer}.{part.index}:q'"
                )
            for name in part.inputs or ("kv" if part.kind == "kv_head" else "qkv"):
                theirs = part if not grouped or part.kind == "kv_head" or name == "q" else _keyed(part, whole, config)
                for component, _ in [] if theirs is None else theirs.found(config):
                    own = Component("head", component.layer, component.index) if not grouped else component
                    found.setdefault(own, set()).add(name)
        ordered = sorted(found, key=_height)
        return {component: tuple(name for name in INPUTS if name in found[component]) for component in ordered}


def heads(inputs: str = "", *, layer: Layers = None) -> Selection:
    """All heads, or those of some layers. As receivers by ``"q"``, ``"k"``, ``"v"`` or several; by all if none is told.

    Where key/value heads are shared by groups of query heads, those receive keys and values: ``"9.kv1"``.

    Raises:
        ArgumentError: `inputs` are others.
    """
    if set(inputs) - set("qkv"):
        raise ArgumentError(f"heads must receive by q, k or v, got {inputs!r}; such as heads('qk')")
    return Selection((Part("head", layer, inputs=inputs),))


def mlps(*, layer: Layers = None) -> Selection:
    """All MLPs, or those of some layers."""
    return Selection((Part("mlp", layer),))


def embed() -> Selection:
    """What the token embedding writes; it only sends."""
    return Selection((Part("embed"),))


def neurons(layer: Layers = None) -> Selection:
    """All neurons of some layers; they only send."""
    return Selection((Part("neuron", layer),))


def logits() -> Selection:
    """What the unembedding reads, through the final norm; they only receive."""
    return Selection((Part("logits"),))


def selection(told: "Selection | str | Sequence[str]") -> Selection:
    """A selection from names, such as ``"0.1"``, ``"9.kv1"``, ``"mlp3"``, ``"L8N2744"``, ``"embed"``, ``"logits"``.

    A single head of a model that shares key/value heads receives by q alone; its keys are those of ``"9.kv1"``.
    ``"heads"``, ``"mlps"`` and ``"neurons"`` are all of them; ``"9.6:qk"`` and ``"heads:q"`` say by what heads receive.

    Raises:
        UnknownNameError: A name means no part.

    Example:
        >>> [part.kind for part in selection("heads:q + mlp3").parts]
        ['head', 'mlp']
    """
    if isinstance(told, Selection):
        return told
    names = re.split(r"[\s,+]+", told.strip()) if isinstance(told, str) else list(told)
    return Selection(tuple(part for name in names for part in _named(name).parts))


def _named(told: str) -> Selection:
    name, _, inputs = told.partition(":")
    every = {"heads": lambda: heads(inputs), "mlps": mlps, "embed": embed, "logits": logits, "neurons": neurons}
    if name in every and (name == "heads" or not inputs):
        return every[name]()
    if head := re.fullmatch(r"(\d+)\.(kv)?(\d+)", name):
        heads(inputs)  # tells wrong inputs
        return Selection((Part("kv_head" if head[2] else "head", int(head[1]), int(head[3]), inputs),))
    if (mlp := re.fullmatch(r"mlp(\d+)", name)) and not inputs:
        return mlps(layer=int(mlp[1]))
    if (neuron := re.fullmatch(r"L(\d+)N(\d+)", name)) and not inputs:
        return Selection((Part("neuron", int(neuron[1]), int(neuron[2])),))
    raise UnknownNameError(
        f"a part must be called as '9.6', '9.6:qk', '9.kv1', 'mlp3', 'L8N2744', 'embed', 'logits', 'heads', 'heads:q', "
        f"'mlps' or 'neurons', got {told!r}"
    )


def _keyed(part: Part, whole: bool, config: Config) -> Part | None:
    if not whole and part.inputs:
        shared = (part.index or 0) // (config.attention.n_heads // config.attention.kv_heads)
        raise ArgumentError(
            f"keys and values belong to key/value heads here, got {part.layer}.{part.index}:{part.inputs}; "
            f"say '{part.layer}.kv{shared}'"
        )
    return Part("kv_head", part.layer) if whole else None


def _height(component: Component) -> tuple[int, int, str, int]:
    """Where it stands in the model: heads before the MLP of their layer, and a neuron beside its MLP."""
    return component.layer, component.kind in ("mlp", "neuron"), component.kind, component.index
