"""Attention patterns as a picture: every head small, one of them large, each weight under the mouse."""

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

MOST = 2**26
"""Weights that one picture may hold: 256 MiB in a browser."""


@dataclass(eq=False, repr=False)
class AttentionPatterns(View):
    """The attention of some heads over the same tokens."""

    module: ClassVar[str] = "attention.js"

    tokens: list[str]
    heads: list[str]
    """Their names."""
    values: Float[np.ndarray, "head q_pos k_pos"]
    """Attention of each destination (q_pos) to each source (k_pos)."""

    def title(self) -> str:
        """How many heads and tokens."""
        heads = f"{len(self.heads)} heads" if len(self.heads) > 1 else self.heads[0]
        return f"Attention patterns: {heads} × {len(self.tokens)} tokens"

    def data(self) -> dict[str, Any]:
        """Tokens as they are shown; weights row by row, what lies above the diagonal left out where it is all 0."""
        n = len(self.tokens)
        causal = not np.triu(self.values, 1).any()
        values = self.values[:, *np.tril_indices(n)] if causal else self.values.reshape(len(self.heads), n * n)
        return {
            "tokens": [visible(token) for token in self.tokens],
            "heads": self.heads,
            "causal": causal,
            "values": np.ascontiguousarray(values, dtype=np.float32),
            "least": min(0.0, float(self.values.min())),
            "most": float(self.values.max()),
        }


def attention_patterns(
    tokens: Sequence[str],
    attention: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[Any],
    attention_head_names: Sequence[str] | None = None,
) -> AttentionPatterns:
    """Shows attention patterns: all heads as thumbnails and one large, with the weight under the mouse.

    In a notebook the picture appears at once, also from inside a hook. Anywhere else it is returned, and
    ``.save("page.html")`` writes it as a page.

    Args:
        tokens: The text of each token, ``model.to_str_tokens(prompt)``.
        attention: ``[head q_pos k_pos]``, attention mass or any other finite numbers; one head as ``pattern[None]``.
        attention_head_names: What the heads are called; "Head 0", "Head 1" … if not given.

    Raises:
        ArgumentError: The shapes do not fit; a number is not finite; too much for a browser.
        MissingExtraError: In a notebook without anywidget.

    Example:
        >>> from pellucid import HookedTransformer
        >>> model = HookedTransformer.from_pretrained("toy-induction")
        >>> _, cache = model.run_with_cache("5 9 3 5 9", remove_batch_dim=True)
        >>> attention_patterns(model.to_str_tokens("5 9 3 5 9"), cache["pattern", 1])
        <Attention patterns: ... heads × 6 tokens; .save('page.html') writes a page>
    """
    if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
        raise ArgumentError(
            f"tokens must be a list with the text of each token, got {_short(tokens)}; "
            "model.to_str_tokens(prompt) makes one"
        )
    values = to_numpy(attention)
    names = None if attention_head_names is None else [str(name) for name in attention_head_names]
    _check(values, len(tokens), names)
    values = values.astype(np.float32)
    names = names or [f"Head {head}" for head in range(len(values))]
    view = AttentionPatterns(tokens=list(tokens), heads=names, values=values)
    view.show()
    return view


def _check(values: Shaped[np.ndarray, "..."], n: int, names: list[str] | None) -> None:
    shape = list(values.shape)
    if values.ndim != 3:
        advice = {2: "one head is pattern[None]", 4: "one prompt is attention[0]"}.get(values.ndim, "")
        raise ArgumentError(
            f"attention must have the axes [head, q_pos, k_pos], got shape {shape}{'; ' * bool(advice)}{advice}"
        )
    if 0 in shape:
        raise ArgumentError(f"attention must have one head or more and one token or more, got shape {shape}")
    if shape[1:] != [n, n]:
        raise ArgumentError(
            f"attention must be [head, {n}, {n}] for {n} tokens, got {shape}; tokens must be those that the model saw, "
            "BOS included if there was one"
        )
    if names is not None and len(names) != shape[0]:
        raise ArgumentError(f"attention_head_names must name each of the {shape[0]} heads, got {len(names)} names")
    if values.dtype.kind not in "fiub":
        raise ArgumentError(f"attention must hold real numbers, got {values.dtype}")
    if not np.isfinite(values).all():
        head, q_pos, k_pos = np.argwhere(~np.isfinite(values))[0].tolist()
        raise ArgumentError(
            f"attention must hold finite numbers, got {values[head, q_pos, k_pos]} for head {head} from destination "
            f"{q_pos} to source {k_pos}; of scores, take the softmax or fill in the masked ones"
        )
    if values.size > MOST:
        raise ArgumentError(
            f"one picture may hold {MOST} weights, got {values.size}; choose some heads, such as "
            f"attention[:{max(1, MOST // n**2)}], or fewer tokens"
        )


def _short(tokens: Any) -> str:
    text = repr(tokens)
    return text if len(text) <= 60 else f"{text[:59]}…"
