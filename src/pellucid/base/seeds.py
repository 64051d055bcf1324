"""Randomness that can be repeated."""

import torch


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator of its own: drawing from it leaves everybody else's numbers as they were."""
    return torch.Generator(device=device).manual_seed(seed)
