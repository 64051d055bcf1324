"""Indirect object identification: "When Mary and John went to the store, John gave a drink to" → " Mary".

Source: Wang et al. 2022, "Interpretability in the Wild", whose templates these are.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pellucid.base.errors import UnknownNameError, nearest
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import offset_position
from pellucid.tasks.templates import Drawn, Frame, TemplateTask, numbered, words

NAMES = words(
    "Aaron Adam Alan Alex Alice Amy Anderson Andre Andrew Andy Anna Anthony Arthur Austin Blake Brandon Brian "
    "Carter Charles Charlie Christian Christopher Clark Cole Collins Connor Crew Crystal Daniel David Dean Edward "
    "Elizabeth Emily Eric Eva Ford Frank George Georgia Graham Grant Henry Ian Jack Jacob Jake James Jamie Jane "
    "Jason Jay Jennifer Jeremy Jessica John Jonathan Jordan Joseph Joshua Justin Kate Kelly Kevin Kyle Laura Leon "
    "Lewis Lisa Louis Luke Madison Marco Marcus Maria Mark Martin Mary Matthew Max Michael Michelle Morgan Patrick "
    "Paul Peter Prince Rachel Richard River Robert Roman Rose Ruby Russell Ryan Sarah Scott Sean Simon Stephen "
    "Steven Sullivan Taylor Thomas Tyler Victoria Warren William"
)
PLACES = words("store garden restaurant school hospital office house station")
OBJECTS = words("ring kiss bone basketball computer necklace drink snack")
FRAMES = numbered(
    [
        "Then, {A} and {B} went to the {PLACE}. {S} gave a {OBJECT} to",
        "Then, {A} and {B} had a lot of fun at the {PLACE}. {S} gave a {OBJECT} to",
        "Then, {A} and {B} were working at the {PLACE}. {S} decided to give a {OBJECT} to",
        "Then, {A} and {B} were thinking about going to the {PLACE}. {S} wanted to give a {OBJECT} to",
        "Then, {A} and {B} had a long argument, and afterwards {S} said to",
        "After {A} and {B} went to the {PLACE}, {S} gave a {OBJECT} to",
        "When {A} and {B} got a {OBJECT} at the {PLACE}, {S} decided to give it to",
        "When {A} and {B} got a {OBJECT} at the {PLACE}, {S} decided to give the {OBJECT} to",
        "While {A} and {B} were working at the {PLACE}, {S} gave a {OBJECT} to",
        "While {A} and {B} were commuting to the {PLACE}, {S} gave a {OBJECT} to",
        "After the lunch, {A} and {B} went to the {PLACE}. {S} gave a {OBJECT} to",
        "Afterwards, {A} and {B} went to the {PLACE}. {S} gave a {OBJECT} to",
        "Then, {A} and {B} had a long argument. Afterwards {S} said to",
        "The {PLACE} {A} and {B} went to had a {OBJECT}. {S} gave it to",
        "Friends {A} and {B} found a {OBJECT} at the {PLACE}. {S} gave it to",
    ]
)
POSITIONS = ("IO", "S1", "S1+1", "S2", "S2+1", "end-1", "end")
"""By name, in the order in which most sentences have them."""
CORRUPTIONS = ("s2", "swap", "random")


@dataclass(frozen=True)
class IOI(TemplateTask):
    """Of two names, the one that was not repeated.

    Groups: ABBA names the indirect object first, BABA the subject. Positions: ``IO``, ``S1``, ``S2``, the tokens behind
    the subject, ``S1+1`` and ``S2+1``, the one before the end, ``end-1``, and ``end``.

    Args:
        corruption: ``"s2"``: the second subject becomes the other name, so that the answer turns round (the
            introduction to TransformerLens). ``"swap"``: the two names change places throughout. ``"random"``: three
            other names, none of which is repeated (the ABC prompts of Wang et al.).
        names: Whom the sentences may be about; None: a hundred common ones.

    Raises:
        UnknownNameError: There is no such corruption.

    Example:
        >>> from pellucid import HookedTransformer
        >>> tokenizer = HookedTransformer.from_pretrained("toy-ioi").tokenizer
        >>> IOI().pairs(tokenizer, n=1, seed=0).text[0][0]
        'While James and Richard were commuting to the office, Richard gave a bone to'
    """

    corruption: str = "s2"
    names: tuple[str, ...] | None = None
    frames: tuple[Frame, ...] = FRAMES

    name: ClassVar[str] = "ioi"
    about: ClassVar[str] = "which of two names was not repeated"
    groups: ClassVar[tuple[str, ...]] = ("ABBA", "BABA")
    least: ClassVar[Mapping[str, int]] = {"names": 6, "places": 1, "objects": 1}

    def __post_init__(self) -> None:
        if self.corruption not in CORRUPTIONS:
            raise UnknownNameError(
                f"corruption must be one of {', '.join(CORRUPTIONS)}, got {self.corruption!r}"
                f"{nearest(self.corruption, CORRUPTIONS)}"
            )

    @property
    def words(self) -> Mapping[str, Sequence[str]]:
        """Lists of words by name."""
        return {"names": self.names or NAMES, "places": PLACES, "objects": OBJECTS}

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        io, s, *others = draws.sample(words["names"], 5)
        told = {"PLACE": draws.choice(words["places"]), "OBJECT": draws.choice(words["objects"])}

        def side(first_io: str, first_s: str, second_s: str) -> str:
            two = [f"[IO: {first_io}]", f"[S1: {first_s}]"]
            a, b = two if group == "ABBA" else two[::-1]
            return frame.text.format(A=a, B=b, S=f"[S2: {second_s}]", **told)

        other = {"s2": (io, s, io), "swap": (s, io, io), "random": tuple(others)}[self.corruption]
        return Drawn(side(io, s, s), side(*other), io, s)

    def _finished(self, pairs: Pairs) -> Pairs:
        """With the positions behind the subject, where previous-token heads write."""
        made = offset_position(offset_position(pairs, "S1", 1, "S1+1"), "S2", 1, "S2+1")
        made = offset_position(made, "end", -1, "end-1")
        return replace(made, positions={name: made.positions[name] for name in POSITIONS})
