"""Gendered pronouns: "So Mary is a really great friend, isn't" → " she".

Source: Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small".
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pellucid.tasks.templates import Drawn, Frame, TemplateTask, numbered, words

WOMEN = words(
    "Alice Amanda Amy Anna Barbara Carol Caroline Catherine Elizabeth Emily Emma Eva Hannah Helen Jane Jennifer "
    "Jessica Julia Kate Laura Linda Lisa Lucy Maria Mary Michelle Nancy Rachel Rebecca Rose Ruth Sarah Susan "
    "Victoria"
)
MEN = words(
    "Adam Andrew Anthony Brian Charles Daniel David Edward Eric Frank George Henry Jack James Jason John Joseph "
    "Joshua Kevin Mark Martin Matthew Michael Patrick Paul Peter Richard Robert Simon Stephen Steven Thomas William"
)


@dataclass(frozen=True)
class GenderedPronouns(TemplateTask):
    """The pronoun that goes with a name, by the usual gender of the name; corrupted: a name of the other one.

    Groups: ``she`` and ``he``, by the right answer. Positions: ``name``, ``end``.
    """

    name: ClassVar[str] = "gendered_pronouns"
    about: ClassVar[str] = "the pronoun that goes with a name"
    groups: ClassVar[tuple[str, ...]] = ("she", "he")
    frames: ClassVar[tuple[Frame, ...]] = numbered(
        [
            "So {NAME} is a really great friend, isn't",
            "So {NAME} is such a good cook, isn't",
            "So {NAME} was very late again today, wasn't",
            "I think that {NAME} is quite right, isn't",
            "Well, {NAME} is our best student, isn't",
            "You know, {NAME} was the first to arrive, wasn't",
            "Of course {NAME} will be there tomorrow, won't",
            "Yes, {NAME} can play the piano, can't",
        ]
    )
    words: ClassVar[Mapping[str, Sequence[str]]] = {"she": WOMEN, "he": MEN, "pronouns": ("he", "she")}
    least: ClassVar[Mapping[str, int]] = {"she": 2, "he": 2, "pronouns": 2}

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        other = "he" if group == "she" else "she"
        clean, corrupted = (frame.text.format(NAME=f"[name: {draws.choice(words[kind])}]") for kind in (group, other))
        return Drawn(clean, corrupted, group, other)
