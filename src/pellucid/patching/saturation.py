"""The softmax of attention taken anew, where a gradient would see a saturated one as flat: the QK fix of AtP*.

Source: Kramár et al. 2024, "AtP*: An efficient and scalable method for localizing LLM behaviour to components".
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pellucid.model.attention import Attention, pattern_of

QK = tuple[Float[Tensor, "prompt pos head d_head"], Float[Tensor, "prompt pos kv_head d_head"]]


def changed_by_softmax(
    attn: Attention,
    old: QK,
    new: QK,
    gradient: Float[Tensor, "prompt head q_pos k_pos"],
    *,
    which: str,
    single: bool,
) -> Float[Tensor, "prompt pos heads"]:
    """What each head's queries or keys add to an estimate by way of the pattern, linear only behind it.

    Args:
        attn: Whose.
        old: Queries and keys of the unpatched run, as attention takes them.
        new: Those that are put in.
        gradient: Of the metric, at the pattern.
        which: ``"q"`` or ``"k"``.
        single: Whether keys are put in at one position each; else at all at once, told at the first position.
    """
    places = torch.arange(old[0].shape[1], device=gradient.device)
    visible = (places <= places[:, None])[None, None]
    before = attn.scores(*old, visible)
    after = attn.scores(*((new[0], old[1]) if which == "q" else (old[0], new[1])), visible)
    pattern = pattern_of(before)
    if which == "q":
        return ((pattern_of(after) - pattern) * gradient).sum(-1).mT
    if single:
        by_head = _one_key(before, after, pattern, gradient).sum(-2)
    else:
        by_head = torch.zeros_like(gradient[:, :, 0])
        by_head[..., 0] = ((pattern_of(after) - pattern) * gradient).sum((-1, -2))
    return by_head.unflatten(1, (attn.config.kv_heads, -1)).sum(2).mT


def _one_key(
    before: Tensor, after: Tensor, pattern: Tensor, gradient: Tensor
) -> Float[Tensor, "prompt head q_pos k_pos"]:
    """The change where the key at one position alone is another: its weight grows, all others shrink alike.

    Of a query's strongest key, beside which the others may be too small to tell, the softmax is taken anew.
    """
    mean = (pattern * gradient).sum(-1, keepdim=True)
    others = before.logsumexp(-1, keepdim=True) + torch.log1p(-pattern)  # of the exponentials of all other scores
    weight = torch.sigmoid(after - others)
    strongest = before.argmax(-1, keepdim=True)
    anew = pattern_of(before.scatter(-1, strongest, after.gather(-1, strongest)))
    change = ((anew - pattern) * gradient).sum(-1, keepdim=True)
    changes = (weight - pattern) * (gradient - mean) / (1 - pattern)
    return changes.scatter(-1, strongest, change)
