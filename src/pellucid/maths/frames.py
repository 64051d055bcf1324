"""From prompts to independent units: prompts of one template (a frame) are not independent of each other.

In: effects ``[prompt *cells]`` and, where prompts share templates, the frame of each prompt. Out: one number a frame,
the mean over its prompts. Everything that resamples, permutes or flips signs does so with these, and so with all
prompts of a frame together. Frames weigh the same however many prompts each has: what is asked is how the effect holds
for a further frame, and a frame is not surer of that for being repeated.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from pellucid.base.errors import ArgumentError


@dataclass(frozen=True)
class Frames:
    """Which prompts belong together."""

    ids: tuple[Hashable, ...]
    """Each frame once, in the order in which they first occur."""
    order: Int[np.ndarray, " prompt"]
    """The prompts, those of the first frame first."""
    starts: Int[np.ndarray, " frame"]
    """Where in `order` each frame begins."""

    @classmethod
    def of(cls, frames: Sequence[Hashable] | Shaped[np.ndarray, "..."], prompts: int) -> "Frames":
        """Reads one id a prompt.

        Raises:
            ArgumentError: Not as many ids as prompts, or ids that cannot be compared.

        Example:
            >>> Frames.of(["gave", "handed", "gave"], 3).ids
            ('gave', 'handed')
        """
        given = frames.tolist() if isinstance(frames, np.ndarray) else list(frames)
        if not isinstance(given, list) or len(given) != prompts:
            found = f"{len(given)} ids" if isinstance(given, list) else "one id"
            raise ArgumentError(f"frames must have one id for each prompt, got {found} for {prompts} prompts")
        if any(not isinstance(one, Hashable) for one in given):
            raise ArgumentError("frames must be names or numbers, one for each prompt, got lists; give [prompt] ids")
        index = {one: place for place, one in enumerate(dict.fromkeys(given))}
        places = np.array([index[one] for one in given], dtype=np.int64)
        starts = np.searchsorted(np.sort(places), np.arange(len(index)))
        return cls(tuple(index), np.argsort(places, kind="stable"), starts)

    def means(self, x: Float[np.ndarray, "prompt cells"]) -> Float[np.ndarray, "frame cells"]:
        """The mean over the prompts of each frame; what is not finite stays in its frame and cell.

        Example:
            >>> Frames.of(["gave", "handed", "gave"], 3).means(np.array([[1.0], [5.0], [3.0]]))
            array([[2.],
                   [5.]])
        """
        counts = np.diff(self.starts, append=len(self.order))
        with np.errstate(invalid="ignore", over="ignore"):
            return np.add.reduceat(x[self.order], self.starts, axis=0) / counts[:, None]


def real_numbers(x: Tensor | np.ndarray) -> Shaped[np.ndarray, "..."]:
    """As numpy knows them: on the CPU, and no bfloat16.

    Raises:
        ArgumentError: Not real numbers.
    """
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    if x.dtype.kind not in "fiub":
        raise ArgumentError(f"x must hold real numbers, got {x.dtype}; give one number a prompt and cell")
    return x


def by_prompt(x: Tensor | np.ndarray) -> Shaped[np.ndarray, "..."]:
    """Real numbers with one prompt or more on their first axis.

    Raises:
        ArgumentError: They are not.
    """
    numbers = real_numbers(x)
    if numbers.ndim == 0 or len(numbers) == 0:
        raise ArgumentError(
            f"x must have one prompt or more on its first axis, got shape {list(numbers.shape)}; "
            "give the effects [prompt *cells]"
        )
    return numbers
