"""Where something is most active in texts, and how active on the whole: a result that grows, and can be merged.

In: activations of some rows. Out: for each thing that is watched its k best places, each with the tokens around, and a
tally of all tokens. Both are as large however long the texts are, and two results, of two parts of a corpus, make one
that is the same as that of the whole.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.analysis.texts import Rows
from pellucid.base.errors import ArgumentError, UnknownNameError, nearest
from pellucid.base.record import Record
from pellucid.base.shown import Showing, Shown
from pellucid.measurement import Measurement

ONE_PER = (None, "document", "row")
QUANTILES = (0.01, 0.5, 0.9, 0.99, 0.999)
GROWTH, SMALLEST, LARGEST = 1.02, 1e-5, 1e5
BINS = math.ceil(math.log(LARGEST / SMALLEST) / math.log(GROWTH))
"""Of each sign, besides one for what is nearly 0. Each is 2 % wide, so that its middle is 1 % off at most (Masson, Rim
and Lee 2019, "DDSketch")."""


@dataclass(frozen=True, eq=False)
class Context:
    """A place in a text, with what stands around it."""

    value: float
    """The activation there."""
    document: int
    """The number of the text, from 0."""
    position: int
    """Of the token in its document, as ``model.to_tokens(text)`` counts, BOS included."""
    row: int
    """Where the row begins in its document: 0, unless the document is longer than a row."""
    at: int
    """Which of `tokens` it is."""
    tokens: list[int]
    """Ids of the tokens around, in order."""
    activations: Float[np.ndarray, " pos"]
    """Of each of these, BOS included."""
    bos: bool = False
    """The first of these is the BOS in front, which is not counted."""
    words: tuple[str, ...] = ()
    """The tokens as text; their ids where the model has no tokenizer."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Activations over all tokens, BOS left out."""

    n: int
    """Tokens."""
    total: Float[np.ndarray, " component"]
    least: Float[np.ndarray, " component"]
    most: Float[np.ndarray, " component"]
    above: Int[np.ndarray, " component"]
    """Tokens at which it is above 0."""
    bins: Int[np.ndarray, "component bin"]

    @classmethod
    def of(cls, values: Float[Tensor, "component n"]) -> "Tally":
        """Of some activations.

        Raises:
            ArgumentError: One is not finite.
        """
        if not bool(values.isfinite().all()):
            raise ArgumentError("activations must be finite, got inf or nan; look for where the model overflows")
        x, width = values.double(), 2 * BINS + 1
        if not x.shape[1]:
            none = np.zeros(len(x))
            ends = none + np.inf, none - np.inf
            return cls(0, none, *ends, none.astype(np.int64), np.zeros((len(x), width), np.int64))
        size = ((x.abs() / SMALLEST).clamp(min=1e-300).log() / math.log(GROWTH)).floor() + 1
        place = (size.clamp(0, BINS) * x.sign()).long() + BINS + torch.arange(len(x))[:, None] * width
        bins = torch.bincount(place.flatten(), minlength=len(x) * width).view(len(x), width)
        told = (x.sum(1), x.amin(1), x.amax(1), (x > 0).sum(1), bins)
        return cls(x.shape[1], *(part.numpy() for part in told))

    def plus(self, other: "Tally") -> "Tally":
        """Of both."""
        return Tally(
            self.n + other.n,
            self.total + other.total,
            np.minimum(self.least, other.least),
            np.maximum(self.most, other.most),
            self.above + other.above,
            self.bins + other.bins,
        )

    def quantile(self, share: float) -> Float[np.ndarray, " component"]:
        """The smallest activation that `share` of the tokens do not exceed, to 1 %; sizes below 1e-5 are 0 here."""
        if not 0 <= share <= 1:
            raise ArgumentError(f"the share of a quantile must lie in 0..1, got {share}")
        wanted = max(1, math.ceil(share * self.n))
        place = (self.bins.cumsum(1) >= wanted).argmax(1) - BINS
        middle = np.sign(place) * SMALLEST * GROWTH ** (np.abs(place) - 0.5)
        return np.clip(middle, self.least, self.most)


@dataclass(frozen=True, eq=False, repr=False)
class Contexts(Showing):
    """The places where some things are most active, and a tally of all tokens."""

    labels: list[str]
    """What is watched: ``L8N2744``, ``5.1``, a direction's name."""
    most: list[list[Context]]
    """For each its best places, largest first."""
    least: list[list[Context]] | None
    """The most negative ones, smallest first; None: not asked for."""
    tally: Tally
    n_documents: int
    documents: tuple[tuple[int, int], ...]
    """Their numbers, as ranges: the first, and the one behind the last, of each part that was read."""
    k: int
    one_per: str | None
    record: Record

    def __len__(self) -> int:
        """Number of things that are watched."""
        return len(self.labels)

    def of(self, label: str, *, negative: bool = False) -> list[Context]:
        """The places of one of them, best first.

        Raises:
            UnknownNameError: It was not watched.
            ArgumentError: The negative ones were not asked for.
        """
        if label not in self.labels:
            raise UnknownNameError(f"label must be one that was watched, got {label!r}{nearest(label, self.labels)}")
        if negative and self.least is None:
            raise ArgumentError("negative contexts were not asked for; give negative=True to top_contexts")
        return ((self.least if negative else self.most) or [])[self.labels.index(label)]

    @property
    def statistics(self) -> Measurement:
        """The mean over all tokens, ``[component]``, activation; variables ``maximum minimum active`` and quantiles.

        ``active`` is the share of the tokens at which it is above 0; ``quantile_99`` and the like are right to 1 %.
        """
        tally, over = self.tally, "component"
        told = {"maximum": tally.most, "minimum": tally.least, "active": tally.above / tally.n}
        told |= {f"quantile_{100 * q:g}".replace(".", "_"): tally.quantile(q) for q in QUANTILES}
        return Measurement(
            tally.total / tally.n,
            (over,),
            unit="activation",
            record=self.record.add(settings={"tokens": tally.n, "documents": self.n_documents}),
            name="activation",
            coords={over: self.labels},
            variables={name: (over, values) for name, values in told.items()},
        )

    def _shown(self, *, brief: bool) -> Shown:
        title = f"Where {len(self)} things are most active in {self.tally.n:,} tokens of {self.n_documents:,} documents"
        rows = [
            [label, f"{one.value:.3g}", f"{one.document}:{one.position}", _marked(one)]
            for label, places in zip(self.labels[:10], self.most, strict=False)
            for one in places[: 3 if brief else 10]
        ]
        rows += [
            [label, "", "", "nowhere above 0"]
            for label, places in zip(self.labels[:10], self.most, strict=False)
            if not places
        ]
        columns = ["", "activation", "document:position", "text"]
        return Shown(title=title, columns=columns, rows=rows, rest=max(0, len(self) - 10))


def merge_contexts(first: Contexts, second: Contexts) -> Contexts:
    """The contexts of two parts of a corpus as those of both: to rounding the same as if one pass had read all.

    Neither changes; the record is the first's.

    Raises:
        ArgumentError: They watched different things, or otherwise, or in another model; or the same documents, by
            their numbers, which ``first_document`` of `top_contexts` tells.
    """
    _check_alike(first, second)
    return replace(joined(first, second), documents=_apart(first.documents, second.documents))


def joined(first: Contexts, second: Contexts) -> Contexts:
    """The contexts of two parts of one pass as those of both; the documents' numbers are the first's."""
    least = None
    if first.least is not None and second.least is not None:
        least = merged(first.least, second.least, k=first.k, sign=-1, one_per=first.one_per)
    return replace(
        first,
        most=merged(first.most, second.most, k=first.k, sign=1, one_per=first.one_per),
        least=least,
        tally=first.tally.plus(second.tally),
        n_documents=first.n_documents + second.n_documents,
    )


def _check_alike(first: Contexts, second: Contexts) -> None:
    """That both were made in one way, of one model."""
    one, other = _how(first), _how(second)
    if (first.least is None) != (second.least is None):
        raise ArgumentError("contexts that are merged must both have negative places, or neither")
    for name in {**one, **other}:
        values = one.get(name), other.get(name)
        if name == "weights_hash" and None in values:
            continue  # a model has it only where it was saved
        if values[0] != values[1]:
            called = {"fingerprint": "fingerprint, of what is watched and of the model's weights"}.get(name, name)
            raise ArgumentError(
                f"contexts that are merged must have the same {called}, got {values[0]!r} and {values[1]!r}"
            )


def _how(one: Contexts) -> dict[str, Any]:
    """All that must be the same."""
    told = {name: getattr(one, name) for name in ("labels", "k", "one_per")}
    of_record = ("model", "revision", "processing", "dtype", "weights_hash")
    return told | {name: getattr(one.record, name) for name in of_record} | one.record.settings


def _apart(*parts: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Ranges of documents in order, those that touch as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(one for part in parts for one in part):
        if found and start < found[-1][1]:
            raise ArgumentError(
                "contexts that are merged must be of different documents, got documents "
                f"{found[-1][0]}..{found[-1][1] - 1} and {start}..{end - 1}; number those of the second part with "
                f"top_contexts(…, first_document={found[-1][1]})"
            )
        if found and start == found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
    return tuple(found)


def merged(
    first: Sequence[list[Context]], second: Sequence[list[Context]], *, k: int, sign: int, one_per: str | None
) -> list[list[Context]]:
    """For each thing the k best of two lists of places; of equal ones that which stands first in the corpus."""
    found = []
    for one, other in zip(first, second, strict=True):
        if not other:
            found.append(list(one))
            continue
        best: dict[tuple[int, ...], Context] = {}
        for place in sorted([*one, *other], key=lambda x: (-sign * x.value, x.document, x.position)):
            own = {None: (place.document, place.position), "document": (place.document,)}
            best.setdefault(own.get(one_per, (place.document, place.row)), place)
        found.append(list(best.values())[:k])
    return found


def best_places(
    values: Float[Tensor, "component row pos"],
    rows: Rows,
    floors: Float[Tensor, " component"],
    *,
    k: int,
    sign: int,
    one_per: str | None,
    context: int,
) -> list[list[Context]]:
    """The k best places in some rows, of those that are better than what is known already.

    Args:
        values: Activations.
        rows: Where.
        floors: `sign` times the value that must be exceeded.
        k: How many.
        sign: −1: the most negative ones.
        one_per: None, ``"document"`` or ``"row"``: at most one place of each.
        context: Tokens shown on each side.
    """
    scores = (values * sign).masked_fill(~rows.counted, -torch.inf)
    n_pos, within = scores.shape[2], None
    if one_per is not None:
        within = scores.argmax(-1)  # the first of equal ones
        scores = scores.amax(-1, keepdim=True)
        if one_per == "document":
            scores[~_best_row(scores[..., 0], rows.document)] = -torch.inf
    flat, found = scores.flatten(1), [[] for _ in values]
    # topk says nothing of which of equal ones it takes: the first ones are wanted, however the texts are cut.
    size = min(k, flat.shape[1])
    last = flat.topk(size).values[:, -1:]
    above, equal = flat > last, flat == last
    chosen = above | (equal & (equal.cumsum(1) <= size - above.sum(1, keepdim=True)))
    chosen &= (flat > floors[:, None]) & (flat > -torch.inf)
    starts, documents, lengths = rows.start.tolist(), rows.document.tolist(), rows.lengths
    numbers, ids, counted = values.numpy(), rows.tokens.numpy(), rows.counted[:, 0].tolist()
    for component, place in chosen.nonzero().tolist():
        row, pos = divmod(place, n_pos) if within is None else (place, int(within[component, place]))
        shown = slice(max(0, pos - context), min(lengths[row], pos + context + 1))
        one = Context(
            value=float(numbers[component, row, pos]),
            document=documents[row],
            position=starts[row] + pos,
            row=starts[row],
            at=pos - shown.start,
            tokens=ids[row, shown].tolist(),
            activations=numbers[component, row, shown].copy(),
            bos=shown.start == 0 and not counted[row],
        )
        found[component].append(one)
    return [sorted(places, key=lambda one: -sign * one.value) for places in found]


def _best_row(scores: Float[Tensor, "component row"], document: Int[Tensor, " row"]) -> Bool[Tensor, "component row"]:
    """Which row of each document has its largest score; the first of equal ones."""
    n = scores.shape[1]
    _, number = document.unique_consecutive(return_inverse=True)
    of = number.expand(scores.shape)
    top = scores.new_full((len(scores), int(number[-1]) + 1), -torch.inf).scatter_reduce(1, of, scores, "amax")
    places = torch.arange(n).expand(scores.shape)
    candidates = places.where(scores == top.gather(1, of), n)
    first = torch.full(top.shape, n).scatter_reduce(1, of, candidates, "amin")
    return places == first.gather(1, of)


def _marked(context: Context) -> str:
    """The text around, the place itself in double angle brackets."""
    words = list(context.words or map(str, context.tokens))
    word = words[context.at]
    bare = word.lstrip() or word
    words[context.at] = f"{word[: len(word) - len(bare)]}«{bare}»"
    apart = "" if any(word[:1].isspace() for word in words) else " "
    return apart.join(words).replace("\n", "⏎")
