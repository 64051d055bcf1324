"""Models whose weights are set by algebra, not trained: what their heads do is known, so that analyses can be tested.

Each feature (which token, which position, which token came before) has directions of its own in the stream, orthonormal
and of mean zero. So a LayerNorm only scales the stream, and heads that read one feature see nothing of the others.
"""

from pellucid.model.wired.directions import Wired
from pellucid.model.wired.indirect_object import indirect_object
from pellucid.model.wired.induction import induction_pair
from pellucid.model.wired.skip_trigram import skip_trigram

__all__ = ["Wired", "indirect_object", "induction_pair", "skip_trigram"]
