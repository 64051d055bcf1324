"""Reading a model in bulk: how many prompts at once, and whether they begin as they should."""

import warnings
from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from pellucid.base.errors import MisreadWarning, TokenError
from pellucid.hooked_transformer import HookedTransformer

NUMBERS = 2**25
"""Numbers that a pass may hold at once in its largest tensor: 128 MB of float32."""


def chunks(tokens: Int[Tensor, "batch pos"], *, widest: int) -> Iterator[slice]:
    """Parts of a batch that fit in memory together, as slices of its prompts.

    Args:
        tokens: The batch.
        widest: Numbers that the largest tensor of a pass has for each position.
    """
    size = max(1, NUMBERS // (max(1, tokens.shape[1]) * widest))
    for start in range(0, len(tokens), size):
        yield slice(start, start + size)


def starts_with_bos(model: HookedTransformer, tokens: Int[Tensor, "batch pos"], *, may_lack: bool = False) -> bool:
    """Whether every prompt begins with the model's BOS; warns where it has one that they lack.

    Args:
        model: Of which.
        tokens: The prompts.
        may_lack: They may lack BOS although the tokenizer's policy asks for it: that was asked for.

    Raises:
        TokenError: They lack BOS, and the tokenizer's policy asks for it.
    """
    policy = model.policy
    if policy is None or policy.bos_id is None:
        return False
    lacking = int((tokens[:, 0] != policy.bos_id).sum())
    if not lacking:
        return True
    if policy.prepend_bos and not may_lack:
        raise TokenError(
            f"tokens must start with BOS, id {policy.bos_id}, as this model's tokenizer asks, but {lacking} of "
            f"{len(tokens)} prompts do not; make them with to_tokens, or give the tokenizer a policy without BOS"
        )
    warnings.warn(
        f"{lacking} of {len(tokens)} prompts lack BOS, id {policy.bos_id}, which this model has: heads that rest there "
        "when nothing matches rest elsewhere",
        MisreadWarning,
        stacklevel=3,
    )
    return False


def about_bos(model: HookedTransformer, *, left_out: bool = False) -> str:
    """A sentence on what stands before random tokens, and why.

    Args:
        model: Of which.
        left_out: Whether BOS was left out on purpose.
    """
    policy = model.policy
    if left_out and policy is not None:
        return f"BOS (id {policy.bos_id}) was left out, as asked."
    if policy is None:
        return "This model has no tokenizer, so no BOS is known: none was added."
    if policy.bos_id is None:
        return "This model has no BOS: none was added."
    if not policy.prepend_bos:
        return "This model's tokenizer puts no BOS before a text: none was added."
    return f"BOS (id {policy.bos_id}) stands in front, as this model's tokenizer asks."
