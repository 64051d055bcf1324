"""The rows of the introduction to TransformerLens, 2.x: a loss, a loss without a head's values, a pair of prompts.

In: a model. Out: figures, published ones beside them where it is GPT-2 small; null with the reason where it cannot read
the texts. The texts are those of the introduction (TransformerLens, MIT), to the letter.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.base.errors import PellucidError, TokenError
from pellucid.hooked_transformer import HookedTransformer
from pellucid.hooks.edits import Zero
from pellucid.studies.result import Figure

_LAST = (
    "For this demo notebook we'll look at GPT-2 Small, an 80M parameter model. To try the model the model out, let's "
    "find the loss on this paragraph!"
)
PARAGRAPH = (
    "## Loading Models\n\nHookedTransformer comes loaded with >40 open source GPT-style models. You can load any of "
    "them in with `HookedTransformer.from_pretrained(MODEL_NAME)`. See my explainer for documentation of all supported "
    "models, and this table for hyper-parameters and the name used to load them. Each model is loaded into the "
    "consistent HookedTransformer architecture, designed to be clean, consistent and interpretability-friendly.\n\n"
    f"{_LAST}\n\n{_LAST}"
)
SENTENCE = (
    "Natural language processing tasks, such as question answering, machine translation, reading comprehension, and "
    "summarization, are typically approached with supervised learning on task specific datasets."
)
PAIR = tuple(f"After John and Mary went to the store, {who} gave a bottle of milk to" for who in ("Mary", "John"))
LONGEST = 200
"""Characters of a reason; an error may hold a whole text."""
HEAD = (0, 8)
"""The source's prose says head 7, its code 8."""


@torch.no_grad()
def introduction(model: HookedTransformer) -> dict[str, Figure]:
    """Two losses, one of them again without head 0.8's values, and the pair's logit differences."""
    return {
        "paragraph_loss": _figure("nats", lambda: _loss(model, PARAGRAPH)),
        "sentence_loss": _figure("nats", lambda: _loss(model, SENTENCE)),
        "sentence_loss_head_0_8_zeroed": _figure("nats", lambda: _loss(model, SENTENCE, without=HEAD)),
        "pair_logit_diff_clean": _figure("logits", lambda: _difference(model, PAIR[0])),
        "pair_logit_diff_corrupted": _figure("logits", lambda: _difference(model, PAIR[1])),
    }


class _CannotError(PellucidError):
    pass


def _figure(unit: str, measure: Callable[[], Tensor]) -> Figure:
    try:
        return Figure(unit=unit, value=float(measure()), reason="one text has no interval")
    except (TokenError, _CannotError) as error:
        told = str(error)
        return Figure(unit=unit, reason=told if len(told) < LONGEST else f"{told[: LONGEST - 60]} … {told[-50:]}")


def _loss(model: HookedTransformer, text: str, *, without: tuple[int, int] | None = None) -> Tensor:
    tokens = _tokens(model, text)
    edits = []
    if without is not None:
        layer, head = without
        attention = model.config.attention
        if layer >= model.config.n_layers or head >= attention.n_heads:
            raise _CannotError(f"the model has no head {layer}.{head}")
        if attention.kv_heads != attention.n_heads:
            raise _CannotError(f"the values of head {layer}.{head} are shared with other heads in this model")
        edits = [Zero("v", layer=layer, kv_head=head)]
    logits = model.run(tokens, edits=edits, attention="explicit").logits
    return model.loss_fn(logits, tokens)


def _difference(model: HookedTransformer, text: str) -> Tensor:
    right, wrong = (model.to_single_token(name) for name in (" John", " Mary"))
    logits = model.run(_tokens(model, text), logits_at=[-1]).logits[0, 0]
    return logits[right] - logits[wrong]


def _tokens(model: HookedTransformer, text: str) -> Tensor:
    tokens = model.to_tokens(text, truncate=False)
    if tokens.shape[1] > model.config.n_ctx:
        raise _CannotError(f"the text has {tokens.shape[1]} tokens, more than the context of {model.config.n_ctx}")
    return tokens
