"""Direct logit attribution: how much each part of a model adds to a logit, or a logit difference, by itself.

In: a model, and pairs whose clean prompts have answers. Out: for each prompt what each part writes along the answers'
direction, at the prompt's end, through the final norm with its scale frozen at the run's. So the norm is linear, and
the parts sum exactly to what the model says. It is not a logit lens, which normalises each state anew.

Numbers along a direction are made without the vectors (`model/decompose.py`), some prompts at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.reading import chunks
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.edits import Edit, Replace
from pellucid.hooks.index import plain
from pellucid.hooks.names import axes
from pellucid.hooks.site import Site
from pellucid.measurement import Measurement
from pellucid.model.decompose import Part, along, before_norm, parts, stream
from pellucid.model.norms import widened
from pellucid.tasks.metrics import default_metric
from pellucid.tasks.pairs import NONE, Pairs

SPLITS = ("component", "head", "neuron", "accumulated")
SCALE = "ln_final.hook_scale"


@torch.no_grad()
def logit_attribution(
    model: HookedTransformer,
    pairs: Pairs,
    *,
    by: str = "component",
    layer: int | Sequence[int] | None = None,
    swapped: "Swapped | None" = None,
) -> Measurement:
    """How much each part adds to the answers' logit, minus that of the wrong ones, at the end of each clean prompt.

    The direction is the mean of `W_U[:, answer]` minus the mean of `W_U[:, wrong]`, read through the final norm (w, and
    LayerNorm's mean) with the scale that it had in the run.

    Args:
        model: Model to read.
        pairs: Prompts, of any lengths, with answers; without wrong ones it is the answers' logit alone.
        by: ``"component"``: embeddings, each layer's attention and MLP, biases included. ``"head"``: what each head
            writes. ``"neuron"``: what each neuron writes. ``"accumulated"``: the stream itself before and within each
            layer, with the scale of the final norm.
        layer: Only heads or neurons of this layer, or of these.
        swapped: Heads that write what they do in other prompts; the norm's scale stays that of the run without. What
            others then write more is what they take over.

    Returns:
        Logits: ``[prompt component]`` (``embed``, ``pos_embed``, ``attn0``, ``mlp0`` …; accumulated ``0_pre``,
        ``0_mid``, … ``final_post``), ``[prompt layer head]`` or ``[prompt layer neuron]``. Variables of each prompt:
        ``constant``, what the norm's bias and `b_U` add; ``rest``, what other parts than these heads or neurons add
        (output biases among them); ``total``, what the model's logits say. Values, ``rest`` and ``constant`` sum to
        ``total``; of accumulated ones the last and ``constant`` do. Without residual connections only the last part
        writes into what is read, so that all other parts are 0 or left out.

    Raises:
        ArgumentError: The pairs have no answers; no MLP; a layer that there is not, or where none can be chosen.
        UnknownNameError: `by` is none of these.
        TokenError: An answer is not in the vocabulary.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Wang et al. 2022,
    "Interpretability in the Wild".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> prompt = [0, 11, 12, 13, 14, 11, 12, 13]
        >>> pairs = Pairs.from_tokens([prompt], [prompt], answer=14, wrong=12)
        >>> logit_attribution(model, pairs, by="head").mean("prompt").top(1).label
        '1.0'
    """
    if by not in SPLITS:
        raise UnknownNameError(f"by must be one of {', '.join(SPLITS)}, got {by!r}{nearest(by, SPLITS)}")
    layers = _layers(model, by, layer)
    asked = _Asked(model, by, layers, swapped)
    answers = Answers.of(model, pairs)
    found = [
        asked.read(pairs[rows], answers.directions[rows], rows) for rows in chunks(pairs.clean, widest=asked.widest)
    ]
    values, rest, constant, total = (torch.cat(x).cpu() for x in zip(*found, strict=True))
    per_prompt = {"constant": constant + answers.bias.to(constant), "total": total}
    per_prompt |= {"rest": rest} if by in ("head", "neuron") else {}
    dims: tuple[str, ...] = ("prompt", "component")
    coords: dict[str, Any] = {"component": asked.labels}
    if by in ("head", "neuron"):
        dims, coords = ("prompt", "layer", by), {"layer": layers}
        values = values.view(len(pairs), len(layers), asked.n_split)
    coords |= pairs.labels
    settings = {"by": by, "norm": "frozen", "at": "end", "metric": default_metric(pairs).name}
    return Measurement(
        values,
        dims,
        unit="logits",
        record=record_of(model, task="direct logit attribution", settings=settings),
        name="direct logit attribution",
        coords=coords,
        variables={name: ("prompt", x) for name, x in per_prompt.items()},
    )


@dataclass(frozen=True, eq=False)
class Swapped:
    """Heads whose output is that of other prompts, at all positions."""

    heads: Sequence[tuple[int, int]]
    """Layer and number of each."""
    tokens: Int[Tensor, "prompt pos"]
    """The other prompts, each as long as its clean one."""

    def edits(self, model: HookedTransformer, rows: slice) -> list[Edit]:
        """What puts their output into a run of some prompts."""
        names = [f"blocks.{layer}.attn.hook_z" for layer in dict.fromkeys(layer for layer, _ in self.heads)]
        other = model.run(self.tokens[rows].to(model.device), reads=names, padding_side="right").cache
        return [
            Replace(other[f"blocks.{layer}.attn.hook_z"][:, :, [head]], Site("z", layer=layer, head=head))
            for layer, head in self.heads
        ]


@dataclass(frozen=True)
class Answers:
    """What the logits of the answers are read by."""

    directions: Float[Tensor, "prompt d_model"]
    bias: Float[Tensor, " prompt"]

    @classmethod
    def of(cls, model: HookedTransformer, pairs: Pairs) -> "Answers":
        """Those of some pairs.

        Raises:
            ArgumentError: They have no answers.
            TokenError: An answer is not in the vocabulary.
        """
        if pairs.answer is None:
            raise ArgumentError("attribution needs pairs with answers, these have none; give answer=…")
        W, b = model.W_U.T, model.b_U
        directions, bias = _mean(W, pairs.answer, "answer"), _mean(b, pairs.answer, "answer")
        if pairs.wrong is not None:
            directions, bias = directions - _mean(W, pairs.wrong, "wrong"), bias - _mean(b, pairs.wrong, "wrong")
        return cls(directions, bias)


def _mean(rows: Tensor, ids: Tensor, what: str) -> Tensor:
    """The mean of the rows of each prompt's tokens."""
    if int(ids.max()) >= len(rows):
        raise TokenError(f"ids of {what} must lie in 0..{len(rows) - 1}, got {int(ids.max())}")
    ids = ids.to(rows.device)
    picked, there = widened(rows[ids.clamp(min=0)]), ids != NONE
    return torch.einsum("bk...,bk->b...", picked, (there / there.sum(1, keepdim=True)).to(picked))


def _layers(model: HookedTransformer, by: str, layer: int | Sequence[int] | None) -> list[int]:
    """The layers whose heads or neurons are told."""
    n, wanted = model.config.n_layers, plain(layer, "layer")
    if by not in ("head", "neuron"):
        if wanted is not None:
            raise ArgumentError(f"layer chooses among heads or neurons, and by is {by!r}; leave it out")
        return []
    if by == "neuron" and model.config.mlp is None:
        raise ArgumentError("by='neuron' needs a model with MLPs, and this model has attention only; take by='head'")
    chosen = list(range(n)) if wanted is None else [wanted] if isinstance(wanted, int) else list(wanted)
    for one in chosen:
        if not 0 <= one < n:
            raise ArgumentError(f"layer must lie in 0..{n - 1}, got {one}")
    return list(dict.fromkeys(chosen))


class _Asked:
    """What is read of a run of some prompts, and what is made of it."""

    def __init__(self, model: HookedTransformer, by: str, layers: list[int], swapped: Swapped | None) -> None:
        self.model, self.by, self.swapped, config = model, by, swapped, model.config
        self.parts = parts(config)
        self.split: list[Part] = []
        """The parts whose heads or neurons are told."""
        self.n_split = 0
        if by == "head":
            self.split, self.n_split = [Part("attn", layer) for layer in layers], config.attention.n_heads
        elif by == "neuron" and config.mlp is not None:
            self.split, self.n_split = [Part("mlp", layer) for layer in layers], config.mlp.d_mlp
        mids = (False,) if config.mlp is None else (False, True)
        self.places = [(layer, mid) for layer in range(config.n_layers) for mid in mids] + [(config.n_layers, False)]

    @property
    def labels(self) -> list[str]:
        """Of the axis ``component``."""
        if self.by == "accumulated":
            return [f"{layer}_{'mid' if mid else 'pre'}" for layer, mid in self.places[:-1]] + ["final_post"]
        return [part.label for part in self.parts]

    @property
    def names(self) -> list[str]:
        """Full names of what is read."""
        scale = [SCALE] if SCALE in self.model.hook_names else []
        if self.by == "accumulated" and self.model.config.n_layers:
            states = [f"blocks.{at}.hook_resid_{'mid' if mid else 'pre'}" for at, mid in self.places[:-1]]
            return [*scale, *states, f"blocks.{self.model.config.n_layers - 1}.hook_resid_post"]
        return scale + [part.inside if part in self.split else part.name for part in self.parts]

    @property
    def widest(self) -> int:
        """Numbers that all of it takes for each position."""
        config = self.model.config
        mlp = 0 if config.mlp is None else config.mlp.d_mlp
        sizes = {"d_model": config.d_model, "neuron": mlp, "head": config.attention.n_heads * config.attention.d_head}
        return sum(max(sizes.get(axis, 1) for axis in axes(name)) for name in self.names)

    def read(
        self, pairs: Pairs, direction: Float[Tensor, "prompt d_model"], of: slice
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(values `[prompt part]`, what the other parts add, what the norm's bias adds, what the logits say)."""
        here, model = pairs.to(self.model.device), self.model
        ends, edits = here.positions["end"], [] if self.swapped is None else self.swapped.edits(model, of)
        asked: dict[str, Any] = {"attention_mask": here.mask, "padding_side": "right"}
        done = model.run(here.clean, edits=edits, reads=self.names, logits_at=ends[:, None], **asked)
        rows, metric = torch.arange(len(ends), device=ends.device), default_metric(here)
        cache = {name: x[rows, 0 if name == SCALE else ends] for name, x in done.cache.items()}
        if edits and SCALE in cache:
            cache[SCALE] = model.run(here.clean, reads=[SCALE], **asked).cache[SCALE][rows, ends]
        scale = cache.get(SCALE, direction.new_ones(len(ends), 1))
        before, constant = before_norm(model.ln_final, direction, scale)
        said = metric.score(done.logits[:, 0], metric.targets(here)[:, 0])
        return *self._values(cache, before), constant, said

    def _values(
        self, cache: dict[str, Tensor], before: Float[Tensor, "prompt d_model"]
    ) -> tuple[Float[Tensor, "prompt part"], Float[Tensor, " prompt"]]:
        none = before[:, :0]
        if self.by == "accumulated":
            config = self.model.config
            states = [widened(stream(config, cache, at, mlp_input=mid)) for at, mid in self.places]
            return torch.stack([(state * before).sum(-1) for state in states], dim=1), none.sum(1)
        found = {part: along(self.model, cache, part, before, split=part in self.split).values.T for part in self.parts}
        if self.by == "component":
            return torch.cat(list(found.values()), dim=1), none.sum(1)
        silent = before.new_zeros(len(before), self.n_split)  # parts that do not write into what is read
        values = [found.get(part, silent)[:, : self.n_split] for part in self.split]
        others = [x[:, self.n_split :] if part in self.split else x for part, x in found.items()]
        return torch.cat(values or [none], dim=1), torch.cat(others, dim=1).sum(1)
