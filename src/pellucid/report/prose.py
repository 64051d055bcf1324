"""Prose as HTML: a little Markdown, and nothing in it that could be anything else than text."""

import re
from functools import cache
from typing import TYPE_CHECKING

from pellucid.viz.visible import visible

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

RULES = ("paragraph", "list", "text", "newline", "escape", "backticks", "emphasis", "link", "balance_pairs")
"""What of Markdown is read: paragraphs, lists, ``*emphasis*``, ``**more of it**``, code, links."""


def prose(text: str) -> str:
    r"""Markdown as HTML; tags in it are text.

    Example:
        >>> prose("The head **1.0**, not <b>1.1</b>.")
        '<p>The head <strong>1.0</strong>, not &lt;b&gt;1.1&lt;/b&gt;.</p>\n'
    """
    return _reader().render(text)


def phrase(text: str) -> str:
    """The same for a line inside a paragraph, a heading or a cell of a table."""
    return _reader().renderInline(text)


def code(token: str) -> str:
    r"""A token as it may stand in prose, whatever it holds.

    Example:
        >>> prose(f"the token {code(' `b')}")
        '<p>the token <code>·`b</code></p>\n'
    """
    shown = visible(token)
    longest = max(map(len, re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {shown} {fence}" if longest else f"{fence}{shown}{fence}"


@cache
def _reader() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    return MarkdownIt("zero").enable([rule for rule in RULES if rule not in ("paragraph", "text")])
