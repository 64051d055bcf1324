"""From activations and weights to numbers about them; every analysis gives a `Measurement`, and none draws."""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy

if TYPE_CHECKING:
    from pellucid.analysis.attention import rest_scores
    from pellucid.analysis.attribution import Swapped, logit_attribution
    from pellucid.analysis.compose import composition
    from pellucid.analysis.contexts import merge_contexts
    from pellucid.analysis.copying import copying_score
    from pellucid.analysis.heads import head_scores, prefix_matching, role_scores
    from pellucid.analysis.lens import logit_lens
    from pellucid.analysis.lens_attention import attention_lens
    from pellucid.analysis.neurons import direct_effects, top_contexts, written_tokens
    from pellucid.analysis.ngrams import bigrams, skip_trigrams
    from pellucid.analysis.patterns import pattern_statistics
    from pellucid.analysis.repeated import predictions, repeated_tokens, unrepeated_tokens
    from pellucid.analysis.shifted import shifted_mlp
    from pellucid.analysis.singular_tokens import svd_tokens
    from pellucid.analysis.steps import over_checkpoints
    from pellucid.analysis.task_heads import attention_between, attention_from
    from pellucid.analysis.token_tables import ov_tokens, qk_tokens
    from pellucid.analysis.tuned_lens import TunedLens, lens_kl, train_tuned_lens
    from pellucid.analysis.watched import HeadOutput, Neuron, StreamDirection
    from pellucid.analysis.weights import two_head_circuit, two_head_matches
    from pellucid.analysis.zoo_attention import attention_roles
    from pellucid.analysis.zoo_scores import Zoo, zoo
    from pellucid.analysis.zoo_weights import copy_suppression, successor

_HOME_OF = {
    "attention_between": "pellucid.analysis.task_heads",
    "attention_from": "pellucid.analysis.task_heads",
    "attention_lens": "pellucid.analysis.lens_attention",
    "attention_roles": "pellucid.analysis.zoo_attention",
    "bigrams": "pellucid.analysis.ngrams",
    "composition": "pellucid.analysis.compose",
    "copy_suppression": "pellucid.analysis.zoo_weights",
    "copying_score": "pellucid.analysis.copying",
    "direct_effects": "pellucid.analysis.neurons",
    "head_scores": "pellucid.analysis.heads",
    "HeadOutput": "pellucid.analysis.watched",
    "lens_kl": "pellucid.analysis.tuned_lens",
    "logit_attribution": "pellucid.analysis.attribution",
    "logit_lens": "pellucid.analysis.lens",
    "merge_contexts": "pellucid.analysis.contexts",
    "Neuron": "pellucid.analysis.watched",
    "ov_tokens": "pellucid.analysis.token_tables",
    "over_checkpoints": "pellucid.analysis.steps",
    "pattern_statistics": "pellucid.analysis.patterns",
    "predictions": "pellucid.analysis.repeated",
    "prefix_matching": "pellucid.analysis.heads",
    "qk_tokens": "pellucid.analysis.token_tables",
    "repeated_tokens": "pellucid.analysis.repeated",
    "rest_scores": "pellucid.analysis.attention",
    "role_scores": "pellucid.analysis.heads",
    "shifted_mlp": "pellucid.analysis.shifted",
    "skip_trigrams": "pellucid.analysis.ngrams",
    "StreamDirection": "pellucid.analysis.watched",
    "successor": "pellucid.analysis.zoo_weights",
    "svd_tokens": "pellucid.analysis.singular_tokens",
    "Swapped": "pellucid.analysis.attribution",
    "top_contexts": "pellucid.analysis.neurons",
    "train_tuned_lens": "pellucid.analysis.tuned_lens",
    "TunedLens": "pellucid.analysis.tuned_lens",
    "two_head_circuit": "pellucid.analysis.weights",
    "two_head_matches": "pellucid.analysis.weights",
    "unrepeated_tokens": "pellucid.analysis.repeated",
    "written_tokens": "pellucid.analysis.neurons",
    "Zoo": "pellucid.analysis.zoo_scores",
    "zoo": "pellucid.analysis.zoo_scores",
}

__all__ = [
    "HeadOutput",
    "Neuron",
    "StreamDirection",
    "Swapped",
    "TunedLens",
    "Zoo",
    "attention_between",
    "attention_from",
    "attention_lens",
    "attention_roles",
    "bigrams",
    "composition",
    "copy_suppression",
    "copying_score",
    "direct_effects",
    "head_scores",
    "lens_kl",
    "logit_attribution",
    "logit_lens",
    "merge_contexts",
    "ov_tokens",
    "over_checkpoints",
    "pattern_statistics",
    "predictions",
    "prefix_matching",
    "qk_tokens",
    "repeated_tokens",
    "rest_scores",
    "role_scores",
    "shifted_mlp",
    "skip_trigrams",
    "successor",
    "svd_tokens",
    "top_contexts",
    "train_tuned_lens",
    "two_head_circuit",
    "two_head_matches",
    "unrepeated_tokens",
    "written_tokens",
    "zoo",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
