"""Text with a number on each token, as colour: loss by token, an activation, attention from one place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError
from pellucid.base.tensors import to_numpy
from pellucid.viz.view import View
from pellucid.viz.visible import visible


@dataclass(eq=False, repr=False)
class ColoredTokens(View):
    """Tokens, and a number for each."""

    module: ClassVar[str] = "tokens.js"

    tokens: list[str]
    values: Float[np.ndarray, " pos"]
    """float64; NaN where a token has none."""
    name: str
    """What the numbers are, with their unit."""

    def title(self) -> str:
        """How many tokens, and what of them."""
        return f"{len(self.tokens)} tokens coloured by {self.name}"

    def data(self) -> dict[str, Any]:
        """Tokens as they are shown, and the range of the numbers."""
        there = self.values[~np.isnan(self.values)]
        return {
            "tokens": [visible(token) for token in self.tokens],
            "breaks": [token.endswith("\n") for token in self.tokens],
            "values": self.values.astype(np.float64),
            "name": self.name,
            "least": float(min(0.0, there.min(initial=0.0))),
            "most": float(max(0.0, there.max(initial=0.0))),
        }


def colored_tokens(
    tokens: Sequence[str],
    values: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[float],
    *,
    name: str = "value",
) -> ColoredTokens:
    """Shows text with each token coloured by a number: 0 is plain, blue positive, red negative.

    In a notebook the picture appears at once, also from inside a hook. Anywhere else it is returned, and
    ``.save("page.html")`` writes it as a page.

    Args:
        tokens: The text of each token, ``model.to_str_tokens(prompt)``.
        values: ``[pos]``, one for each token; NaN for a token that has none, such as the loss of the first.
        name: What the numbers are, with their unit.

    Raises:
        ArgumentError: Not one number for each token; a number is infinite.
        MissingExtraError: In a notebook without anywidget.

    Example:
        >>> colored_tokens(["The", " cat", " sat"], [float("nan"), 7.1, 2.5], name="loss (nats)")
        <3 tokens coloured by loss (nats); .save('page.html') writes a page>
    """
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise ArgumentError(
            "tokens must be a list with the text of each token; model.to_str_tokens(prompt) makes one, "
            f"got {type(tokens).__name__}"
        )
    numbers = to_numpy(values)
    if numbers.shape != (len(tokens),):
        raise ArgumentError(
            f"values must be one number for each of the {len(tokens)} tokens, got shape {list(numbers.shape)}; "
            "a loss per token has none for the first: put NaN there"
        )
    if numbers.dtype.kind not in "fiub":
        raise ArgumentError(f"values must be real numbers, got {numbers.dtype}")
    if np.isinf(numbers).any():
        place = int(np.flatnonzero(np.isinf(numbers))[0])
        raise ArgumentError(f"values must be finite, or NaN for none, got {numbers[place]} for token {place}")
    view = ColoredTokens(tokens=list(tokens), values=numbers.astype(np.float64), name=name)
    view.show()
    return view
