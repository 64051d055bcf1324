"""From activations and weights to numbers about them; every analysis gives a `Measurement`, and none draws."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pellucid.analysis.attention import rest_scores
    from pellucid.analysis.compose import composition
    from pellucid.analysis.heads import head_scores, prefix_matching, role_scores
    from pellucid.analysis.repeated import predictions, repeated_tokens, unrepeated_tokens
    from pellucid.analysis.shifted import shifted_mlp
    from pellucid.analysis.weights import two_head_circuit, two_head_matches

_HOME_OF = {
    "composition": "pellucid.analysis.compose",
    "head_scores": "pellucid.analysis.heads",
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


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'pellucid.analysis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
