"""Contractions: "We're helping our friend while they" → "'re", "We are helping our friend while they" → " are".

Source: the exploration of contractions in GPT-2 small that `studies/contractions.py` follows; groups and the pair of
answers are its own, the frames are ours.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.base.errors import TokenError
from pellucid.tasks.templates import Drawn, Frame, TemplateTask, numbered

CONTRACTION = {"I": "'m", "you": "'re", "we": "'re", "they": "'re", "he": "'s", "she": "'s", "it": "'s"}
VERB = {"'m": "am", "'re": "are", "'s": "is"}
SEEN = {"'re": ("We", "They", "You"), "'s": ("He", "She", "It"), "'m": ("I",)}
"""Subjects that a sentence may begin with, by the contraction that they take."""
GROUPS = (
    *("'re they", "'re he", "'re she", "'re we", "'s we", "'s they", "'s she", "'s he"),
    *("'m they", "'m she"),
)
"""The contraction that is seen, and the last pronoun."""
FRAMES = numbered(
    [
        "{S} helping our friend while {P}",
        "{S} going to the market because {P}",
        "{S} working late tonight, and {P}",
        "{S} waiting at the station while {P}",
        "{S} very tired today, but {P}",
        "{S} looking for a new house, since {P}",
        "{S} writing a long letter, and {P}",
        "{S} ready to leave now, but {P}",
        "{S} playing in the garden while {P}",
        "{S} learning to cook because {P}",
    ]
)
CURLED = "’"
NEUTRAL = "people"
"""Stands for the last pronoun where the contraction alone is looked at."""


@dataclass(frozen=True)
class Contractions(TemplateTask):
    """Who has heard a contraction contracts: its own verb against the full one, at the last pronoun.

    Right: the last pronoun's contraction, wrong: its full verb. Corrupted: the first subject's verb is not contracted.
    Groups: the contraction that is seen and the last pronoun, such as ``"'re they"``. Positions: ``subject``,
    ``contraction``, ``end`` (the pronoun).

    Args:
        pronoun: False: a noun stands for the last pronoun, in both sides; the answers are still those of the pronoun.
    """

    pronoun: bool = True
    frames: tuple[Frame, ...] = FRAMES

    name: ClassVar[str] = "contractions"
    about: ClassVar[str] = "whether what follows a pronoun is contracted, as before"
    groups: ClassVar[tuple[str, ...]] = GROUPS
    words: ClassVar[Mapping[str, Sequence[str]]] = {"nouns": (NEUTRAL,)}
    n_default: ClassVar[int] = len(GROUPS) * 10

    def said_words(self, tokenizer: Any) -> dict[str, list[str]]:
        """Also checks that contractions and verbs are single tokens behind each subject and each last pronoun.

        Raises:
            TokenError: A contraction is split, as it is by most tokenizers where the apostrophe is typographic.
        """
        found = super().said_words(tokenizer)
        texts = {frame.name: frame.text for frame in self.frames}
        texts |= {word: word for words in self.words.values() for word in words}
        for where, text in texts.items():
            if CURLED in text:
                pieces = tokenizer.strings(tokenizer.encode(text, add_special_tokens=False))
                raise TokenError(
                    f"{self.name} must be written with straight apostrophes, got {CURLED} in {where!r}: {pieces}; "
                    "write ' in its place"
                )
        subjects = [(subject, seen) for seen, subjects in SEEN.items() for subject in subjects]
        pronouns = {group.split()[1]: None for group in self.groups}
        for before, short in subjects + [(f" {pronoun}", CONTRACTION[pronoun]) for pronoun in pronouns]:
            for text in (short, f" {VERB[short]}"):
                _check_single(tokenizer, before, text, what=self.name)
        return found

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        seen, pronoun = group.split()
        subject = draws.choice([word for word in SEEN[seen] if word.lower() != pronoun])
        last = pronoun if self.pronoun else NEUTRAL
        sides = [
            frame.text.format(S=f"[subject: {subject}][contraction: {verb}]", P=last)
            for verb in (seen, f" {VERB[seen]}")
        ]
        own = CONTRACTION[pronoun]
        return Drawn(sides[0], sides[1], own, f" {VERB[own]}", glued=True)


def _check_single(tokenizer: Any, before: str, text: str, *, what: str) -> None:
    """Whether a text is one token behind a word, and leaves that as it is."""
    alone, pieces = (
        tokenizer.strings(tokenizer.encode(whole, add_special_tokens=False)) for whole in (before, before + text)
    )
    if pieces != [*alone, text]:
        raise TokenError(
            f"{what} needs {text!r} to be one token behind {before!r}, got {pieces}; take a model whose vocabulary has "
            "it, and write it with a straight apostrophe"
        )
