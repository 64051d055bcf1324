"""Capitals: "The capital of France is the city of" → " Paris".

Source: the facts are common knowledge; the form is that of Meng et al. 2022, "Locating and Editing Factual
Associations in GPT".
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.base.errors import TokenError
from pellucid.tasks.task import word_token
from pellucid.tasks.templates import Drawn, Frame, TemplateTask, numbered

CAPITALS = {
    **{"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London"},
    **{"Russia": "Moscow", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens"},
    **{"Austria": "Vienna", "Poland": "Warsaw", "Portugal": "Lisbon", "Ireland": "Dublin", "Sweden": "Stockholm"},
    **{"Norway": "Oslo", "Denmark": "Copenhagen", "Finland": "Helsinki", "Hungary": "Budapest", "Cuba": "Havana"},
    **{"Iran": "Tehran", "Iraq": "Baghdad", "Syria": "Damascus", "Lebanon": "Beirut", "Afghanistan": "Kabul"},
    **{"Canada": "Ottawa", "Belgium": "Brussels", "Ukraine": "Kiev", "Kenya": "Nairobi", "Peru": "Lima"},
    **{"Thailand": "Bangkok", "Libya": "Tripoli", "Turkey": "Ankara", "Taiwan": "Taipei", "Qatar": "Doha"},
}


@dataclass(frozen=True)
class Capitals(TemplateTask):
    """The capital of a country; corrupted: another country, whose capital is the wrong answer.

    Countries count where both names are single tokens. Positions: ``country``, ``end``.

    No model that is at hand here can do it: templates and alignment are tested, a circuit is not.
    """

    name: ClassVar[str] = "capitals"
    about: ClassVar[str] = "the capital of a country"
    frames: ClassVar[tuple[Frame, ...]] = numbered(
        [
            "The capital of {COUNTRY} is the city of",
            "The capital city of {COUNTRY} is called",
            "Everybody knows that the capital of {COUNTRY} is",
            "If you visit {COUNTRY}, you should see its capital,",
            "The government of {COUNTRY} sits in its capital,",
            "We flew to the capital of {COUNTRY}, which is",
        ]
    )
    words: ClassVar[Mapping[str, Sequence[str]]] = {"countries": tuple(CAPITALS)}
    least: ClassVar[Mapping[str, int]] = {"countries": 2}

    def said_words(self, tokenizer: Any) -> dict[str, list[str]]:
        """Countries that are single tokens, as their capitals are."""
        found = super().said_words(tokenizer)["countries"]
        both = [country for country in found if _is_token(tokenizer, CAPITALS[country])]
        if len(both) < 2:
            raise TokenError(
                f"2 countries or more must be single tokens together with their capitals, got {both} of {len(CAPITALS)}"
            )
        return {"countries": both}

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        two = draws.sample(words["countries"], 2)
        clean, corrupted = (frame.text.format(COUNTRY=f"[country: {country}]") for country in two)
        return Drawn(clean, corrupted, CAPITALS[two[0]], CAPITALS[two[1]])


def _is_token(tokenizer: Any, word: str) -> bool:
    try:
        word_token(tokenizer, word)
    except TokenError:
        return False
    return True
