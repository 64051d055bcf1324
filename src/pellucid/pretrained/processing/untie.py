"""A tied unembedding gets a matrix of its own, so that either can change without the other."""

from pellucid.model.decoder import Decoder
from pellucid.model.embed import TiedUnembed


def untie(model: Decoder) -> bool:
    """Copies `W_E` into a `W_U` of its own, if they are one matrix; says whether they were."""
    if not isinstance(model.unembed, TiedUnembed):
        return False
    model.unembed.untie(model.embed.W_E.detach().clone().T)
    model.config = model.config.change(tied=False)
    return True
