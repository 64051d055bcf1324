"""What a neuron, a head or a direction does: where in texts it is active, which tokens it writes for, what it adds.

In: a model, and what to watch. Out: its best places in a corpus, from one plain pass (`contexts.py` says how they are
kept); the tokens it writes for and against, read off the weights; its direct effect on an answer, from one pass over
the prompts, which forms no other part's.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.attribution import Answers
from pellucid.analysis.contexts import ONE_PER, Context, Contexts, Tally, best_places, joined
from pellucid.analysis.reading import chunks
from pellucid.analysis.texts import Texts, rows_of
from pellucid.analysis.token_circuits import attention_of, folded, linear, shared
from pellucid.analysis.token_tables import TokenTable, token_table, words_of
from pellucid.analysis.watched import (
    HeadOutput,
    Neuron,
    StreamDirection,
    Watch,
    Watched,
    What,
    centred,
    fingerprint,
    watched,
)
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.index import at_least
from pellucid.maths.factored import FactoredMatrix
from pellucid.measurement import Measurement
from pellucid.model.decompose import Activations, Part, before_norm, layer_read, parts, stream
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
        k: How many places of each. Fewer are found where a neuron's activation, or the length of what a head writes,
            is above 0 at fewer: a dead neuron has none. Along a direction 0 means nothing, and there are always k.
        negative: Also the k most negative ones; of neurons and lengths only those below 0.
        one_per: ``"document"`` or ``"row"``: at most one place of each; None: as they come.
        context: Tokens that are shown on each side.
        length: Tokens of a row at most, BOS included; None: the model's context.
        first_document: Number of the first text, where these are a part of a corpus: two parts' results are made one by
            `pellucid.analysis.contexts.merge_contexts`.

    Returns:
        The places with their tokens and activations, and a tally over all tokens: ``.statistics`` has mean, maximum,
        minimum, the share above 0 and quantiles of each, in activation (a head's or direction's: units of the stream,
        see `HeadOutput` and `StreamDirection`).

    Raises:
        ArgumentError: What is watched is not in the model; an argument that cannot be.
        UnknownNameError: A name that means nothing to watch, or no such `one_per`.
        TokenError: A text cannot be encoded; an id is not in the vocabulary; rows of ids lack the BOS that the
            tokenizer's policy asks for.

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
    asked = {"k": at_least("k", k, 1), "one_per": one_per, "context": at_least("context", context, 0)}
    watch = Watch(model, watched(model, what))
    settings = {"what": watch.labels, "negative": negative, "length": length, **asked}
    settings["fingerprint"] = fingerprint(model, watch.things)
    record = record_of(model, task="top contexts", settings=settings)
    found, last, signs = None, first_document, (1, -1) if negative else (1,)
    for rows in rows_of(model, texts, widest=watch.widest, length=length, first_document=first_document):
        values, lists = watch.values(rows), []
        for sign in signs:
            known = None if found is None else found.most if sign == 1 else found.least
            floors = _floors(watch, known, sign, asked["k"]).to(values)
            lists.append(best_places(values, rows, floors, sign=sign, **asked))
        most, least = lists if negative else (lists[0], None)
        n_documents = len(rows.document.unique()) - int(found is not None and last == int(rows.document[0]))
        last = int(rows.document[-1])
        tally = Tally.of(values[:, rows.counted])
        here = Contexts(watch.labels, most, least, tally, n_documents, (), asked["k"], one_per, record)
        found = here if found is None else joined(found, here)
    if found is None:
        raise ArgumentError("texts must hold a token besides BOS, got none; give some text")
    return _worded(model, replace(found, documents=((first_document, last + 1),)))


class WrittenTokens(NamedTuple):
    """The tokens whose logits something raises, and those that it lowers."""

    raised: TokenTable
    lowered: TokenTable


@torch.no_grad()
def written_tokens(model: HookedTransformer, what: What, k: int = 10) -> WrittenTokens:
    """Which tokens a neuron, a head or a direction writes for, and which against, read off the weights.

    What is written goes through the final norm (w, and LayerNorm's mean; its scale is left out, being the run's) and
    `W_U`; each score is counted from the mean over all tokens, so that processing the weights changes nothing. A neuron
    is taken at activation 1: where its activation is negative, raised and lowered change places.

    A head writes another direction for each token that it attends to (`ov_tokens`), unless `along` names one. Its row
    is the direction that it writes most along: that of the largest singular value of its OV, of length 1, as in
    `svd_tokens`, which tells further ones. It writes along it in both senses; the one that says most of a token is told
    as raised.

    Args:
        model: Model to read.
        what: As for `top_contexts`; or vectors, ``[d_model]`` or ``[direction d_model]``.
        k: How many tokens of each side.

    Returns:
        Two tables, a row for each; scores in logits by unit of activation, but for the final norm's scale. Their
        record's setting ``singular`` names the heads whose strongest direction was taken.

    Raises:
        ArgumentError: It is not in the model; a head that writes nothing; `k` not positive.

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
    k, singular = at_least("k", k, 1), []
    if isinstance(what, Tensor):
        vectors = what.detach()[None] if what.ndim == 1 else what.detach()
        if vectors.ndim != 2 or vectors.shape[1] != model.config.d_model:
            raise ArgumentError(f"vectors must be [direction {model.config.d_model}], got {list(what.shape)}")
        labels = [f"direction {i}" for i in range(len(vectors))]
    else:
        things = watched(model, what)
        labels, vectors = [one.label for one in things], torch.stack([_written(model, one) for one in things])
        singular = [one.label for one in things if isinstance(one, HeadOutput) and one.along is None]
    read, W_U = linear(model.ln_final, widened(vectors.to(model.W_U))), widened(model.W_U)
    W_U = W_U - W_U.mean(1, keepdim=True)
    for row in (labels.index(label) for label in singular):
        scores = read[row] @ W_U
        read[row] *= scores[scores.abs().argmax()].sign()
    tables = []
    for largest, words in ((True, "for"), (False, "against")):
        settings = {"which": "written tokens", "what": labels, "singular": singular, "largest": largest}
        table = token_table(model, f"Tokens written {words}", read, W_U, k=k, ids=None, settings=settings)
        tables.append(replace(table, labels=labels))
    return WrittenTokens(*tables)


@torch.no_grad()
def direct_effects(
    model: HookedTransformer,
    pairs: Pairs,
    what: What,
    *,
    at: str = "end",
    direction: Float[Tensor, " d_model"] | Float[Tensor, "prompt d_model"] | None = None,
) -> Measurement:
    """How much neurons, heads or directions add, directly, to the answers' logits minus those of the wrong ones.

    As `logit_attribution`, the final norm's scale frozen at the run's, but for these alone: no other part's effect and
    no vocabulary is formed. A neuron adds its activation times its row of `W_out`. A head adds all that it writes,
    `z W_O`, value biases included, as there; along a direction, the component of it along that. A direction in the
    stream adds the stream's component along it where it is read, (x·v̂) v̂ with v̂ of length 1; that part of it which a
    residual connection carries to the end. Without residual connections only what writes last adds something.

    Args:
        model: Model to read.
        pairs: Prompts, of any lengths.
        what: As for `top_contexts`.
        at: The position, by name, whose next token is spoken of.
        direction: Behind the final norm, one for all prompts or one for each; None: the mean of `W_U[:, answer]` minus
            the mean of `W_U[:, wrong]`.

    Returns:
        ``[prompt component]``, logits, of each clean prompt; variable ``activation`` on the same axes, as
        `top_contexts` tells it.

    Raises:
        ArgumentError: What is watched is not in the model; neither answers nor a direction.
        UnknownNameError: A name that means nothing to watch; the pairs have no such position.

    Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> prompt = [0, 11, 12, 13, 14, 11, 12, 13]
        >>> pairs = Pairs.from_tokens([prompt], [prompt], answer=14, wrong=12)
        >>> direct_effects(model, pairs, ["1.0", "1.1"]).mean("prompt").top(1).label
        '1.0'
    """
    watch = Watch(model, watched(model, what))
    if at not in pairs.positions:
        raise UnknownNameError(f"at must be a position of the pairs, got {at!r}{nearest(at, pairs.positions)}")
    towards = _answers(model, pairs) if direction is None else widened(direction.detach().to(model.W_U))
    if towards.shape[-1] != model.config.d_model or towards.shape[:-1] not in ((), (len(pairs),)):
        shapes = f"[{model.config.d_model}] or [{len(pairs)} {model.config.d_model}], got {list(towards.shape)}"
        raise ArgumentError(f"direction must be {shapes}")
    towards, effects, activations = towards.expand(len(pairs), -1), [], []
    for rows, cache, scale in _read(model, pairs, watch, at):
        before, _ = before_norm(model.ln_final, towards[rows], scale)
        activations.append(watch.of(cache).T)
        effects.append(_effects(watch, cache, activations[-1], before).cpu())
    coords: dict[str, Any] = {"component": watch.labels}
    coords |= pairs.labels
    settings = {"what": watch.labels, "fingerprint": fingerprint(model, watch.things), "norm": "frozen", "at": at}
    settings["direction"] = "answers" if direction is None else "given"
    dims = ("prompt", "component")
    return Measurement(
        torch.cat(effects),
        dims,
        unit="logits",
        record=record_of(model, task="direct logit attribution", settings=settings),
        name="direct effect",
        coords=coords,
        variables={"activation": (dims, torch.cat(activations))},
    )


def _read(
    model: HookedTransformer, pairs: Pairs, watch: Watch, at: str
) -> Iterator[tuple[slice, Activations, Float[Tensor, "prompt 1"]]]:
    """Some prompts at a time: which, what is read of them at a position, and the final norm's scale there."""
    scales = [SCALE] if SCALE in model.hook_names else []
    for rows in chunks(pairs.clean, widest=watch.widest):
        here = pairs[rows].to(model.device)
        asked = {"attention_mask": here.mask, "padding_side": "right", "return_type": None}  # no vocabulary is formed
        cache = model.run(here.clean, reads=watch.names + scales, **asked).cache
        places = here.positions[at]
        row = torch.arange(len(places), device=places.device)
        found = {name: x[row, places] for name, x in cache.items()}
        yield rows, found, widened(found.get(SCALE, model.W_E.new_ones(len(row), 1)))


def _effects(
    watch: Watch,
    cache: Activations,
    activations: Float[Tensor, "prompt component"],
    before: Float[Tensor, "prompt d_model"],
) -> Float[Tensor, "prompt component"]:
    """What each adds along a direction before the final norm."""
    model, found = watch.model, activations.to(before, copy=True)
    neurons = [i for i, one in enumerate(watch.things) if isinstance(one, Neuron)]
    for i, one in enumerate(watch.things):
        if not isinstance(one, Neuron):
            found[:, i] = _effect(model, one, cache, before)
    if neurons:
        W_out = torch.stack([_written(model, watch.things[i]) for i in neurons])
        found[:, neurons] *= before @ W_out.to(before).T
    return found * torch.tensor([_is_heard(model, one) for one in watch.things], device=before.device)


def _effect(
    model: HookedTransformer,
    one: HeadOutput | StreamDirection,
    cache: Activations,
    before: Float[Tensor, "prompt d_model"],
) -> Float[Tensor, " prompt"]:
    if isinstance(one, StreamDirection):
        x, v = widened(stream(model.config, cache, one.layer, mlp_input=one.mlp_input)), one.vector
    else:
        z, v = widened(cache[f"blocks.{one.layer}.attn.hook_z"][:, one.head]), one.along
        x = z @ model.blocks[one.layer].attn.W_O[one.head].to(z)
    if v is None:
        return (x * before).sum(-1)
    v = centred(model.config, v.detach().to(before))
    return (x.to(before) @ v) * (before @ v) / v.square().sum()


def _is_heard(model: HookedTransformer, one: Watched) -> bool:
    """Whether what it writes is in the final stream; without residual connections the last part's alone is."""
    if isinstance(one, StreamDirection):
        return model.config.residual or layer_read(model.config, one.layer) == model.config.n_layers
    return Part("mlp" if isinstance(one, Neuron) else "attn", one.layer) in parts(model.config)


def _written(model: HookedTransformer, one: Watched) -> Float[Tensor, " d_model"]:
    """The direction that it writes along; of a head the strongest."""
    if isinstance(one, Neuron):
        mlp = model.blocks[one.layer].mlp
        if mlp is None:
            raise ArgumentError("neurons need a model with MLPs, and this model has attention only")
        return widened(mlp.W_out[one.neuron].detach())
    if isinstance(one, StreamDirection):
        return widened(one.vector.detach().to(model.W_U))
    if one.along is not None:
        return widened(one.along.detach().to(model.W_U))
    attn, at = attention_of(model, one.layer, one.head)
    read = folded(model.blocks[one.layer].ln1, widened(shared(attn.W_V, at, attn.config.n_heads)))
    _, strength, written = FactoredMatrix(read, centred(model.config, widened(attn.W_O[at].detach()))).svd()
    if not strength[0]:
        raise ArgumentError(f"head {one.label} must write something, and its OV is 0; leave it out")
    return written[:, 0]


def _answers(model: HookedTransformer, pairs: Pairs) -> Float[Tensor, "prompt d_model"]:
    """What the logits of the answers, minus those of the wrong ones, are read by."""
    if pairs.answer is None:
        raise ArgumentError("direct effects need pairs with answers or a direction, got neither; give answer=…")
    return Answers.of(model, pairs).directions


def _floors(watch: Watch, known: list[list[Context]] | None, sign: int, k: int) -> Float[Tensor, " component"]:
    """What a place must exceed to be among the best k, and to be one at all."""
    least = torch.zeros(len(watch.things), dtype=torch.float64).masked_fill(~watch.from_zero, -torch.inf)
    if known is None:
        return least
    worst = [sign * places[-1].value if len(places) == k else -torch.inf for places in known]
    return least.maximum(torch.tensor(worst, dtype=torch.float64))


def _worded(model: HookedTransformer, found: Contexts) -> Contexts:
    """The same with the tokens as text."""

    def told(lists: list[list[Context]]) -> list[list[Context]]:
        return [[replace(one, words=tuple(words_of(model, one.tokens))) for one in places] for places in lists]

    return replace(found, most=told(found.most), least=None if found.least is None else told(found.least))
