"""Text in which positions are named, ``"John and [subject: Mary] went"``, and the tokens that bear the names."""

import re
from typing import TYPE_CHECKING, NamedTuple

from pellucid.base.errors import ArgumentError, TokenError

if TYPE_CHECKING:
    from pellucid.text.tokenizer import Tokenizer

_MARK = re.compile(r"\[\[|\[(?P<name>[^\[\]:]*): (?P<text>[^\[\]]*)\]|\[")


class Marked(NamedTuple):
    """A text, and the characters that bear names."""

    text: str
    spans: dict[str, tuple[int, int]]


class Pair(NamedTuple):
    """Both sides of a pair as tokens."""

    clean: list[int]
    corrupted: list[int]
    positions: dict[str, int]
    text: tuple[str, str]


def unmarked(text: str) -> Marked:
    """The text without its marks.

    Raises:
        ArgumentError: A bracket that is no mark, or a name that stands twice.

    Example:
        >>> unmarked("John and [subject: Mary] went [[home]")
        Marked(text='John and Mary went [home]', spans={'subject': (9, 13)})
    """
    plain, spans, last = "", {}, 0
    for mark in _MARK.finditer(text):
        plain += text[last : mark.start()]
        last = mark.end()
        if mark[0] == "[[":
            plain += "["
            continue
        name, inside = (mark["name"] or "").strip(), mark["text"]
        if not name or not inside:
            raise ArgumentError(
                f"a bracket must name a position, as in [subject: Mary], got {text[mark.start() :][:30]!r}; "
                "write [[ for a bracket"
            )
        if name in spans:
            raise ArgumentError(f"a position must be named once, got {name!r} twice in {text!r}")
        spans[name] = (len(plain), len(plain) + len(inside))
        plain += inside
    return Marked(plain + text[last:], spans)


def tokenized(tokenizer: "Tokenizer", clean: str, corrupted: str, *, prepend_bos: bool | None) -> Pair:
    """A pair of marked texts as tokens.

    Raises:
        TokenError: The sides differ in length, or in where a name stands; their tokens are shown.
        ArgumentError: They name other positions, or a mark cannot be read.
    """
    marked = [unmarked(clean), unmarked(corrupted)]
    if set(marked[0].spans) != set(marked[1].spans):
        names = [sorted(side.spans) for side in marked]
        raise ArgumentError(f"clean and corrupted must name the same positions, got {names[0]} and {names[1]}")
    rows = [tokenizer.tokens([side.text], prepend_bos=prepend_bos).tokens[0].tolist() for side in marked]
    shown = " and ".join(str(tokenizer.strings(row)) for row in rows)
    if len(rows[0]) != len(rows[1]):
        raise TokenError(
            f"clean and corrupted must have as many tokens, got {len(rows[0])} and {len(rows[1])}: {shown}; "
            "choose words of as many tokens"
        )
    places = [_places(tokenizer, side, len(row)) for side, row in zip(marked, rows, strict=True)]
    for name, place in places[0].items():
        if places[1][name] != place:
            raise TokenError(
                f"the position {name!r} must be the same in clean and corrupted, got {place} and {places[1][name]}: "
                f"{shown}"
            )
    return Pair(rows[0], rows[1], places[0], (marked[0].text, marked[1].text))


def _places(tokenizer: "Tokenizer", side: Marked, length: int) -> dict[str, int]:
    """The last token that overlaps each span."""
    offsets = tokenizer.inner.encode(side.text, add_special_tokens=False).offsets
    front = length - len(offsets)
    found = {}
    for name, (begin, end) in side.spans.items():
        there = [i for i, (first, last) in enumerate(offsets) if first < end and last > begin]
        if not there:
            raise TokenError(f"the position {name!r} must be on a token, got {side.text[begin:end]!r} in {side.text!r}")
        found[name] = front + there[-1]
    return found
