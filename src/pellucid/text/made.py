"""English-like text that is made by rules, for where there is no other.

In: a seed. Out: documents, each a tale of a few invented names. It has what small models can learn: words of very
unequal frequency; pairs of words that follow each other; words that call for another one a few words later ("neither …
nor", "keep … in mind"), which are skip-trigrams; and names that no other document has, which only the context tells.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass


def _words(text: str) -> list[str]:
    return text.split()


_ONSETS = _words("b br c ch cl d dr f fl g gl h j k l m n p pr qu r s sh st t th tr v w z")
_VOWELS = _words("a e i o u ai ea ee oo ou")
_CODAS = ["", "", "l", "m", "n", "r", "s", "t", "nd", "rk", "ss", "th"]
_PLACES = _words("house garden river village harbour forest market bridge tower mill church valley island road field")
_THINGS = _words(
    "lamp letter boat horse book key coat bell map knife basket stone ring door clock rope cup mirror purse song"
)
_KINDS = _words("old small red quiet strange heavy broken golden cold green long bright dusty silver narrow")
_FEELINGS = _words("glad sorry afraid proud tired sure angry curious silent pale")
_DEEDS = _words("found lost carried hid sold mended washed opened watched wanted forgot painted broke kept drew")
_MANNERS = ["slowly", "at once", "in the dark", "with great care", "before noon", "after a while", "without a word"]
_RULES = [
    "{N} {deed} the {kind} {thing} {manner}.",
    "{N} {deed} the {thing}, and {n} {deed} the {thing2}.",
    "Neither {N} nor {n} could see the {place} from there.",
    "Both {N} and {n} were {feeling} about the {thing}.",
    '"Keep the {thing} in mind," said {N} to {n}.',
    "The {place} was as {kind} as the {thing} of {N}.",
    "{N} would rather sell the {thing} than leave the {place}.",
    "Either the {thing} was {kind}, or {N} was {feeling}.",
    "From the {place} to the {place2} it was a {kind} way.",
    "There was a {kind} {thing} in the {place}, and it was not {kind2}.",
    "{N} asked {n} whether the {place} was {kind} or {kind2}.",
    "It was so {kind} in the {place} that {N} was {feeling}.",
    "{N} of the {place} took the {thing} away from {n}.",
    "One {thing} was {kind}, the other {thing} was {kind2}.",
    "When {N} came to the {place}, {n} was {feeling}.",
    "{N}, who {deed} the {thing}, was {feeling} {manner}.",
]


@dataclass(frozen=True, kw_only=True)
class MadeText:
    r"""Documents that are made as they are read, the same each time.

    Args:
        documents: How many.
        seed: Of all of them.
        sentences: Of each document.

    Example:
        >>> first, second = MadeText(documents=2, sentences=1)
        >>> first
        'Suthai forgot the red letter at once.\n'
    """

    documents: int
    seed: int = 0
    sentences: int = 12

    def __iter__(self) -> Iterator[str]:
        for number in range(self.documents):
            draws = random.Random(f"{self.seed} {number}")
            names = [_name(draws) for _ in range(draws.randint(2, 4))]
            yield " ".join(_sentence(draws, names) for _ in range(self.sentences)) + "\n"


def _name(draws: random.Random) -> str:
    """An invented name of one to three syllables."""
    syllables = (draws.choice(_ONSETS) + draws.choice(_VOWELS) for _ in range(draws.choice([1, 2, 2, 3])))
    return ("".join(syllables) + draws.choice(_CODAS)).capitalize()


def _sentence(draws: random.Random, names: list[str]) -> str:
    first, second = draws.sample(names, 2)
    return _zipf(draws, _RULES).format(
        N=first,
        n=second,
        deed=_zipf(draws, _DEEDS),
        kind=_zipf(draws, _KINDS),
        kind2=_zipf(draws, _KINDS[::-1]),
        thing=_zipf(draws, _THINGS),
        thing2=_zipf(draws, _THINGS[::-1]),
        place=_zipf(draws, _PLACES),
        place2=_zipf(draws, _PLACES[::-1]),
        feeling=_zipf(draws, _FEELINGS),
        manner=_zipf(draws, _MANNERS),
    )


def _zipf(draws: random.Random, words: list[str]) -> str:
    """One of some words, the n-th with a weight of 1/n (Zipf 1949)."""
    return draws.choices(words, [1 / n for n in range(1, len(words) + 1)])[0]
