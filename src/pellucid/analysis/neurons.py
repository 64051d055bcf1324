"""What a neuron, a head or a direction does: where in texts it is active, which tokens it writes for, what it adds.

In: a model, and what to watch. Out: its best places in a corpus, from one plain pass (`contexts.py` says how they are
kept); the tokens it writes for and against, read off the weights; its direct effect on an answer, from one pass over
the prompts, which forms no other neuron's.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.attribution import Answers
from pellucid.analysis.contexts import ONE_PER, Context, Contexts, Tally, best_places, merge_contexts
from pellucid.analysis.reading import chunks
from pellucid.analysis.texts import Texts, rows_of
from pellucid.analysis.token_circuits import linear
from pellucid.analysis.token_tables import TokenTable, token_table, words_of
from pellucid.analysis.watched import HeadOutput, Neuron, StreamDirection, Watch, Watched, What, watched
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement
from pellucid.model.decompose import Part, before_norm, parts
from pellucid.model.norms import widened
from pellucid.tasks.pairs import Pairs

SCALE = "ln_final.hook_scale"


@torch.no_grad()
def top_contexts(
    model: HookedTransformer,
    texts: Texts,
    *,
    what: What,
    k: int = 20,
    negative: bool = False,
    one_per: str | None = None,
    context: int = 20,
    length: int | None = None,
    first_document: int = 0,
) -> Contexts:
    """The k places in some texts where a neuron, a head or a direction is most active, from one plain pass.

    Memory is bounded: by the best places so far, and by some rows' activations of the layers that are watched. BOS in
    front is shown, but neither counted nor found, since activations there are like nowhere else. Of equally active
    places those that come first in the texts are found.

    Args:
        model: Model to read.
        texts: A `Corpus`, texts, or rows of token ids without padding; texts longer than the context go on in further
            rows (see `pellucid.analysis.texts.rows_of`).
        what: What is watched, one thing or several: `Neuron`, `HeadOutput`, `StreamDirection`, ``"L8N2744"``,
            ``"5.1"``, or ``(layer, neuron)``.
        k: How many places of each.
        negative: Also the k most negative ones.
        one_per: ``"document"`` or ``"row"``: at most one place of each; None: as they come.
        context: Tokens that are shown on each side.
        length: Tokens of a row at most, BOS included; None: the model's context.
        first_document: Number of the first text, where these are a part of a corpus: two parts' results are made one by
            `pellucid.analysis.contexts.merge_contexts`.

    Returns:
        The places with their tokens and activations, and a tally over all tokens: ``.statistics`` has mean, maximum,
        minimum, the share above 0 and quantiles of each, in activation (a head's or direction's: units of the stream).

    Raises:
        ArgumentError: What is watched is not in the model; an argument that cannot be.
        UnknownNameError: A name that means nothing to watch, or no such `one_per`.
        TokenError: A text cannot be encoded; rows of ids lack the BOS that the tokenizer's policy asks for.

    Example:
        >>> model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
        >>> texts = ["The lamp was lost.", "Nobody saw the lamp, and the lamp was glad of it."]
        >>> found = top_contexts(model, texts, what=["0.3", "1.0"], k=2)
        >>> found.labels, len(found.of("1.0")), found.tally.n, found.n_documents
        (['0.3', '1.0'], 2, 22, 2)
    """
    if one_per not in ONE_PER:
        known = [name for name in ONE_PER if name]
        raise UnknownNameError(f"one_per must be document, row or None, got {one_per!r}{nearest(str(one_per), known)}")
    for name, number, least in (("k", k, 1), ("context", context, 0)):
        if number < least:
            raise ArgumentError(f"{name} must be {least} or more, got {number}")
    watch = Watch(model, watched(model, what))
    asked = {"k": k, "one_per": one_per, "context": context}
    settings = {"what": watch.labels, "negative": negative, "length": length, **asked}
    record = record_of(model, task="top contexts", settings=settings)
    found, last = None, None
    for rows in rows_of(model, texts, widest=watch.widest, length=length, first_document=first_document):
        values, lists = watch.values(rows), []
        for sign in (1, -1) if negative else (1,):
            known = None if found is None else found.most if sign == 1 else found.least
            floors = values.new_full((len(values),), -torch.inf) if known is None else _floors(known, sign, k)
            lists.append(best_places(values, rows, floors.to(values), sign=sign, **asked))
        most, least = lists if negative else (lists[0], None)
        n_documents = len(rows.document.unique()) - int(last == int(rows.document[0]))
        last = int(rows.document[-1])
        tally = Tally.of(values[:, rows.counted])
        here = Contexts(watch.labels, most, least, tally, n_documents, k, one_per, record)
        found = here if found is None else merge_contexts(found, here)
    if found is None:
        raise ArgumentError("texts must hold a token besides BOS, got none; give some text")
    return _worded(model, found)


class WrittenTokens(NamedTuple):
    """The tokens whose logits something raises, and those that it lowers."""

    raised: TokenTable
    lowered: TokenTable


@torch.no_grad()
def written_tokens(model: HookedTransformer, what: What, k: int = 10) -> WrittenTokens:
    """Which tokens a neuron or a direction writes for, and which against, read off the weights.

    What is written goes through the final norm (w, and LayerNorm's mean; its scale is left out, being the run's) and
    `W_U`; each score is counted from the mean over all tokens, so that processing the weights changes nothing. A neuron
    is taken at activation 1: where its activation is negative, raised and lowered change places.

    Args:
        model: Model to read.
        what: Neurons, or `StreamDirection`s, or vectors, ``[d_model]`` or ``[direction d_model]``.
        k: How many tokens of each side.

    Returns:
        Two tables, a row for each; scores in logits by unit of activation, but for the final norm's scale.

    Raises:
        ArgumentError: It is not in the model; a head, which writes many directions (see `ov_tokens`).

    Source: Geva et al. 2022, "Transformer Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary
    Space".

    Example:
        >>> from pellucid import AttentionConfig, Config, MLPConfig
        >>> sizes = {"n_layers": 2, "d_model": 8, "d_vocab": 20, "n_ctx": 16}
        >>> config = Config(**sizes, attention=AttentionConfig(n_heads=2, d_head=4), mlp=MLPConfig(d_mlp=12))
        >>> model = HookedTransformer(config, seed=0, device="cpu")
        >>> written_tokens(model, "L1N3", k=4).raised.ids.shape
        torch.Size([1, 4])
    """
    if isinstance(what, Tensor):
        vectors = what.detach()[None] if what.ndim == 1 else what.detach()
        if vectors.ndim != 2 or vectors.shape[1] != model.config.d_model:
            raise ArgumentError(f"vectors must be [direction {model.config.d_model}], got {list(what.shape)}")
        labels = [f"direction {i}" for i in range(len(vectors))]
    else:
        things = watched(model, what)
        labels, vectors = [thing.label for thing in things], torch.stack([_written(model, one) for one in things])
    read = linear(model.ln_final, widened(vectors.to(model.W_U)))
    W_U = widened(model.W_U)
    W_U = W_U - W_U.mean(1, keepdim=True)
    tables = []
    for largest, words in ((True, "for"), (False, "against")):
        settings = {"which": "written tokens", "what": labels, "largest": largest}
        table = token_table(model, f"Tokens written {words}", read, W_U, k=k, ids=None, settings=settings)
        tables.append(replace(table, labels=labels))
    return WrittenTokens(*tables)


@torch.no_grad()
def neuron_effects(
    model: HookedTransformer,
    pairs: Pairs,
    neurons: What,
    *,
    at: str = "end",
    direction: Float[Tensor, " d_model"] | Float[Tensor, "prompt d_model"] | None = None,
) -> Measurement:
    """How much some neurons add, directly, to the answers' logits minus those of the wrong ones, in each clean prompt.

    As `logit_attribution(by="neuron")`, the final norm's scale frozen at the run's, but for these neurons alone: no
    other neuron's effect and no vocabulary is formed.

    Args:
        model: Model to read.
        pairs: Prompts, of any lengths.
        neurons: As for `top_contexts`.
        at: The position, by name, whose next token is spoken of.
        direction: Behind the final norm, one for all prompts or one for each; None: the mean of `W_U[:, answer]` minus
            the mean of `W_U[:, wrong]`.

    Returns:
        ``[prompt component]``, logits; variable ``activation`` on the same axes.

    Raises:
        ArgumentError: No neurons, or not in the model; neither answers nor a direction.
        UnknownNameError: The pairs have no such position.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> from pellucid import AttentionConfig, Config, MLPConfig
        >>> sizes = {"n_layers": 2, "d_model": 8, "d_vocab": 20, "n_ctx": 16}
        >>> config = Config(**sizes, attention=AttentionConfig(n_heads=2, d_head=4), mlp=MLPConfig(d_mlp=12))
        >>> model = HookedTransformer(config, seed=0, device="cpu")
        >>> pairs = Pairs.from_tokens([[0, 11, 12]], [[0, 11, 13]], answer=14, wrong=12)
        >>> neuron_effects(model, pairs, ["L0N3", "L1N5"]).dims
        ('prompt', 'component')
    """
    chosen = [one for one in watched(model, neurons) if isinstance(one, Neuron)]
    if len(chosen) != len(watched(model, neurons)):
        raise ArgumentError("neurons must be neurons, such as 'L8N2744', got a head or a direction among them")
    if at not in pairs.positions:
        raise UnknownNameError(f"at must be a position of the pairs, got {at!r}{nearest(at, pairs.positions)}")
    towards = _answers(model, pairs) if direction is None else widened(direction.detach().to(model.W_U))
    if towards.shape[-1] != model.config.d_model or towards.shape[:-1] not in ((), (len(pairs),)):
        shapes = f"[{model.config.d_model}] or [{len(pairs)} {model.config.d_model}], got {list(towards.shape)}"
        raise ArgumentError(f"direction must be {shapes}")
    towards = towards.expand(len(pairs), -1)
    heard = [Part("mlp", one.layer) in parts(model.config) for one in chosen]  # without a residual stream: the last
    W = torch.stack([_written(model, one) * on for one, on in zip(chosen, heard, strict=True)])
    effects, activations = [], []
    for rows, post, scale in _read(model, pairs, chosen, at):
        before, _ = before_norm(model.ln_final, towards[rows], scale)
        activations.append(post.cpu())
        effects.append((post * (before @ W.T)).cpu())
    coords: dict[str, Any] = {"component": [one.label for one in chosen]}
    coords |= pairs.labels
    settings = {
        "by": "chosen neurons",
        "norm": "frozen",
        "at": at,
        "direction": "answers" if direction is None else "given",
    }
    dims = ("prompt", "component")
    return Measurement(
        torch.cat(effects),
        dims,
        unit="logits",
        record=record_of(model, task="direct logit attribution", settings=settings),
        name="direct effect of neurons",
        coords=coords,
        variables={"activation": (dims, torch.cat(activations))},
    )


def _read(
    model: HookedTransformer, pairs: Pairs, neurons: list[Neuron], at: str
) -> Iterator[tuple[slice, Float[Tensor, "prompt neuron"], Float[Tensor, "prompt 1"]]]:
    """Some prompts at a time: which, the neurons' activations at a position, and the final norm's scale there."""
    layers = sorted({one.layer for one in neurons})
    reads = [f"blocks.{layer}.mlp.hook_post" for layer in layers]
    reads += [SCALE] if SCALE in model.hook_names else []
    d_mlp = 0 if model.config.mlp is None else model.config.mlp.d_mlp
    for rows in chunks(pairs.clean, widest=d_mlp * len(layers)):
        here = pairs[rows].to(model.device)
        asked = {"attention_mask": here.mask, "padding_side": "right", "return_type": None}  # no vocabulary is formed
        cache = model.run(here.clean, reads=reads, **asked).cache
        places = here.positions[at]
        row = torch.arange(len(places), device=places.device)
        post = [widened(cache[f"blocks.{one.layer}.mlp.hook_post"][row, places, one.neuron]) for one in neurons]
        scale = widened(cache[SCALE][row, places]) if SCALE in reads else post[0].new_ones(len(row), 1)
        yield rows, torch.stack(post, 1), scale


def _written(model: HookedTransformer, one: Watched) -> Float[Tensor, " d_model"]:
    """The direction that it writes."""
    if isinstance(one, HeadOutput):
        raise ArgumentError(f"head {one.label} writes another direction for each token; take ov_tokens")
    if isinstance(one, StreamDirection):
        return widened(one.vector.detach().to(model.W_U))
    mlp = model.blocks[one.layer].mlp
    if mlp is None:
        raise ArgumentError("neurons need a model with MLPs, and this model has attention only")
    return widened(mlp.W_out[one.neuron].detach())


def _answers(model: HookedTransformer, pairs: Pairs) -> Float[Tensor, "prompt d_model"]:
    """What the logits of the answers, minus those of the wrong ones, are read by."""
    if pairs.answer is None:
        raise ArgumentError("direct effects need pairs with answers or a direction, got neither; give answer=…")
    return Answers.of(model, pairs).directions


def _floors(known: list[list[Context]], sign: int, k: int) -> Float[Tensor, " component"]:
    """What a place must exceed to be among the best k."""
    worst = [sign * places[-1].value if len(places) == k else -torch.inf for places in known]
    return torch.tensor(worst, dtype=torch.float64)


def _worded(model: HookedTransformer, found: Contexts) -> Contexts:
    """The same with the tokens as text."""

    def told(lists: list[list[Context]]) -> list[list[Context]]:
        return [[replace(one, words=tuple(words_of(model, one.tokens))) for one in places] for places in lists]

    return replace(found, most=told(found.most), least=None if found.least is None else told(found.least))
