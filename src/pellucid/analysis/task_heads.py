"""What heads do on prompts with named positions: where they look, what they write for the answer, whom they serve.

In: a model, pairs with positions, some heads. Out: Measurements `[prompt layer head]`. The roles of the indirect-object
circuit are made of these numbers (`studies/ioi_heads.py`); none is read off a picture.

Source: Wang et al. 2022, "Interpretability in the Wild".
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pellucid.analysis.attention import TELLING, on_bos, warn_of_rest
from pellucid.analysis.reading import chunks
from pellucid.analysis.token_circuits import check_one_vocabulary, ov_rows, token_embedding
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.hooks.edits import Replace
from pellucid.measurement import Measurement
from pellucid.model.norms import widened
from pellucid.patching.sites import point
from pellucid.tasks.pairs import Pairs

Head = tuple[int, int]
"""Layer and number."""
TOP = 5
"""Tokens that a head writes for most, among which the one attended to must be, for it to copy."""


@torch.no_grad()
def attention_from(model: HookedTransformer, pairs: Pairs, query: str) -> Measurement:
    """How much each head attends from one named position to every named position, in each clean prompt.

    Args:
        model: Model to read.
        pairs: Prompts.
        query: The position that attends.

    Returns:
        ``[prompt position layer head]``, attention mass.

    Raises:
        UnknownNameError: The pairs have no such position.

    Warns:
        MisreadWarning: Most heads rest on the first token.

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> prompt = [0, 11, 12, 13, 14, 11]
        >>> pairs = Pairs.from_tokens([prompt], [prompt], positions={"next": 2})
        >>> float(attention_from(model, pairs, "end").sel(position="next").values[0, 1].min()) > 0.9
        True
    """
    q, keys = _places(pairs, query), torch.stack(list(pairs.positions.values()), 1)
    names = [point("pattern", layer) for layer in range(model.config.n_layers)]
    parts, rest = [], []
    for rows, cache in _read(model, pairs, names):
        rest.append(_rest(pairs, rows, [cache[name] for name in names]))
        at = torch.arange(len(q[rows]))[:, None]
        patterns = [widened(cache[name][at, :, q[rows, None], keys[rows]]) for name in names]
        parts.append(torch.stack(patterns, 2).cpu())
    _warn_of_rest(model, pairs, rest)
    record = record_of(model, task="heads on a task", settings={"query": query})
    coords = {"position": list(pairs.positions), **pairs.labels}
    dims, name = ("prompt", "position", "layer", "head"), f"attention from {query}"
    return Measurement(torch.cat(parts), dims, unit="attention mass", record=record, name=name, coords=coords)


def _rest(pairs: Pairs, rows: slice, patterns: Sequence[Tensor]) -> Float[Tensor, "prompt layer head"]:
    """The mean attention to the first token, over a prompt's own queries behind it."""
    there = pairs.mask[rows, 1:].to(patterns[0])[:, None]
    return torch.stack([(x[..., 1:, 0] * there).sum(-1) / there.sum(-1) for x in patterns], 1).double().cpu()


def _warn_of_rest(model: HookedTransformer, pairs: Pairs, rest: list[Tensor]) -> None:
    """Where most heads rest on the first token; of short prompts nobody can tell."""
    if pairs.clean.shape[1] >= TELLING:
        warn_of_rest(torch.cat(rest).mean(0), bos=on_bos(model, pairs.clean), stacklevel=4)


def attention_between(model: HookedTransformer, pairs: Pairs, query: str, key: str) -> Measurement:
    """How much each head attends from one named position to another: `attention_from` at one key.

    Returns:
        ``[prompt layer head]``, attention mass.

    Raises:
        UnknownNameError: The pairs have no such position.
    """
    _places(pairs, key)
    return attention_from(model, pairs, query).sel(position=key)


@torch.no_grad()
def previous_attention(model: HookedTransformer, pairs: Pairs) -> tuple[Measurement, Measurement]:
    """The mean attention to the token before, from the third token on, and what uniform attention would give.

    Returns:
        Score and control, ``[prompt layer head]``, attention mass.

    Raises:
        ArgumentError: A prompt has less than three tokens.

    Warns:
        MisreadWarning: Most heads rest on the first token.
    """
    if int(pairs.lengths.min()) < 3:
        raise ArgumentError(
            "prompts must have three tokens or more, so that the first is not all that comes before, got one of "
            f"{int(pairs.lengths.min())}"
        )
    names = [point("pattern", layer) for layer in range(model.config.n_layers)]
    scores, rest = [], []
    for rows, cache in _read(model, pairs, names):
        rest.append(_rest(pairs, rows, [cache[name] for name in names]))
        stripes = torch.stack([widened(cache[name]).diagonal(-1, -2, -1) for name in names], 1)[..., 1:]
        there = pairs.mask[rows, 2:].to(stripes)[:, None, None]
        scores.append(((stripes * there).sum(-1) / there.sum(-1)).cpu())
    _warn_of_rest(model, pairs, rest)
    visible = (1 / torch.arange(3, pairs.mask.shape[1] + 1, dtype=torch.float64)) * pairs.mask[:, 2:]
    uniform = visible.sum(1) / pairs.mask[:, 2:].sum(1)
    score = torch.cat(scores)
    told = ("attention mass", "attention to the token before", {})
    return (
        _by_head(model, score, pairs, *told),
        _by_head(model, uniform[:, None, None].expand(score.shape), pairs, *told),
    )


@torch.no_grad()
def lowered_attention(
    model: HookedTransformer, pairs: Pairs, instead: Tensor, readers: Sequence[Head], keys: Sequence[str]
) -> Measurement:
    """By how much each head's edge to other heads' queries, at the end, lowers their attention to some positions.

    Along that edge alone: what the head would have written at the end of other prompts goes into the stream that a
    reader's query sees; keys, and all else that it reads, stay as they are.

    Args:
        model: Model to read.
        pairs: Prompts.
        instead: Other prompts as long as these, ``[prompt pos]``.
        readers: The heads whose attention is looked at.
        keys: The positions, together.

    Returns:
        ``[prompt layer head]``, attention mass: what the readers' attention there would be more in the mean, without
        the head's own message. For a reader that does not lie above the head it counts as 0.

    Raises:
        ArgumentError: No readers.
        UnknownNameError: The pairs have no such position.
    """
    if not readers:
        raise ArgumentError("readers must be one head at least, got none")
    places = torch.stack([_places(pairs, key) for key in keys], 1)
    found = torch.zeros(len(pairs), model.config.n_layers, model.config.attention.n_heads, dtype=torch.float64)
    top, layers = max(layer for layer, _ in readers), {layer for layer, _ in readers}
    sent = [point("z", low) for low in range(top)]
    seen = [point(name, layer) for layer in layers for name in ("resid_pre", "k", "pattern")]
    other = dict(_read_each(model, instead, pairs, sent))
    for i, cache in _read_each(model, pairs.clean, pairs, [*sent, *seen]):
        end, at, messages = int(pairs.positions["end"][i]), places[i].tolist(), []
        for low in range(top):
            change = other[i][point("z", low)][0, end] - cache[point("z", low)][0, end]
            messages.append(torch.einsum("hd,hdm->hm", change, model.blocks[low].attn.W_O))
        for layer, head in readers:
            if layer:
                more = _more_attention(model, cache, torch.cat(messages[:layer]), (layer, head), end, at)
                found[i, :layer] += more.view(layer, -1).to(found) / len(readers)
    settings = {"readers": [f"{layer}.{head}" for layer, head in readers], "keys": list(keys)}
    return _by_head(model, found, pairs, "attention mass", "attention of name movers that a head takes away", settings)


def _more_attention(
    model: HookedTransformer,
    cache: Mapping[str, Tensor],
    messages: Float[Tensor, "sender d_model"],
    reader: Head,
    end: int,
    places: Sequence[int],
) -> Float[Tensor, " sender"]:
    """What a reader's query at the end finds more at some places, with each message in turn added to what it reads."""
    layer, head = reader
    stream = cache[point("resid_pre", layer)].expand(len(messages), -1, -1).clone()
    stream[:, end] += messages
    held = Replace(cache[point("k", layer)].expand(len(messages), -1, -1, -1), point("k", layer))
    pattern = point("pattern", layer)
    run = model.run(stream, edits=[held], reads=[pattern], start_at_layer=layer, stop_at_layer=layer + 1)
    after = run.cache[pattern][:, head, end, places].sum(-1)
    return after - cache[pattern][0, head, end, places].sum()


@torch.no_grad()
def copying(model: HookedTransformer, tokens: Int[Tensor, " token"], *, against: bool = False) -> Measurement:
    """The share of some tokens that a head, where it attends to one, puts among the five that it writes for most.

    Read off the weights: embedding and first MLP, through the head, final norm and `W_U`, over the whole vocabulary.

    Args:
        model: Model to read.
        tokens: Such as names.
        against: Among the five that it writes against most.

    Returns:
        ``[layer head]``, share of the tokens.

    Raises:
        ArgumentError: No tokens; tokens go out by another vocabulary than they come in by.
    """
    if not len(tokens):
        raise ArgumentError("tokens must be one at least, got none")
    check_one_vocabulary(model, "copying")
    tokens = tokens.to(model.device)
    found = torch.zeros(model.config.n_layers, model.config.attention.n_heads, dtype=torch.float64)
    for layer, head, rows, scores in ov_rows(model, tokens):
        best = (-scores if against else scores).topk(min(TOP, scores.shape[1]))
        own = (best.indices == tokens[rows, None]) & (best.values > 0)
        found[layer, head] += float(own.any(1).sum()) / len(tokens)
    settings = {"embedding": token_embedding(model), "against": against, "tokens": len(tokens)}
    record = record_of(model, task="copying of tokens", settings=settings)
    return Measurement(found, ("layer", "head"), unit="fraction", record=record, name="tokens copied")


def _places(pairs: Pairs, name: str) -> Int[Tensor, " batch"]:
    if name not in pairs.positions:
        raise UnknownNameError(f"positions must be named by the pairs, got {name!r}{nearest(name, pairs.positions)}")
    return pairs.positions[name]


def _read(model: HookedTransformer, pairs: Pairs, names: Sequence[str]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Activations of the clean prompts, some at a time."""
    widest = max(1, model.config.n_layers * model.config.attention.n_heads * pairs.mask.shape[1])
    for rows in chunks(pairs.clean, widest=widest):
        run = model.run(pairs.clean[rows].to(model.device), reads=list(names), padding_side="right")
        yield rows, dict(run.cache)


def _read_each(
    model: HookedTransformer, tokens: Int[Tensor, "prompt pos"], pairs: Pairs, names: Sequence[str]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Activations of one prompt after the other, each at its own length."""
    for i, length in enumerate(pairs.lengths.tolist()):
        run = model.run(tokens[i : i + 1, :length].to(model.device), reads=list(names))
        yield i, dict(run.cache)


def _by_head(
    model: HookedTransformer, values: Tensor, pairs: Pairs, unit: str, name: str, settings: Mapping[str, object]
) -> Measurement:
    """``[prompt layer head]``."""
    record = record_of(model, task="heads on a task", settings=dict(settings))
    dims = ("prompt", "layer", "head")
    return Measurement(values, dims, unit=unit, record=record, name=name, coords=pairs.labels)
