"""Pellucid: mechanistic interpretability of transformer language models.

Names are imported when they are first used, so that `import pellucid` costs nothing.
"""

from typing import TYPE_CHECKING

from pellucid.base.lazy import lazy
from pellucid.base.record import VERSION as __version__

if TYPE_CHECKING:
    from pellucid.activation_cache import ActivationCache
    from pellucid.base.tensors import get_device, to_numpy
    from pellucid.hooked_transformer import HookedTransformer
    from pellucid.hooks.edits import Add, Edit, Mean, Noise, Replace, Resample, Scale, Shift, Zero
    from pellucid.hooks.names import get_act_name
    from pellucid.hooks.point import HookPoint
    from pellucid.hooks.site import Site
    from pellucid.maths.factored import FactoredMatrix
    from pellucid.measurement import Measurement
    from pellucid.model.attention import AttentionConfig
    from pellucid.model.config import Config
    from pellucid.model.encoder import Encoder
    from pellucid.model.encoder_decoder import EncoderDecoder
    from pellucid.model.mlp import MLPConfig
    from pellucid.model.norms import LayerNorm, RMSNorm
    from pellucid.model.past import KeyValueCache
    from pellucid.model.positional import Learned, Rotary, Shortformer

_HOMES = {
    "pellucid.activation_cache": ["ActivationCache"],
    "pellucid.base.tensors": ["get_device", "to_numpy"],
    "pellucid.hooked_transformer": ["HookedTransformer"],
    "pellucid.hooks.edits": ["Add", "Edit", "Mean", "Noise", "Replace", "Resample", "Scale", "Shift", "Zero"],
    "pellucid.hooks.names": ["get_act_name"],
    "pellucid.hooks.point": ["HookPoint"],
    "pellucid.hooks.site": ["Site"],
    "pellucid.maths.factored": ["FactoredMatrix"],
    "pellucid.measurement": ["Measurement"],
    "pellucid.model.attention": ["AttentionConfig"],
    "pellucid.model.config": ["Config"],
    "pellucid.model.encoder": ["Encoder"],
    "pellucid.model.encoder_decoder": ["EncoderDecoder"],
    "pellucid.model.mlp": ["MLPConfig"],
    "pellucid.model.norms": ["LayerNorm", "RMSNorm"],
    "pellucid.model.past": ["KeyValueCache"],
    "pellucid.model.positional": ["Learned", "Rotary", "Shortformer"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ActivationCache",
    "Add",
    "AttentionConfig",
    "Config",
    "Edit",
    "Encoder",
    "EncoderDecoder",
    "FactoredMatrix",
    "HookPoint",
    "HookedTransformer",
    "KeyValueCache",
    "LayerNorm",
    "Learned",
    "MLPConfig",
    "Mean",
    "Measurement",
    "Noise",
    "RMSNorm",
    "Replace",
    "Resample",
    "Rotary",
    "Scale",
    "Shift",
    "Shortformer",
    "Site",
    "Zero",
    "__version__",
    "get_act_name",
    "get_device",
    "to_numpy",
]


__getattr__ = lazy(__name__, _HOME_OF)


def __dir__() -> list[str]:
    return __all__
