"""Docstrings: which argument of a Python function comes next.

Source: Heimersheim and Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer".
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pellucid.tasks.templates import Drawn, Frame, TemplateTask, words

WORDS = words(
    "action add age area auth base body cache call case cell code command config content context count create data "
    "date default description device directory display domain end entry error event field file filename filter "
    "first format function group handler header height host image index input instance item key label last length "
    "level limit line link list load match max message method mode model module node notes object offset option "
    "order output page parent path pattern port position process project query range read ref region request "
    "response result role root row rule sample schema score section server session set shape size source start "
    "state status string style tag target task test text time title token type unit update url user value version "
    "view width window"
)


@dataclass(frozen=True)
class Docstring(TemplateTask):
    """The third argument of a function is documented third.

    Wrong answers are the function's other arguments and as many names that it does not have. Corrupted: the arguments
    of the definition are others, the docstring stays. Positions: ``A``, ``B``, ``C`` in the definition, ``A doc``,
    ``B doc``, ``end``.

    No model that is at hand here can do it: templates and alignment are tested, a circuit is not.
    """

    name: ClassVar[str] = "docstring"
    about: ClassVar[str] = "which argument a docstring documents next"
    frames: ClassVar[tuple[Frame, ...]] = (
        Frame(
            "python",
            '\ndef {F}(self, {X}, {A}, {B}, {C}, {Y}):\n    """{D1}\n\n    :param {AD}: {D2}\n    :param {BD}: {D3}\n'
            "    :param",
        ),
    )
    words: ClassVar[Mapping[str, Sequence[str]]] = {"arguments": WORDS}
    least: ClassVar[Mapping[str, int]] = {"arguments": 24}

    def _draw(self, words: Mapping[str, Sequence[str]], frame: Frame, group: str, draws: random.Random) -> Drawn:
        drawn = draws.sample(words["arguments"], 22)
        f, x, a, b, c, y = drawn[:6]
        told = {"F": f, "AD": f"[A doc: {a}]", "BD": f"[B doc: {b}]"}
        told |= {f"D{i}": " ".join(drawn[2 * i + 5 : 2 * i + 7]) for i in (1, 2, 3)}
        sides = [(x, a, b, c, y), tuple(drawn[13:18])]
        clean, corrupted = (
            frame.text.format(**told, X=one, A=f"[A: {two}]", B=f"[B: {three}]", C=f"[C: {four}]", Y=five)
            for one, two, three, four, five in sides
        )
        return Drawn(clean, corrupted, c, [x, a, b, y, *drawn[18:22]])
