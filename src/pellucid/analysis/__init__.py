"""From activations and weights to numbers about them; every analysis gives a `Measurement`, and none draws."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.analysis.attention import rest_scores
    from pellucid.analysis.compose import composition
    from pellucid.analysis.heads import head_scores, prefix_matching, role_scores
    from pellucid.analysis.over_checkpoints import over_checkpoints
    from pellucid.analysis.repeated import predictions, repeated_tokens, unrepeated_tokens
    from pellucid.analysis.shifted import shifted_mlp
    from pellucid.analysis.weights import two_head_circuit, two_head_matches

_HOME_OF = {
    "composition": "pellucid.analysis.compose",
    "head_scores": "pellucid.analysis.heads",
    "over_checkpoints": "pellucid.analysis.over_checkpoints",
    "predictions": "pellucid.analysis.repeated",
    "prefix_matching": "pellucid.analysis.heads",
    "repeated_tokens": "pellucid.analysis.repeated",
    "rest_scores": "pellucid.analysis.attention",
    "role_scores": "pellucid.analysis.heads",
    "shifted_mlp": "pellucid.analysis.shifted",
    "two_head_circuit": "pellucid.analysis.weights",
    "two_head_matches": "pellucid.analysis.weights",
    "unrepeated_tokens": "pellucid.analysis.repeated",
}

__all__ = [
    "composition",
    "head_scores",
    "over_checkpoints",
    "predictions",
    "prefix_matching",
    "repeated_tokens",
    "rest_scores",
    "role_scores",
    "shifted_mlp",
    "two_head_circuit",
    "two_head_matches",
    "unrepeated_tokens",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
