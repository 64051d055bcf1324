"""The residual stream, taken apart into what was written into it.

In: a model with one stack of blocks, and the activations of a run by full name. Out: the parts that write into the
stream (embeddings, each layer's attention and MLP), each whole or split into heads, neurons and bias; as vectors, which
sum to the stream, or as numbers along a direction, which sum to the stream's and for which no vector is formed.

Without residual connections each part replaces the stream, so the last one before a place is all that there is.
Positions that enter attention alone (rotary, Shortformer) never reach the stream and are no part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.hooks.index import plain
from pellucid.model.block import Block
from pellucid.model.config import Config
from pellucid.model.mlp import MLP
from pellucid.model.norms import LayerNormPart, Norm, widened
from pellucid.model.positional import Learned
from pellucid.model.transformer import Stack

Activations: TypeAlias = Mapping[str, Tensor]
"""Of one run, by full name; at all positions, at some, or at one, without that axis."""


@dataclass(frozen=True)
class Part:
    """What writes into the stream: an embedding, or a layer's attention or MLP."""

    kind: Literal["embed", "pos_embed", "attn", "mlp"]
    layer: int | None = None
    """None for embeddings."""

    @property
    def name(self) -> str:
        """The full name of what it writes."""
        return f"hook_{self.kind}" if self.layer is None else f"blocks.{self.layer}.hook_{self.kind}_out"

    @property
    def inside(self) -> str:
        """The full name of what it is split by: a head's ``z``, a neuron's ``post``; an embedding is one."""
        within = {"attn": "attn.hook_z", "mlp": "mlp.hook_post"}
        return f"blocks.{self.layer}.{within[self.kind]}" if self.kind in within else self.name

    @property
    def label(self) -> str:
        """What people call it: ``embed``, ``attn3``, ``mlp3``."""
        return self.kind if self.layer is None else f"{self.kind}{self.layer}"


class Components(NamedTuple):
    """Some components of the stream: heads as ``5.1``, neurons as ``L8N2744``, biases as ``attn3 bias``."""

    labels: list[str]
    values: Float[Tensor, "component ..."]
    """``[component *rows d_model]``, or ``[component *rows]`` along a direction."""


def layer_read(config: Config, layer: int | None = None, *, mlp_input: bool = False) -> int:
    """Which layer reads the stream, `n_layers` being the unembedding.

    Args:
        config: Of the model.
        layer: 0 to `n_layers`; None and −1 mean `n_layers`.
        mlp_input: Whether its MLP reads, behind its attention.

    Raises:
        ArgumentError: There is no such layer, or it has no MLP.
    """
    n, at = config.n_layers, plain(layer, "layer")
    at = n if at is None or at == -1 else at
    if not isinstance(at, int) or not 0 <= at <= n:
        raise ArgumentError(f"layer must lie in 0..{n}, or be -1 or None for the final stream, got {layer!r}")
    if mlp_input and (at == n or config.mlp is None):
        why = "the final stream is read by the unembedding" if at == n else "this model has attention only"
        raise ArgumentError(f"mlp_input needs a layer with an MLP, got layer {at}, and {why}; leave mlp_input out")
    return at


def parts(config: Config, layer: int | None = None, *, mlp_input: bool = False) -> list[Part]:
    """The parts whose sum the stream is, where a layer reads it.

    Args:
        config: Of the model.
        layer: As for `layer_read`, like `mlp_input`.
        mlp_input: Whether its MLP reads, behind its attention.

    Example:
        >>> from pellucid import AttentionConfig, MLPConfig
        >>> attention, mlp = AttentionConfig(n_heads=2, d_head=4), MLPConfig(d_mlp=16)
        >>> config = Config(n_layers=2, d_model=8, d_vocab=5, n_ctx=16, attention=attention, mlp=mlp)
        >>> [part.label for part in parts(config, 1, mlp_input=True)]
        ['embed', 'pos_embed', 'attn0', 'mlp0', 'attn1']
    """
    last = layer_read(config, layer, mlp_input=mlp_input)
    kinds: tuple[Literal["attn", "mlp"], ...] = ("attn",) if config.mlp is None else ("attn", "mlp")
    written = [Part(kind, below) for below in range(last) for kind in kinds]
    written += [Part("attn", last)] if mlp_input else []
    if written and not config.residual:
        return written[-1:]
    embeddings = [Part("embed"), Part("pos_embed")] if isinstance(config.positions, Learned) else [Part("embed")]
    return embeddings + written


def stream(
    config: Config, cache: Activations, layer: int | None = None, *, mlp_input: bool = False
) -> Float[Tensor, "*rows d_model"]:
    """The stream itself, where a layer reads it.

    Args:
        config: Of the model.
        cache: Holds ``resid_pre``, ``resid_mid`` or ``resid_post`` there; of a model without layers the embeddings.
        layer: As for `layer_read`, like `mlp_input`.
        mlp_input: Whether its MLP reads, behind its attention.
    """
    at = layer_read(config, layer, mlp_input=mlp_input)
    if not config.n_layers:
        return torch.stack([cache[part.name] for part in parts(config)]).sum(0)
    if at == config.n_layers:
        return cache[f"blocks.{at - 1}.hook_resid_post"]
    return cache[f"blocks.{at}.hook_resid_{'mid' if mlp_input else 'pre'}"]


def components(
    model: Stack,
    cache: Activations,
    layer: int | None = None,
    *,
    mlp_input: bool = False,
    heads: bool = True,
    neurons: bool = True,
) -> Components:
    """The stream by component, where a layer reads it.

    Args:
        model: Of which.
        cache: Holds what each part wrote, or what it is split by: `Part.name`, `Part.inside`.
        layer: As for `layer_read`, like `mlp_input`.
        mlp_input: Whether its MLP reads, behind its attention.
        heads: Split attention into heads and a bias.
        neurons: Split MLPs into neurons and a bias, which takes much memory; `along` forms no vectors.

    Returns:
        ``[component *rows d_model]``, in units of the stream; their sum is the stream.

    Raises:
        ArgumentError: There is no such layer.
        UnknownNameError: The cache lacks what is needed.

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> _, cache = model.run_with_cache(torch.tensor([[1, 2, 3]]))
        >>> found = components(model, cache)
        >>> found.labels[:4], torch.allclose(found.values.sum(0), cache["resid_post", -1], atol=1e-5)
        (['embed', 'pos_embed', '0.0', '0.1'], True)
    """
    split = {"attn": heads, "mlp": neurons}
    found = [
        written(model, cache, part, split=split.get(part.kind, False))
        for part in parts(model.config, layer, mlp_input=mlp_input)
    ]
    return Components([label for part in found for label in part.labels], torch.cat([part.values for part in found]))


def written(model: Stack, cache: Activations, part: Part, *, split: bool = False) -> Components:
    """What a part wrote, whole or by heads or neurons with its bias last, ``[component *rows d_model]``."""
    if not split or part.layer is None:
        return Components([part.label], cache[part.name][None])
    split_up = head_results if part.kind == "attn" else neuron_results
    values, bias = split_up(model, cache, part.layer).movedim(-2, 0), bias_of(model, part)
    labels = _labels(part, len(values))
    if bias is None:
        return Components(labels, values)
    there = bias.to(values).expand(1, *values.shape[1:])
    return Components([*labels, f"{part.label} bias"], torch.cat([values, there]))


def along(
    model: Stack, cache: Activations, part: Part, direction: Float[Tensor, "*rows d_model"], *, split: bool = False
) -> Components:
    """How far what a part wrote goes along a direction: `written`, times the direction, without the vectors.

    Args:
        model: Of which.
        cache: Holds what the part wrote, or what it is split by.
        part: Which part.
        direction: Of each row.
        split: By heads or neurons, with the part's bias last.

    Returns:
        ``[component *rows]``, in max(dtype, float32).
    """
    direction = widened(direction)
    if not split or part.layer is None:
        return Components([part.label], (widened(cache[part.name]) * direction).sum(-1)[None])
    x = widened(cache[part.inside])
    if part.kind == "attn":
        read = torch.einsum("hem,...m->...he", _weight(model.blocks[part.layer].attn.W_O, x), direction)
        values = (x * read).sum(-1)
    else:
        values = x * (direction @ _weight(_mlp(model, part.layer).W_out, x).T)
    values, bias = values.movedim(-1, 0), bias_of(model, part)
    labels = _labels(part, len(values))
    if bias is None:
        return Components(labels, values)
    return Components([*labels, f"{part.label} bias"], torch.cat([values, (direction @ bias.to(direction))[None]]))


def head_results(model: Stack, cache: Activations, layer: int) -> Float[Tensor, "*rows head d_model"]:
    """What each head of a layer wrote: ``result`` where the cache has it, else ``z`` times `W_O`.

    Args:
        model: Of which.
        cache: Holds ``result`` or ``z``.
        layer: Which layer.
    """
    kept = f"blocks.{layer}.attn.hook_result"
    if kept in cache:
        return cache[kept]
    z = cache[f"blocks.{layer}.attn.hook_z"]
    return torch.einsum("...he,hem->...hm", z, model.blocks[layer].attn.W_O.detach().to(z))


def value_bias(model: Stack, layer: int) -> Float[Tensor, "head d_head"]:
    """What every value of a head has, whatever is read: `b_V`, and what the norm's bias gives through `W_V`.

    Each row of a pattern sums to 1, so that this is in each ``z`` too, wherever the head attends. Processing folds it
    into the output's bias; without it, what a head is said to write does not depend on that.

    Args:
        model: Of which.
        layer: Which layer.
    """
    block = model.blocks[layer]
    attn = block.attn
    found = attn.W_V.detach().new_zeros(attn.config.kv_heads, attn.config.d_head)
    if attn.b_V is not None:
        found = found + attn.b_V.detach()
    read = getattr(block.ln1, "b", None)
    if read is not None:
        found = found + torch.einsum("m,hme->he", read.detach(), attn.W_V.detach())
    return found.repeat_interleave(attn.config.n_heads // attn.config.kv_heads, dim=0)


def neuron_results(
    model: Stack, cache: Activations, layer: int, neurons: list[int] | slice | None = None
) -> Float[Tensor, "*rows neuron d_model"]:
    """What each neuron of a layer wrote: its activation times its row of `W_out`.

    Args:
        model: Of which.
        cache: Holds ``post``.
        layer: Which layer.
        neurons: Some of them; None: all.

    Raises:
        ArgumentError: The model has attention only.
    """
    post, W_out = cache[f"blocks.{layer}.mlp.hook_post"], _mlp(model, layer).W_out.detach()
    if neurons is not None:
        post, W_out = post[..., neurons], W_out[neurons]
    return post[..., None] * W_out.to(post)


def bias_of(model: Stack, part: Part) -> Float[Tensor, " d_model"] | None:
    """The output bias of a layer's attention or MLP; None where there is none."""
    if part.layer is None:
        return None
    block: Block = model.blocks[part.layer]
    bias = block.attn.b_O if part.kind == "attn" else _mlp(model, part.layer).b_out
    return None if bias is None else bias.detach()


def before_norm(
    norm: Norm, direction: Float[Tensor, "*rows d_model"], scale: Float[Tensor, "*#rows 1"]
) -> tuple[Float[Tensor, "*rows d_model"], Float[Tensor, "*rows"]]:
    """A direction behind a norm whose scale is held fixed, as one before it, so that the norm is linear.

    Args:
        norm: Which norm.
        direction: Behind it.
        scale: What it divides by.

    Returns:
        (the direction in the stream, what the norm's bias gives along the direction): the stream along the one, plus
        the other, is the normalised stream along `direction`.
    """
    direction, scale = widened(direction), widened(scale)
    w, b = (getattr(norm, name, None) for name in ("w", "b"))
    constant = direction.new_zeros(direction.shape[:-1]) if b is None else direction @ _weight(b, direction)
    if w is not None:
        direction = direction * _weight(w, direction)
    if isinstance(norm, LayerNormPart):
        direction = direction - direction.mean(-1, keepdim=True)
    return direction / scale, constant


def _labels(part: Part, n: int) -> list[str]:
    return [f"{part.layer}.{i}" if part.kind == "attn" else f"L{part.layer}N{i}" for i in range(n)]


def _mlp(model: Stack, layer: int) -> MLP:
    mlp = model.blocks[layer].mlp
    if mlp is None:
        raise ArgumentError("neurons need a model with MLPs, and this model has attention only; take its heads")
    return mlp


def _weight(W: Tensor, like: Tensor) -> Tensor:
    return widened(W.detach()).to(like)
