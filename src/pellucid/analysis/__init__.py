"""From activations and weights to numbers about them; every analysis gives a `Measurement`, and none draws."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.analysis.attention import rest_scores
    from pellucid.analysis.attribution import logit_attribution
    from pellucid.analysis.compose import composition
    from pellucid.analysis.copying import copying_score
    from pellucid.analysis.heads import head_scores, prefix_matching, role_scores
    from pellucid.analysis.over_checkpoints import over_checkpoints
    from pellucid.analysis.repeated import predictions, repeated_tokens, unrepeated_tokens
    from pellucid.analysis.shifted import shifted_mlp
    from pellucid.analysis.singular_tokens import svd_tokens
    from pellucid.analysis.task_heads import attention_between, attention_from, direct_effects
    from pellucid.analysis.token_tables import ov_tokens, qk_tokens
    from pellucid.analysis.weights import two_head_circuit, two_head_matches

_HOME_OF = {
    "attention_between": "pellucid.analysis.task_heads",
    "attention_from": "pellucid.analysis.task_heads",
    "composition": "pellucid.analysis.compose",
    "copying_score": "pellucid.analysis.copying",
    "direct_effects": "pellucid.analysis.task_heads",
    "head_scores": "pellucid.analysis.heads",
    "logit_attribution": "pellucid.analysis.attribution",
    "ov_tokens": "pellucid.analysis.token_tables",
    "over_checkpoints": "pellucid.analysis.over_checkpoints",
    "predictions": "pellucid.analysis.repeated",
    "prefix_matching": "pellucid.analysis.heads",
    "qk_tokens": "pellucid.analysis.token_tables",
    "repeated_tokens": "pellucid.analysis.repeated",
    "rest_scores": "pellucid.analysis.attention",
    "role_scores": "pellucid.analysis.heads",
    "shifted_mlp": "pellucid.analysis.shifted",
    "svd_tokens": "pellucid.analysis.singular_tokens",
    "two_head_circuit": "pellucid.analysis.weights",
    "two_head_matches": "pellucid.analysis.weights",
    "unrepeated_tokens": "pellucid.analysis.repeated",
}

__all__ = [
    "attention_between",
    "attention_from",
    "composition",
    "copying_score",
    "direct_effects",
    "head_scores",
    "logit_attribution",
    "ov_tokens",
    "over_checkpoints",
    "predictions",
    "prefix_matching",
    "qk_tokens",
    "repeated_tokens",
    "rest_scores",
    "role_scores",
    "shifted_mlp",
    "svd_tokens",
    "two_head_circuit",
    "two_head_matches",
    "unrepeated_tokens",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
