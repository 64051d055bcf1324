"""Sentences about people, made by rules: a few words, many ways to say that somebody gave something to somebody.

In: a generator. Out: rows of word tokens, each BOS and some sentences. About half of them name two people, then one of
the two again, and end with the other, who is given something (Wang et al. 2022, "Interpretability in the Wild"); the
rest is about whoever it may be, or says of two people that one saw or looked for the other. Some of what those
sentences could say is kept out of them, to test what was learned and not only remembered: pairs of names, some names
altogether, and some of the templates of the task `ioi`.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import torch

from pellucid.base.errors import ConfigError
from pellucid.tasks.ioi import FRAMES, OBJECTS, PLACES
from pellucid.tasks.templates import words
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import word_vocabulary
from pellucid.train.sequences import IGNORED, Batch

NAMES = words(
    "Aaron Adam Alice Amy Andrew Anna Anthony Arthur Brandon Brian Charles Charlie Daniel David Edward Elizabeth "
    "Emily Eric Eva Frank George Henry Jack Jacob James Jane Jason Jennifer Jeremy Jessica John Joseph Joshua Kate "
    "Kelly Kevin Laura Lisa Louis Luke Maria Martin Mary Matthew Michael Michelle Patrick Paul Peter Rachel Richard "
    "Robert Rose Ruby Ryan Sarah Scott Simon Steven Thomas Tyler Victoria Warren William"
)
NEW_NAMES = NAMES[4::5]
"""Twelve names that only other sentences have."""
NEW_FRAMES = tuple(FRAMES[number] for number in (3, 7, 9, 12, 14))
"""Templates of the task `ioi` that no sentence here follows, though each of their words stands somewhere."""
_KNOWN = [frame.text for frame in FRAMES if frame not in NEW_FRAMES]
_TOGETHER = [
    *("went to the {P}", "met at the {P}", "were at the {P}", "walked to the {P}", "had lunch at the {P}"),
    *("were working at the {P}", "had a lot of fun at the {P}", "found a {O}", "bought a {O} at the {P}", "saw a {O}"),
    *("were talking about the {O}", "had a long talk", "came home from the {P}", "looked for the {O}"),
    *("sat in the {P}", "were going to the {P}", "were going home", "were thinking about it", "had an argument"),
    *("were thinking about the {O}", "had dinner at the {P}", "got a {O}", "had an old {O}", "left the {P}"),
]
_OPENED = [
    *("when {A} and {B} {did},", "after {A} and {B} {did},", "while {A} and {B} {did},", "because {A} and {B} {did},"),
    *("{A} and {B} {did}.", "then, {A} and {B} {did}.", "yesterday {A} and {B} {did}.", "later, {A} and {B} {did}."),
    *("friends {A} and {B} {did}.", "one day {A} and {B} {did}.", "two friends, {A} and {B}, {did}."),
    *("{A} and {B} {did}, and", "{A} {did} with {B}.", "{A} was with {B} at the {P}.", "before {A} and {B} {did},"),
    *("the {P} {A} and {B} saw had a {O}.", "the {O} {A} and {B} found was at the {P}.", "{A} came with {B}, and"),
    *("at the {P} {A} and {B} {did}.", "after the dinner, {A} and {B} {did}.", "once {A} and {B} {did},"),
]
_LINKS = ["", "", "", "", "", "then", "later", "in the end", "that day", "so", "afterwards", "at the {P}"]
_GIVEN = [
    *("{S} {gave} a {O} to", "{S} {gave} the {O} to", "{S} {gave} it to", "{S} decided to {give} the {O} to"),
    *("{S} decided to {give} it to", "{S} wanted to {give} it to", "{S} was glad to {give} a {O} to", "{S} spoke to"),
    *("{S} had to {give} the {O} to", "{S} took the {O} and {gave} it to", "{S} said a word to", "{S} went up to"),
    *("{S} said to", "{S} said it to", "{S} had a word to say to", "{S} came and {gave} a {O} to"),
    *("{S} bought a {O} and {gave} it to", "{S} was going to {give} a {O} to", "{S} read the letter to", "{S} sang to"),
]
_GIVE = {
    **{"gave": "give", "showed": "show", "handed": "hand", "sold": "sell"},
    **{"passed": "pass", "brought": "bring", "lent": "lend"},
}
_OTHER = [
    *("{A} was at the {P}.", "{A} went to the {P}, and {A} was glad.", "{A} saw {B} at the {P}.", "{A} had a {O}."),
    *("{B} was commuting to the {P} with {A}.", "the {O} was at the {P}.", "{A} had an argument with {B}."),
    *("{A} found the {O} and {A} was glad.", "{A} wanted a {O}.", "it was a long day.", "the {P} was old."),
    *("{A} and {B} decided to go to the {P}.", "a friend of {A} was commuting to the {P}.", "friends got it."),
    *("afterwards {A} said a word.", "{A} had the {O} of {B}.", "friends found {A} at the {P}.", "{A} said it to {B}."),
    *("{A} got a {O}. the {O} was old.", "{A} went up to {B}.", "the {O} went from {A} to {B}."),
]
"""Of whoever it may be: what name comes where cannot be known."""
_SEEN = [
    *("{A} saw {B}, and {B} saw {A}.", "{A} and {B} {did}. {A} saw {B}.", "{A} and {B} {did}, and {B} saw {A}."),
    *("{A} {did} with {B}. later {A} found {B} at the {P}.", "one day {B} and {A} {did}. {A} was glad of {B}."),
    *("{A} was with {B} at the {P}. {B} had a word with {A}.", "when {A} and {B} {did}, {B} was thinking about {A}."),
    *("{B} and {A} {did}. then {A} came for {B}.", "after {A} and {B} {did}, {A} looked for {B}."),
]
"""Two people, of whom one does something with the other, who receives nothing: all names are found in these."""


@cache
def sentence_vocabulary() -> Tokenizer:
    """A word, a name or a mark of punctuation is a token; ``<bos>`` is 0. Sentences begin with capital letters."""
    texts = [*_KNOWN, *(frame.text for frame in NEW_FRAMES), *_TOGETHER, *_OPENED, *_LINKS, *_GIVEN, *_OTHER, *_SEEN]
    texts += [*_GIVE, *_GIVE.values()]
    plain = {word for text in texts for word in re.findall(r"[A-Za-z]+|[.,]", re.sub(r"{\w+}", " ", text))}
    begun = [*_OPENED, *_OTHER, *_SEEN, *_LINKS]
    first = {word.capitalize() for text in begun for word in re.findall(r"^[a-z]+", text)}
    return word_vocabulary(sorted(plain | first | {"The"} | set(NAMES) | set(PLACES) | set(OBJECTS)))


@dataclass(frozen=True, kw_only=True)
class NameSentences:
    """Rows of BOS and some sentences, of which about half name two people and end with the one that was not repeated.

    Args:
        length: Tokens of a row, BOS included; the last sentence is cut.
        share: Of sentences that end with the name that was not repeated.

    Raises:
        ConfigError: A row has no room for a sentence, or `share` is none.

    Example:
        >>> rows = NameSentences(length=24).draw(1, torch.Generator().manual_seed(1))
        >>> sentence_vocabulary().decode(rows.tokens[0, 1:9])
        'After Jack and Lisa were at the school'
    """

    length: int
    share: float = 0.6

    def __post_init__(self) -> None:
        if self.length < 24 or not 0 <= self.share <= 1:
            raise ConfigError(
                f"length must be 24 or more, to hold a sentence, and 0 ≤ share ≤ 1, got length={self.length}, "
                f"share={self.share}"
            )

    @property
    def d_vocab(self) -> int:
        """Words, marks and BOS."""
        return len(sentence_vocabulary())

    @property
    def longest_row(self) -> int:
        """Tokens of a row."""
        return self.length

    def draw(self, batch: int, generator: torch.Generator) -> Batch:
        """Some rows; each token but the first is a target."""
        seeds = torch.randint(2**31, (batch,), generator=generator).tolist()
        tokens = torch.tensor([self._row(random.Random(seed)) for seed in seeds])
        targets = torch.cat([tokens[:, 1:], torch.full((batch, 1), IGNORED)], dim=1)
        return Batch(tokens, targets)

    def _row(self, draws: random.Random) -> list[int]:
        row: list[int] = [0]
        while len(row) < self.length:
            text = indirect_object(draws) if draws.random() < self.share else _other(draws)
            row += _ids(text)
        return row[: self.length]


def indirect_object(draws: random.Random, *, frames: Sequence[str] | None = None) -> str:
    """A sentence that ends with the name that was not repeated.

    Args:
        draws: Random numbers.
        frames: Only these templates of the task `ioi`; None: whatever is trained on.
    """
    io, s = _two(draws)
    a, b = draws.sample([io, s], 2)
    told = _told(draws) | {"A": a, "B": b, "S": s}
    if frames is not None or draws.random() < 0.3:
        text = draws.choice(frames or _KNOWN).format(**told, PLACE=told["P"], OBJECT=told["O"])
    else:
        opened = draws.choice(_OPENED).format(**told, did=draws.choice(_TOGETHER).format(**told))
        link = draws.choice(_LINKS).format(**told)
        gave = draws.choice(list(_GIVE))
        text = f"{opened} {link} {draws.choice(_GIVEN).format(**told, gave=gave, give=_GIVE[gave])}"
    return f"{_capital(text)} {io}."


def kept_out(one: str, other: str) -> bool:
    """Whether two names never stand together in such a sentence."""
    return bool({one, other} & set(NEW_NAMES)) or crc32(" ".join(sorted([one, other])).encode()) % 8 == 0


def _two(draws: random.Random) -> list[str]:
    while True:
        two = draws.sample(NAMES, 2)
        if not kept_out(*two):
            return two


def _other(draws: random.Random) -> str:
    told = _told(draws)
    a, b = draws.sample(NAMES, 2)
    did = draws.choice(_TOGETHER).format(**told)
    return _capital(draws.choice(draws.choice([_OTHER, _SEEN])).format(**told, A=a, B=b, did=did))


def _told(draws: random.Random) -> dict[str, str]:
    return {"P": draws.choice(PLACES), "O": draws.choice(OBJECTS)}


def _capital(text: str) -> str:
    """Each sentence with a capital letter."""
    text = re.sub(r"\s+", " ", text.strip())
    return re.sub(r"(^|\. )([a-z])", lambda found: found[1] + found[2].upper(), text)


@cache
def _numbers() -> dict[str, int]:
    return sentence_vocabulary().get_vocab()


def _ids(text: str) -> list[int]:
    """Much faster than by the tokenizer, and the same."""
    numbers = _numbers()
    return [numbers[word] for word in re.findall(r"\w+|[.,]", text)]
