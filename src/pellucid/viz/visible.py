"""Text of tokens made visible: a token is shown as what it is, whatever it holds."""

import html
import re
import unicodedata
from typing import Any

MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥", "\x7f": "␡", "\xa0": "⍽"}
"""What stands for white space that everybody knows; a space itself is shown as ·."""

UNSEEN = frozenset(
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *(*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)),
    )
)
"""Code points that draw nothing though Unicode counts them as letters, marks or symbols."""


def visible(token: str) -> str:
    r"""A token with all that cannot be seen replaced by signs.

    A space becomes ·, a newline ↵; other control characters become their pictures, and what draws nothing (zero-width
    characters, direction marks, lone surrogates, private letters) its number. A token that begins with a combining mark
    gets a circle to carry it.

    Example:
        >>> visible(" the"), visible("a\n"), visible("\u200b"), visible("")
        ('·the', 'a↵', '⟨U+200B⟩', '⟨empty⟩')
    """
    return printable(token.replace(" ", "·")) or "⟨empty⟩"


def printable(text: str) -> str:
    r"""The same for a name, whose spaces stay.

    Example:
        >>> printable("Ada\tLovelace, née Byron")
        'Ada⇥Lovelace, née Byron'
    """
    shown = "".join(map(_sign, text))
    return f"◌{shown}" if shown and unicodedata.category(shown[0]).startswith("M") else shown


def label(text: Any) -> str:
    """The same for a label of plotly's, a token or words: none of it is taken for plotly's markup.

    Example:
        >>> label("<s>"), label(" the_3"), label("subject 2")
        ('&lt;s&gt;', '·the_3', 'subject 2')
    """
    shown = re.sub("^ +| +$|  +", lambda spaces: "·" * len(spaces[0]), str(text))
    return html.escape(printable(shown) or "⟨empty⟩", quote=False)


def _sign(character: str) -> str:
    code = ord(character)
    if character in MARKS:
        return MARKS[character]
    if code < 32:
        return chr(0x2400 + code)  # Unicode's pictures of control characters
    unseen = ("Cc", "Cf", "Cs", "Co", "Zs", "Zl", "Zp")
    if code in UNSEEN or (character != " " and unicodedata.category(character) in unseen):
        return f"⟨U+{code:04X}⟩"
    return character
