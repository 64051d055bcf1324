"""What small attention-only models say by their weights, beside what the text says by its counts.

In: a trained model and rows of text. Out: numbers. No layer is a bigram table, compared with counted bigrams; one layer
is a table of skip-trigrams, "s … d → o", each compared with how often the text has it.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.ngrams import SEEN, strongest_trigrams
from pellucid.analysis.token_counts import lift, trigram_counts
from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.norms import widened

Rows = Int[Tensor, "row length"]


class BesideBigrams(NamedTuple):
    """A model without layers beside counted bigrams."""

    counted_loss: float
    """Of the counted bigrams on held-out rows, nats per token."""
    divergence: float
    """Of the model's next-token probabilities from the counted ones, mean over tokens as they occur; nats."""
    agreement: float
    """In what share of the tokens, as they occur, both have the same most probable next one."""


def bigram_probabilities(rows: Rows, d_vocab: int) -> Float[Tensor, "d_vocab d_vocab"]:
    """The probability of each next token, counted, with what was not seen filled in (Witten and Bell 1991)."""
    counts = torch.zeros(d_vocab, d_vocab, dtype=torch.float64)
    pairs = rows[:, :-1].flatten() * d_vocab + rows[:, 1:].flatten()
    counts += torch.bincount(pairs, minlength=d_vocab**2).view(d_vocab, d_vocab)
    single = torch.bincount(rows[:, 1:].flatten(), minlength=d_vocab).double() + 1
    kinds = (counts > 0).sum(1, keepdim=True).clamp(min=1)
    return (counts + kinds * single / single.sum()) / (counts.sum(1, keepdim=True) + kinds)


@torch.no_grad()
def beside_bigrams(model: HookedTransformer, rows: Rows, held_out: Int[Tensor, "held_out_row length"]) -> BesideBigrams:
    """A model without layers, or with, as a table of next tokens, beside the text's own.

    Args:
        model: What it says of each token alone is compared.
        rows: What it was trained on.
        held_out: What it was not.
    """
    d_vocab = model.config.d_vocab
    counted = bigram_probabilities(rows, d_vocab)
    said = model(torch.arange(d_vocab)[:, None])[:, 0].double().log_softmax(-1)
    occurs = torch.bincount(rows[:, :-1].flatten(), minlength=d_vocab).double()
    occurs /= occurs.sum()
    loss = -counted[held_out[:, :-1], held_out[:, 1:]].log().mean()
    divergence = (counted * (counted.log() - said)).sum(1) @ occurs
    agreement = (counted.argmax(1) == said.argmax(1)).double() @ occurs
    return BesideBigrams(float(loss), float(divergence), float(agreement))


class BesideTrigrams(NamedTuple):
    """Triples s … d → o that a head's weights make, and what the text says of each."""

    triples: Int[Tensor, "triple part"]
    """Head, s, d, o."""
    lifts: Float[Tensor, " triple"]
    """How many times likelier o follows d where s stands before than where it does not."""
    control: Float[Tensor, " triple"]
    """The same with the s of another triple of the list."""
    counts: Int[Tensor, "triple 4"]
    """How often d stands behind s; and o follows then; how often d stands without s; and o follows then."""


@torch.no_grad()
def beside_trigrams(model: HookedTransformer, rows: Rows, *, n: int = 10) -> BesideTrigrams:
    """The strongest skip-trigrams of each head of the first layer, and their counts in the text.

    The mechanism is `pellucid.analysis.ngrams.strongest_trigrams`. Positions are left out, and so is the final norm's
    scale. Special tokens are no part of a triple.

    Args:
        model: With positions that the stream does not carry.
        rows: The text.
        n: Triples of each head.
    """
    occurs = torch.bincount(rows.flatten(), minlength=model.config.d_vocab).double()
    often = occurs >= SEEN
    if model.tokenizer is not None:
        often[list(model.tokenizer.policy.special_ids)] = False
    heads = range(model.config.attention.n_heads)
    triples = strongest_trigrams(model, occurs / occurs.sum(), often, heads=heads, n=n).triples
    moved = triples.clone()
    moved[:, 1] = triples[:, 1].roll(n // 2 or 1)
    counts, others = (trigram_counts(each, [rows.numpy()]) for each in (triples, moved))
    return BesideTrigrams(triples, lift(counts), lift(others), counts)


class Maps(NamedTuple):
    """What heads do on a text."""

    patterns: Float[Tensor, "layer head q_pos k_pos"]
    top: Int[Tensor, "layer head pos 3"]
    """The tokens whose logits a head raises most at a position, directly."""
    raised: Float[Tensor, "layer head pos 3"]
    """By how much, above the mean of all tokens; logits, at the final norm's scale of the run."""


@torch.no_grad()
def maps(model: HookedTransformer, tokens: Int[Tensor, "1 pos"], *, layers: int | None = None) -> Maps:
    """The attention of each head on a text, and what its output says of the next token.

    Args:
        model: Any decoder.
        tokens: The text.
        layers: The first so many; None: all.
    """
    n = model.config.n_layers if layers is None else min(layers, model.config.n_layers)
    names = [f"blocks.{layer}.attn.hook_{what}" for layer in range(n) for what in ("pattern", "result")]
    reads = [*names, *(["ln_final.hook_scale"] if model.config.norm is not None else [])]
    cache = model.run(tokens, reads=reads, attention="explicit").cache
    scale = widened(cache["ln_final.hook_scale"])[0] if model.config.norm is not None else 1.0
    weight = getattr(model.ln_final, "w", None)
    patterns, tops, raised = [], [], []
    for layer in range(n):
        patterns.append(cache[f"blocks.{layer}.attn.hook_pattern"][0])
        out = widened(cache[f"blocks.{layer}.attn.hook_result"][0]).transpose(0, 1)
        out = (out - out.mean(-1, keepdim=True)) / scale
        logits = (out if weight is None else out * weight) @ model.W_U
        best = (logits - logits.mean(-1, keepdim=True)).topk(3, dim=-1)
        tops.append(best.indices)
        raised.append(best.values)
    return Maps(torch.stack(patterns), torch.stack(tops), torch.stack(raised))


@torch.no_grad()
def attention_to_first(model: HookedTransformer, rows: Rows) -> Float[Tensor, "layer head"]:
    """How much the second half of each row attends to the row's first token, beside what uniform attention would."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.config.n_layers)]
    cache = model.run(rows, reads=names, attention="explicit").cache
    half = rows.shape[1] // 2
    uniform = (1 / torch.arange(half + 1, rows.shape[1] + 1)).mean()
    return torch.stack([cache[name][:, :, half:, 0].mean((0, 2)) for name in names]) - uniform
