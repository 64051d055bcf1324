"""Greater than: "The war lasted from the year 1732 to the year 17" → any of 33 to 99.

Source: Hanna et al. 2023, "How does GPT-2 compute greater-than?".
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pellucid.base.errors import TokenError
from pellucid.tasks.metrics import ProbDiff
from pellucid.tasks.templates import Drawn, Frame, TemplateTask, words

EVENTS = words(
    "abduction accord affair agreement appraisal assault assessment attack attempts campaign captivity case "
    "challenge chaos clash collaboration competition confrontation conflict construction consultation contact "
    "contract conversation crisis deal debate decline development dialogue dispute effort employment endeavor "
    "engagement epidemic evaluation exchange existence expansion expedition experiment fight growth insurgency "
    "intervention investigation journey marriage mission mobilization modification negotiation operation order "
    "partnership pilgrimage plague plan practice process program project pursuit quest raid reforms reign "
    "relationship rescue resistance retaliation revolution rise rule siege strike struggle study test testing trade "
    "treaty trip undertaking venture voyage war work"
)


@dataclass(frozen=True)
class GreaterThan(TemplateTask):
    """Two-digit ends of years: every later one is right, every earlier one and the same is wrong.

    The metric is the probability of all right ones minus that of all wrong ones. Corrupted: the year is the first of
    its century, after which every end is later. A year counts where the tokenizer cuts it into its century and its end.
    Positions: ``year``, ``end``.

    No model that is at hand here can do it: templates and alignment are tested, a circuit is not.
    """

    name: ClassVar[str] = "greater_than"
    about: ClassVar[str] = "a year must be later than the one before"
    metric: ClassVar[ProbDiff] = ProbDiff()
    frames: ClassVar[tuple[Frame, ...]] = tuple(
        Frame(f"century {century}", f"The {{EVENT}} lasted from the year {century}{{YY}} to the year {century}")
        for century in range(11, 18)
    )
    words: ClassVar[Mapping[str, Sequence[str]]] = {"events": EVENTS}

    def said_words(self, tokenizer: Any) -> dict[str, list[str]]:
        """Events that are single tokens; ends of years that are, behind each century."""
        found = super().said_words(tokenizer)
        for frame in self.frames:
            century = frame.name.split()[1]
            found[frame.name] = [f"{end:02}" for end in range(1, 100) if _cut(tokenizer, century, f"{end:02}")]
        return found

    def _frames(self, tokenizer: Any) -> list[Frame]:
        words = self.said_words(tokenizer)
        kept = [frame for frame in self.frames if {"01"} < set(words[frame.name]) and len(words[frame.name]) > 20]
        if not kept:
            shown = tokenizer.strings(tokenizer.encode(" 1732"))
            raise TokenError(
                f"years must be cut into century and end, as [' 17', '32'], got {shown}; take a model of a tokenizer "
                "that does so, as GPT-2's"
            )
        return kept

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        ends = words[frame.name]
        year = draws.choice([end for end in ends if "02" <= end <= "98"])
        event = draws.choice(words["events"])
        clean, corrupted = (frame.text.format(EVENT=event, YY=f"[year: {end}]") for end in (year, "01"))
        later, rest = [end for end in ends if end > year], [end for end in ends if end <= year]
        return Drawn(clean, corrupted, later, rest, glued=True)


def _cut(tokenizer: Any, century: str, end: str) -> bool:
    pieces = tokenizer.strings(tokenizer.encode(f"year {century}{end}"))
    return pieces[-2:] == [f" {century}", end]
