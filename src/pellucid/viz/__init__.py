"""Pictures: of attention, of text, of any numbers. They never compute; what they show was measured elsewhere."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.viz.attention import attention_patterns
    from pellucid.viz.greeting import hello
    from pellucid.viz.plots import imshow, line, plot, scatter
    from pellucid.viz.table import sortable_table
    from pellucid.viz.tokens import colored_tokens

_HOME_OF = {
    "attention_patterns": "pellucid.viz.attention",
    "colored_tokens": "pellucid.viz.tokens",
    "hello": "pellucid.viz.greeting",
    "imshow": "pellucid.viz.plots",
    "line": "pellucid.viz.plots",
    "plot": "pellucid.viz.plots",
    "scatter": "pellucid.viz.plots",
    "sortable_table": "pellucid.viz.table",
}

VIEWS = {
    "attention.js": "pellucid.viz.attention:AttentionPatterns",
    "hello.js": "pellucid.viz.greeting:Greeting",
    "table.js": "pellucid.viz.table:SortableTable",
    "tokens.js": "pellucid.viz.tokens:ColoredTokens",
}
"""Every ES module of ``static``, and the data that it draws."""

__all__ = [
    "VIEWS",
    "attention_patterns",
    "colored_tokens",
    "hello",
    "imshow",
    "line",
    "plot",
    "scatter",
    "sortable_table",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
