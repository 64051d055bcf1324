"""Changes of the weights that leave the model's probabilities as they are and make its parts easier to read."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Processing:
    """Which steps are made; each only where it applies.

    Args:
        fold_ln: Fold the norms' weights and biases into what reads them.
        center_writing_weights: Take the mean off what writes into the stream.
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


def process(model, processing, *, done=()):
    return ()
