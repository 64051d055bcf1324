"""Where tensors live, and how they become arrays."""

from typing import Any

import numpy as np
import torch


def get_device() -> torch.device:
    """The best device here: CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def to_numpy(values: Any) -> np.ndarray:
    """An array of a tensor (detached, on the CPU; bfloat16 becomes float32), a number or a sequence.

    Example:
        >>> to_numpy(torch.tensor([1.5], dtype=torch.bfloat16, requires_grad=True))
        array([1.5], dtype=float32)
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if isinstance(values, (list, tuple)) and any(isinstance(value, torch.Tensor) for value in values):
        return np.stack([to_numpy(value) for value in values])
    return np.asarray(values)
