"""Rows times a weight matrix, by the quickest product that torch has for them.

On a CPU, in float32 and without gradients, large products go to oneDNN, by the operator that `torch.compile` calls
there: some 1.3 times the speed of what `F.linear` calls, on rows and weights as they lie, activation functions
included. Wherever that does not hold, `F.linear`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

LEAST = 2**25  # multiplications, below which making oneDNN's kernel for a new shape costs more than it saves


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU in its tanh form, as GPT-2 has it."""
    return F.gelu(x, approximate="tanh")


KNOWN = {F.relu: ("relu", ""), F.silu: ("swish", ""), F.gelu: ("gelu", "none"), gelu_tanh: ("gelu", "tanh")}
"""Activation functions that oneDNN makes in the same step, and what it calls them."""
THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(
    x: Float[Tensor, "*rows d_in"],
    W: Float[Tensor, "d_out d_in"],
    b: Float[Tensor, " d_out"] | None = None,
    act: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "*rows d_out"]:
    """`x W^T + b`, as `F.linear` has it, and an activation function of that."""
    if x.numel() * len(W) < LEAST or not _quickly(x, W, b):
        out = F.linear(x, W, b)
        return out if act is None else act(out)
    if act is None or act in KNOWN:
        name, form = ("none", "") if act is None else KNOWN[act]
        return torch.ops.mkldnn._linear_pointwise(x, W, b, name, [], form)
    return act(torch.ops.mkldnn._linear_pointwise(x, W, b, "none", [], ""))


def _quickly(x: Tensor, W: Tensor, b: Tensor | None) -> bool:
    """Whether it holds; the operator knows no derivative of any kind, and no transform of `torch.func`."""
    if torch.compiler.is_compiling() or not THERE:  # a compiler chooses for itself
        return False
    parts = (x, W) if b is None else (x, W, b)
    if not all(part.is_cpu and part.dtype == torch.float32 for part in parts) or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
        return False
    transform = torch._C._functorch.peek_interpreter_stack()  # pyright: ignore[reportAttributeAccessIssue]
    return forward_ad._current_level < 0 and transform is None
