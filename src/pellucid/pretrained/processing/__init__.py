"""Changes of the weights that leave the model's probabilities as they are and make its parts easier to read.

Each works in place, tensor by tensor; in half precisions the arithmetic is float32's and is rounded once. Steps apply
where they can: those that were made are listed in the record.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from pellucid.model.decoder import Decoder
from pellucid.model.embed import TiedUnembed
from pellucid.pretrained.processing.center_unembed import center_unembed
from pellucid.pretrained.processing.center_writing_weights import center_writing_weights
from pellucid.pretrained.processing.fold_ln import fold_ln
from pellucid.pretrained.processing.fold_value_biases import fold_value_biases

STEPS: dict[str, Callable[[Decoder], bool]] = {
    "fold_ln": fold_ln,
    "center_writing_weights": center_writing_weights,
    "center_unembed": center_unembed,
    "fold_value_biases": fold_value_biases,
}
"""In the order in which they are made; each says whether it applied."""


@dataclass(frozen=True, kw_only=True)
class Processing:
    """Which steps are made; each only where it applies.

    Args:
        fold_ln: Fold the norms' weights and biases into what reads them.
        center_writing_weights: Take the mean off what writes into the stream, where only LayerNorms read it.
        center_unembed: Take the mean over the vocabulary off `W_U` and `b_U`.
        fold_value_biases: Fold the values' biases into `b_O`.
    """

    fold_ln: bool = True
    center_writing_weights: bool = True
    center_unembed: bool = True
    fold_value_biases: bool = True

    @classmethod
    def none(cls) -> "Processing":
        """The weights as they are in the file."""
        return cls(fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False)


def process(model: Decoder, processing: Processing, *, done: Collection[str] = ()) -> tuple[str, ...]:
    """Makes the steps that are asked for, where they apply.

    Args:
        model: Changed in place, its `config` with it.
        processing: Which steps.
        done: Steps that were made before, and are not made again.

    Returns:
        The steps made, in order; `"untie"` among them where a step gave `W_U` a matrix of its own.
    """
    made: list[str] = []
    for name, step in STEPS.items():
        if not getattr(processing, name) or name in done:
            continue
        tied = isinstance(model.unembed, TiedUnembed)
        if step(model):
            if tied and not isinstance(model.unembed, TiedUnembed):
                made.append("untie")
            made.append(name)
    return tuple(made)
