"""Roles read off a head's OV alone: does it write against the token that it attends to, or for the next in a row?

In: a model. Out: for each token and head whether it does, and a control; the mean over tokens is their share, with its
interval. OV is as large as the vocabulary squared: it is formed some rows at a time. A token is read as its embedding
and, where there is one, what the first MLP makes of it; only heads of layer 0, which lie before it, read the bare one.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.analysis.repeated import ordinary_tokens
from pellucid.analysis.token_circuits import check_one_vocabulary, ov_rows, token_embedding
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.base.seeds import generator
from pellucid.hooked_transformer import HookedTransformer, record_of
from pellucid.measurement import Measurement

BOTTOM = 10
"""Tokens that a head writes for least, among which the one attended to must be, for it to be suppressed."""
SAMPLE = 1000
"""Tokens that copy suppression is measured on, where the vocabulary has more."""
SERIES = {
    "digits": "0 1 2 3 4 5 6 7 8 9",
    "number words": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty",
    "ordinals": "first second third fourth fifth sixth seventh eighth ninth tenth",
    "days": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "months": "January February March April May June July August September October November December",
}
"""Rows of words each of which has a next one; Gould et al. 2023 have some more."""


@torch.no_grad()
def copy_suppression(model: HookedTransformer, *, sample: int | None = SAMPLE, seed: int = 0) -> Measurement:
    """Whether a head, where it attends to a token, puts it among the ten that it writes for least.

    Args:
        model: Model to read, whose tokens go out as they come in.
        sample: How many tokens, drawn without replacement; None: all ordinary ones.
        seed: Of the draw, and of the control.

    Returns:
        ``[prompt layer head]``, 1 or 0, a fraction in the mean; each token stands for a prompt, and is told by the
        coordinate ``token``. ``control`` asks for another token of the draw instead of the one attended to: by chance,
        ten in the vocabulary.

    Raises:
        ArgumentError: Tokens go out by another vocabulary; `sample` is below 2.

    Source: McDougall et al. 2023, "Copy Suppression: Comprehensively Understanding an Attention Head" (10.7 of GPT-2
    small: 84.70 % of the tokens).

    Example:
        >>> model = HookedTransformer.from_pretrained("toy-induction", device="cpu")
        >>> float(copy_suppression(model).mean("prompt").sel(layer=1).values.max())
        0.0
    """
    check_one_vocabulary(model, "copy suppression")
    if sample is not None and sample < 2:
        raise ArgumentError(f"sample must be 2 or more tokens, got {sample}; None takes all")
    draws, ids = generator(seed), ordinary_tokens(model)
    if sample is not None and sample < len(ids):
        ids = ids[torch.randperm(len(ids), generator=draws)[:sample]]
    asked = torch.stack([ids, ids.roll(1)]).to(model.device)
    found = _nothing(model, ids)
    for layer, head, rows, scores in ov_rows(model, asked[0]):
        tenth = scores.topk(min(BOTTOM, scores.shape[1]), dim=1, largest=False).values.amax(1)
        mean = scores.mean(1)
        for i, wanted in enumerate(asked[:, rows]):
            own = scores.gather(1, wanted[:, None])[:, 0]
            found[i, rows, layer, head] = ((own <= tenth) & (own < mean)).to(found)  # one that writes nothing does not
    settings = {"tokens": len(ids), "embedding": token_embedding(model), "bottom": BOTTOM}
    return _measured(model, found, "copy suppression", settings, seed, ids)


@torch.no_grad()
def successor(model: HookedTransformer) -> Measurement:
    """Whether a head, where it attends to an ordinal, writes most for the next one of all tokens.

    Args:
        model: Model to read, whose tokens go out as they come in.

    Returns:
        ``[prompt layer head]``, 1 or 0, a fraction in the mean; each ordinal that has a next one stands for a prompt,
        both of them single tokens here (`SERIES`, each with a space in front and without). A word with a space and the
        same without are of one ``frame``, such as "days: Monday", and count as one. ``control`` asks for a random other
        of the same row instead of the next: what a head that knows the row and not its order would have.

    Raises:
        ArgumentError: Tokens go out by another vocabulary.
        TokenError: The tokenizer has no such pair, or there is none.

    Source: Gould et al. 2023, "Successor Heads: Recurring, Interpretable Attention Heads In The Wild".

    Example:
        >>> model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
        >>> successor(model).record.settings["tokens"] > 9
        True
    """
    check_one_vocabulary(model, "successor heads")
    ordinals, names = successions(model)
    ids = torch.tensor([one.now for one in ordinals], device=model.device)
    after = torch.tensor([one.then for one in ordinals], device=model.device)
    # For each ordinal, which tokens are another of its row, neither itself nor the next: [ordinal d_vocab]
    others = torch.zeros(len(ids), model.config.d_vocab, dtype=torch.bool, device=model.device)
    for i, one in enumerate(ordinals):
        others[i, [x for x in one.row if x not in (one.now, one.then)]] = True
    found = _nothing(model, ids)
    for layer, head, rows, scores in ov_rows(model, ids):
        best = scores.max(1)
        told = best.values > scores.mean(1)  # nothing is written: no argmax
        found[0, rows, layer, head] = ((best.indices == after[rows]) & told).to(found)
        share = others[rows].gather(1, best.indices[:, None])[:, 0] / others[rows].sum(1).clamp(min=1)
        found[1, rows, layer, head] = (share * told).to(found)
    settings = {"tokens": len(ids), "series": names, "embedding": token_embedding(model)}
    frames = {"frame": [one.frame for one in ordinals]}
    return _measured(model, found, "successor", settings, None, ids, frames)


class Ordinal(NamedTuple):
    """A word that has a next one, both of them single tokens."""

    now: int
    then: int
    row: list[int]
    """All of its series that are single tokens."""
    frame: str
    """Its series and the word itself, without the space in front."""


def successions(model: HookedTransformer) -> tuple[list[Ordinal], list[str]]:
    """Ordinals that are single tokens of a model, with a space in front and without; and the names of their series.

    Raises:
        TokenError: There is none.
    """
    found: dict[tuple[int, int], Ordinal] = {}
    names = []
    for name, words in SERIES.items():
        before = len(found)
        for front in (" ", ""):
            ids = [_single(model, front + word) for word in words.split()]
            row = [i for i in ids if i is not None]
            for word, (now, then) in zip(words.split(), pairwise(ids), strict=False):  # the last has no next one
                if now is not None and then is not None:
                    found.setdefault((now, then), Ordinal(now, then, row, f"{name}: {word}"))
        if len(found) > before:
            names.append(name)
    if not found:
        raise TokenError(
            f"successor heads need two neighbours of some row ({', '.join(SERIES)}) as single tokens, and this model's "
            f"tokenizer {'is missing' if model.tokenizer is None else 'has none'}"
        )
    return list(found.values()), names


def _single(model: HookedTransformer, text: str) -> int | None:
    """The id of a text that is one ordinary token."""
    if model.tokenizer is None:
        return None
    try:
        ids = model.tokenizer.encode(text, add_special_tokens=False)
    except TokenError:
        return None
    policy = model.tokenizer.policy
    known = len(ids) == 1 and ids[0] < model.config.d_vocab and ids[0] not in {*policy.special_ids, policy.unk_id}
    return ids[0] if known else None


def _nothing(model: HookedTransformer, ids: Tensor) -> Float[Tensor, "what token layer head"]:
    return torch.zeros(2, len(ids), model.config.n_layers, model.config.attention.n_heads, dtype=torch.float64)


def _measured(
    model: HookedTransformer,
    found: Tensor,
    name: str,
    settings: dict[str, object],
    seed: int | None,
    ids: Tensor,
    more: Mapping[str, list[str]] | None = None,
) -> Measurement:
    dims = ("prompt", "layer", "head")
    told = {"token": ids.tolist(), **(more or {})}
    return Measurement(
        found[0],
        dims,
        unit="fraction",
        record=record_of(model, task=name, seed=seed, settings=settings),
        name=name,
        coords={name: ("prompt", values) for name, values in told.items()},
        variables={"control": (dims, found[1])},
    )
