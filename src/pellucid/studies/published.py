"""What publications say of GPT-2 small, and whether a model is GPT-2 small.

In: a model. Out: the published figures, if they speak of this very model. It is recognised by its answer: neither shape
nor name tells whether weights were trained further, or never trained at all.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.point import HookPoint
from pellucid.model.mlp import ACTIVATIONS, gelu_tanh
from pellucid.model.norms import widened

EXAMPLES = Path(__file__).parent / "data" / "gpt2-examples.json"
"""What GPT-2 small answers to five prompts (poloclub/transformer-explainer, MIT; the licence lies beside it)."""
TOLERANCE = 1e-3
"""Of a probability."""

INTRODUCTION = "the introduction to TransformerLens, 2.x"
ARTICLE = "How one can interpret GPT2-small"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure of a publication."""

    value: float
    source: str
    said: str
    """How it was measured, as far as the source says."""
    label: str | None = None
    """What the number belongs to, such as a head."""


_HALVES = "the sample is not stated; the second half includes its first token, which cannot be predicted"
_CIRCUIT = "raw W_E; whether it counts the best key of each query or the best query of each key is not said"
FIGURES: Mapping[str, Mapping[str, Published]] = {
    "induction": {
        "logprob_first_half": Published(value=-13.898, source=ARTICLE, said=_HALVES),
        "logprob_second_half": Published(value=-0.644, source=ARTICLE, said=_HALVES),
        "accuracy_first_half": Published(value=0.0, source=ARTICLE, said=_HALVES),
        "accuracy_second_half": Published(value=0.93, source=ARTICLE, said=_HALVES),
        "induction_head": Published(
            value=0.91,
            label="5.5",
            source=ARTICLE,
            said="the whole diagonal, S = 50, 30 prompts; tokens with replacement",
        ),
        "two_head_circuit_top1_key_per_query": Published(
            value=0.2283, label="4.11 → 5.5", source=ARTICLE, said=_CIRCUIT
        ),
        "two_head_circuit_top1_query_per_key": Published(
            value=0.2283, label="4.11 → 5.5", source=ARTICLE, said=_CIRCUIT
        ),
    },
    "ioi": {
        "paragraph_loss": Published(value=3.3063, source=INTRODUCTION, said="178 tokens with BOS"),
        "sentence_loss": Published(value=3.624, source=INTRODUCTION, said="32 tokens with BOS, processed weights"),
        "sentence_loss_head_0_8_zeroed": Published(
            value=4.983, source=INTRODUCTION, said="processed weights; the prose says head 7, the code 8"
        ),
        "pair_logit_diff_clean": Published(value=4.276, source=INTRODUCTION, said="one pair of prompts"),
        "pair_logit_diff_corrupted": Published(value=-2.738, source=INTRODUCTION, said="one pair of prompts"),
    },
}
"""By study and figure, all of GPT-2 small. The article also calls 4.11 a strong previous-token head, and the effect of
shifted MLPs almost zero but for the first position, without numbers."""


def published_figures(model: HookedTransformer, study: str) -> Mapping[str, Published]:
    """The published figures of a study, by name; none if the model is not the one that they were published for.

    Args:
        model: Any model, processed or not.
        study: Such as ``"induction"``.
    """
    figures = FIGURES.get(study, {})
    return figures if figures and is_gpt2_small(model) else {}


@torch.no_grad()
def is_gpt2_small(model: HookedTransformer) -> bool:
    """Whether a model gives GPT-2 small's ten most probable next tokens to a prompt, each probability within 1e-3.

    The reference was computed with GELU in its exact form, where GPT-2 has the tanh form, which moves these
    probabilities by 0.002–0.003: so this one run is made with the exact form. The answer is that of the unprocessed
    model, processed or not, since processing does not change probabilities. The model stays as it is.

    Args:
        model: Any model.
    """
    example = json.loads(EXAMPLES.read_text(encoding="utf-8"))["examples"][0]
    expected = {top["token_id"]: top["probability"] for top in example["top10"]}
    tokens = torch.tensor([example["token_ids"]])
    config = model.config
    fits = min(config.d_vocab, config.vocab_out) > max(*example["token_ids"], *expected)
    if not fits or config.n_ctx < tokens.shape[1] or not _has_gelu(model):
        return False
    found = _with_exact_gelu(model, tokens.to(model.device))[0, -1]
    top = found.topk(len(expected)).indices.tolist()
    return set(top) == expected.keys() and all(
        abs(found[token].item() - probability) <= TOLERANCE for token, probability in expected.items()
    )


def _has_gelu(model: HookedTransformer) -> bool:
    mlp = model.config.mlp
    return mlp is not None and not mlp.gated and ACTIVATIONS[mlp.act] in (F.gelu, gelu_tanh)


def _with_exact_gelu(model: HookedTransformer, tokens: Tensor) -> Float[Tensor, "batch pos d_vocab"]:
    """The probabilities of all tokens, from one run in which each neuron's exact GELU takes its activation's place."""
    read: dict[int, Tensor] = {}

    def remember(pre: Tensor, hook: HookPoint) -> None:
        read[hook.layer()] = pre

    def replace(post: Tensor, hook: HookPoint) -> Tensor:
        return F.gelu(read.pop(hook.layer()))

    hooks = [("pre", remember), ("post", replace)]
    return widened(model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)).softmax(-1)
