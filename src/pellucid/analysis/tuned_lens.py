"""The tuned lens: a logit lens behind one affine translator a layer, trained on a corpus.

In: a model and texts. Out: for the stream that each layer reads a matrix and a bias which make of it, as well as such a
map can, what the final stream says: KL(final ‖ lens) is the loss, the model stays as it is. Beside it the KL on rows
that were held out, with the logit lens's, so that one sees what the translators bring.

Each layer's translator starts as the identity, which is the logit lens. Layers are trained on the same rows, one after
the other within each step, so that one layer's rows of the vocabulary are there at a time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis import reading
from pellucid.analysis.lens_cells import COPIES, divergence, said
from pellucid.analysis.watched import fingerprint
from pellucid.base.errors import ArgumentError, TrainingError
from pellucid.base.progress import progress as shown
from pellucid.base.record import Record
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.measurement import Measurement
from pellucid.model.decompose import parts, stream
from pellucid.model.norms import widened
from pellucid.pretrained.native import weights_hash
from pellucid.prompts import as_ids
from pellucid.text.packing import Packed, pack

LONGEST = 128
"""Tokens of a row, where the context is longer."""


class HeldOut(NamedTuple):
    """KL to the model's own prediction on rows that were not trained on, ``[prompt layer]``, nats, mean over positions.

    ``.mean("prompt")`` gives intervals over rows; ``logit - tuned`` what the translators bring.
    """

    tuned: Measurement
    logit: Measurement


@dataclass(frozen=True, eq=False, kw_only=True)
class TunedLens:
    """One affine translator for the stream that each layer reads: ``x + x weight + bias``.

    `train_tuned_lens` makes one; `logit_lens` reads a model with it: ``logit_lens(model, text, lens=lens)``. ``save``
    writes it, ``load`` reads it for the model that it was made for.
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"]
    record: Record
    """Of which model, trained on what and how."""
    held_out: HeldOut | None = None
    """None where no row was held out."""
    d_vocab: int = field(default=0)

    def __call__(self, states: Float[Tensor, "*rows d_model"], layer: int) -> Float[Tensor, "*rows d_model"]:
        """The states that a layer reads, as states that the final norm and `W_U` can read.

        Args:
            states: Of the stream before the layer.
            layer: 0 to `n_layers` - 1.
        """
        weight, bias = self.weight[layer].to(states.device), self.bias[layer].to(states.device)
        wide = states.to(weight.dtype)
        return (wide + wide @ weight + bias).to(states.dtype)

    def check(self, model: HookedTransformer) -> None:
        """Refuses every model but the one that it was trained on, as its weights were held then.

        Raises:
            ArgumentError: Layers, width, vocabulary or weights differ; processing and dtype count.
        """
        ours = {"n_layers": len(self.weight), "d_model": self.weight.shape[2], "d_vocab": self.d_vocab}
        config = model.config
        theirs = {"n_layers": config.n_layers, "d_model": config.d_model, "d_vocab": config.vocab_out}
        for name, size in ours.items():
            if theirs[name] != size:
                raise ArgumentError(
                    f"a tuned lens must be used on the model that it was trained on ({self.record.model or 'no name'}, "
                    f"{name}={size}), got {name}={theirs[name]}; train one by train_tuned_lens"
                )
        found = _hash_of(model)
        if self.record.weights_hash != found:
            trained, got = (
                f"weights {str(digest)[:12]}… ({dtype}; processing: {', '.join(steps) or 'none'})"
                for digest, dtype, steps in (
                    (self.record.weights_hash, self.record.dtype, self.record.processing),
                    (found, str(model.dtype).removeprefix("torch."), model.record.processing),
                )
            )
            raise ArgumentError(
                f"a tuned lens must be used on the model that it was trained on ({self.record.model or 'no name'}, "
                f"{trained}), got {got}; load the model as it was, or train a lens for this one"
            )

    def save(self, folder: Any, *, overwrite: bool = False) -> None:
        """Writes it to a folder: all of it or nothing; see `pellucid.analysis.tuned_lens_files`."""
        from pellucid.analysis.tuned_lens_files import save

        save(self, folder, overwrite=overwrite)

    @classmethod
    def load(cls, folder: Any, model: HookedTransformer) -> "TunedLens":
        """Reads the lens of a model; see `pellucid.analysis.tuned_lens_files`."""
        from pellucid.analysis.tuned_lens_files import load

        return load(folder, model)

    def __repr__(self) -> str:
        rows = [f"Tuned lens of {self.record.model or 'a model of no name'}: {len(self.weight)} layers"]
        if self.held_out is not None:
            tuned, logit = (x.mean("prompt") for x in self.held_out)
            rows[0] += f"; held-out KL over {tuned.n} rows, nats"
            rows += [
                f"layer {layer}: {a:.3f}, logit lens {b:.3f}"
                for layer, (a, b) in enumerate(zip(tuned.values, logit.values, strict=True))
            ]
        return "\n  ".join(rows)


def train_tuned_lens(
    model: HookedTransformer,
    corpus: Any,
    *,
    steps: int = 250,
    batch: int = 16,
    length: int | None = None,
    held_out: float = 0.1,
    lr: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> TunedLens:
    """Trains one affine translator a layer to say what the final stream says, on a corpus.

    AdamW without weight decay, from the identity, with a rate that falls to 0 in a straight line and a gradient of
    norm 1 at most for each layer. The same arguments give the same lens.

    Args:
        model: Model to read; its weights stay as they are.
        corpus: A `Corpus`, documents, `Packed` rows, or token ids ``[row pos]``.
        steps: Of the optimiser.
        batch: Rows of a step.
        length: Tokens of a row, of documents; None: 128, or `n_ctx` where that is less.
        held_out: The share of documents, or of rows of ids, that is not trained on; of `Packed` rows what it holds out.
        lr: The learning rate at first; None: 1 / d_model, 0.01 at most (a step of AdamW changes every number of a
            matrix alike, so that wide models need smaller ones).
        seed: Of the order of the rows, and of which rows of ids are held out.
        progress: Show how far it is; None: on a terminal or in a notebook.

    Returns:
        The lens, with its KL on what was held out beside the logit lens's.

    Raises:
        ArgumentError: An argument that cannot be; a model without layers; no rows.
        TokenError: Documents for a model without tokenizer, or that its vocabulary cannot take; rows of ids lack the
            BOS that the tokenizer's policy asks for.
        TrainingError: The loss is no number any more.

    Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> rows = torch.randint(1, 50, (24, 12), generator=torch.Generator().manual_seed(0))
        >>> rows[:, 0] = 0
        >>> lens = train_tuned_lens(model, rows, steps=20, batch=8)
        >>> tuned, logit = (kl.mean("prompt").values for kl in lens.held_out)
        >>> bool((tuned < logit).all())
        True
    """
    lr = min(0.01, 1 / model.config.d_model) if lr is None else lr
    steps, batch = at_least("steps", steps, 1), at_least("batch", batch, 1)
    _check(model, lr, held_out)
    rows, kept, told = _rows(model, corpus, length, held_out, seed)
    n, d = model.config.n_layers, model.config.d_model
    wide = widened(torch.empty(0, dtype=model.dtype)).dtype
    weight = torch.zeros(n, d, d, dtype=wide, device=model.device, requires_grad=True)
    bias = torch.zeros(n, d, dtype=wide, device=model.device, requires_grad=True)
    optimiser = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    order = _order(len(rows), generator(seed))
    with shown(steps, "tuned lens", shown=progress) as advance:
        for step in range(steps):
            chosen = sorted(next(order) for _ in range(batch))
            losses = _gradients(model, rows[chosen], weight, bias)
            if not bool(losses.isfinite().all()):
                raise TrainingError(
                    f"the loss must stay a number, got {losses.tolist()} at step {step}; take a lower lr"
                )
            optimiser.step()
            schedule.step()
            advance(1, f"KL {float(losses.mean()):.3f}")
    settings = {"steps": steps, "batch": batch, "lr": lr, "optimiser": "AdamW", "loss": "KL(final ‖ lens)", **told}
    record = record_of(model, task="tuned lens", seed=seed, settings=settings, weights_hash=_hash_of(model))
    lens = TunedLens(weight=weight.detach(), bias=bias.detach(), record=record, d_vocab=model.config.vocab_out)
    if not len(kept):
        return lens
    both = HeldOut(lens_kl(model, kept, lens), lens_kl(model, kept))
    return TunedLens(weight=lens.weight, bias=lens.bias, record=record, held_out=both, d_vocab=lens.d_vocab)


@torch.no_grad()
def lens_kl(model: HookedTransformer, rows: Any, lens: TunedLens | None = None) -> Measurement:
    """How far a lens is from the model's own prediction, in each layer, on each row.

    Args:
        model: Model to read.
        rows: Token ids, ``[row pos]`` or one row, without padding.
        lens: A tuned one; None: the logit lens.

    Returns:
        ``[prompt layer]``, KL(final ‖ lens), nats, the mean over a row's positions, BOS's included.

    Raises:
        ArgumentError: The lens is not of this model; no rows.
        TokenError: Rows lack the BOS that the tokenizer's policy asks for.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> lens_kl(model, [[0, 11, 12, 11, 12]]).dims
        ('prompt', 'layer')
    """
    if lens is not None:
        lens.check(model)
    ids = as_ids(rows)
    ids = ids[None] if ids.ndim == 1 else ids
    if ids.ndim != 2 or not ids.numel():
        raise ArgumentError(f"rows must be token ids [row pos], one row or more, got {list(ids.shape)}")
    reading.starts_with_bos(model, ids)
    n = model.config.n_layers
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    values = torch.zeros(len(ids), n, dtype=dtype)
    for part in reading.chunks(ids, widest=(n + 1) * model.config.d_model):
        here = ids[part]
        owner = torch.arange(len(here)).repeat_interleave(here.shape[1])
        for places, final, states in _pieces(model, here):
            for layer in range(n):
                x = states[layer] if lens is None else lens(states[layer], layer)
                found = divergence(final, said(model, x)).cpu().to(dtype) / here.shape[1]
                values[part, layer] = values[part, layer].index_add(0, owner[places], found)
    name = "logit lens, KL to the final" if lens is None else "tuned lens, KL to the final"
    settings = {} if lens is None else {"lens": {"seed": lens.record.seed, **lens.record.settings}}
    record = record_of(model, task=name.split(",")[0], settings=settings)
    return Measurement(values, ("prompt", "layer"), unit="nats", record=record, name=name)


def _gradients(
    model: HookedTransformer,
    rows: Int[Tensor, "row pos"],
    weight: Float[Tensor, "layer d_model d_model"],
    bias: Float[Tensor, "layer d_model"],
) -> Float[Tensor, " layer"]:
    """Sets the gradients of all translators on some rows, clipped layer by layer, and gives each layer's loss."""
    losses = torch.zeros(len(weight), dtype=weight.dtype, device=weight.device)
    weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
    for _, final, states in _pieces(model, rows):
        for layer in range(len(weight)):
            x = widened(states[layer])
            with torch.enable_grad():
                W, b = weight[layer].detach().requires_grad_(), bias[layer].detach().requires_grad_()
                loss = divergence(final, said(model, x + x @ W + b)).sum() / rows.numel()
                dW, db = torch.autograd.grad(loss, (W, b))
            weight.grad[layer] += dW
            bias.grad[layer] += db
            losses[layer] += loss.detach()
    norms = (weight.grad.square().sum((1, 2)) + bias.grad.square().sum(1)).sqrt().clamp(min=1)
    weight.grad /= norms[:, None, None]
    bias.grad /= norms[:, None]
    return losses


def _pieces(
    model: HookedTransformer, rows: Int[Tensor, "row pos"]
) -> Iterator[tuple[slice, Float[Tensor, "place d_vocab"], list[Tensor]]]:
    """(places among the rows' positions, what the model says there, the stream before each layer there)."""
    config = model.config
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(config.n_layers)]
    final = [f"blocks.{config.n_layers - 1}.hook_resid_post"] if names else [part.name for part in parts(config)]
    with torch.no_grad():
        cache = model.run(rows.to(model.device), reads=names + final, return_type=None).cache
        flat = [cache[name].flatten(0, 1) for name in names]
        last = stream(config, cache).flatten(0, 1)
    size = max(1, reading.NUMBERS // (COPIES * config.vocab_out))
    for start in range(0, len(last), size):
        places = slice(start, start + size)
        with torch.no_grad():
            said_there = said(model, last[places])
        yield places, said_there, [x[places] for x in flat]


_HASHES: WeakKeyDictionary[HookedTransformer, tuple[Any, str]] = WeakKeyDictionary()


def _hash_of(model: HookedTransformer) -> str:
    """`weights_hash`, which takes seconds for large models; made anew where a weight was replaced or written since.

    What was written behind torch's back, through ``.data``, is seen where it touches the numbers of the fingerprint.
    """
    held = [x for _, x in sorted(model.state_dict().items())]
    if any(x.is_inference() for x in held):  # nothing tells when these are written
        return weights_hash(model)
    now = [(x.data_ptr(), x._version, x.dtype) for x in held], fingerprint(model, [])
    kept = _HASHES.get(model)
    if kept is None or kept[0] != now:
        kept = _HASHES[model] = (now, weights_hash(model))
    return kept[1]


def _check(model: HookedTransformer, lr: float, held_out: float) -> None:
    if not lr > 0:
        raise ArgumentError(f"lr must be above 0, got {lr}; 1 / d_model is usual")
    if not 0 <= held_out < 1:
        raise ArgumentError(f"the share that is held out must be at least 0 and below 1, got {held_out}")
    if not model.config.n_layers:
        raise ArgumentError("a tuned lens needs a model with layers, got n_layers=0")


def _rows(
    model: HookedTransformer, corpus: Any, length: int | None, share: float, seed: int
) -> tuple[Int[Tensor, "row pos"], Int[Tensor, "held_out_row pos"], dict[str, Any]]:
    """(rows to train on, rows held out, what the record tells of them)."""
    if isinstance(corpus, Iterator):
        corpus = list(corpus)
    documents = isinstance(corpus, Iterable) and not isinstance(corpus, Tensor | np.ndarray | Packed)
    if documents and not (isinstance(corpus, list | tuple) and corpus and not isinstance(corpus[0], str)):
        tokens = min(LONGEST, model.config.n_ctx) if length is None else length
        corpus = pack(corpus, model._needed_tokenizer(), length=tokens, held_out=share)
    elif length is not None:
        raise ArgumentError(f"length is that of rows made of documents, got length={length} for rows that are there")
    if isinstance(corpus, Packed):
        train, kept = (torch.from_numpy(rows.astype(np.int64)) for rows in (corpus.train, corpus.held_out))
        told: dict[str, Any] = {"corpus": corpus.hash, "n_documents": corpus.n_documents}
    else:
        ids = as_ids(corpus).cpu()
        if ids.ndim != 2 or not ids.numel():
            raise ArgumentError(f"corpus must be documents or token ids [row pos], got ids of shape {list(ids.shape)}")
        reading.starts_with_bos(model, ids)
        order = torch.randperm(len(ids), generator=generator(seed))
        n = min(len(ids) - 1, round(share * len(ids)))
        train, kept, told = ids[order[n:].sort().values], ids[order[:n].sort().values], {}
    if train.shape[1] > model.config.n_ctx:
        raise ArgumentError(f"rows must fit n_ctx={model.config.n_ctx}, got {train.shape[1]} tokens; give shorter ones")
    return train, kept, told | {"rows": len(train), "held_out_rows": len(kept), "length": train.shape[1]}


def _order(n: int, draws: torch.Generator) -> Iterator[int]:
    """All rows in one random order after the other."""
    while True:
        yield from torch.randperm(n, generator=draws).tolist()
