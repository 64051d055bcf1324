"""What models of every architecture have: a configuration, a way in and a way out, fresh weights, and runs as values.

`Transformer` is the root of all; `Stack` is what the decoder and the encoder share, one stack of blocks. What a model
does with tokens is its own `forward`.
"""

from typing import ClassVar

from pellucid.base.errors import ConfigError
from pellucid.hooks.point import HookPoint
from pellucid.hooks.root import HookedRoot
from pellucid.model.config import Architecture, Config
from pellucid.model.embed import Embed
from pellucid.model.positional import Rotary, RotaryTable

CLASSES: dict[Architecture, str] = {
    "decoder": "HookedTransformer",
    "encoder": "Encoder",
    "encoder-decoder": "EncoderDecoder",
}
"""What people make of a configuration, by its architecture."""


class Transformer(HookedRoot):
    """A model with hook points, whatever its architecture.

    Args:
        config: What it looks like.

    Raises:
        ConfigError: The configuration is of another architecture.
    """

    architecture: ClassVar[Architecture]
    """Of the configurations that the class takes."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not isinstance(config, Config):
            raise ConfigError(
                f"config must be a pellucid.Config, got {type(config).__name__}; Config.from_dict reads a table"
            )
        if config.architecture != self.architecture:
            other = CLASSES[config.architecture]
            raise ConfigError(
                f"{type(self).__name__} must be given a Config of architecture={self.architecture!r}, got "
                f"{config.architecture!r}; use {other}, which pellucid.pretrained.load.load(folder, make={other}) "
                "reads from a folder"
                if config.architecture != "decoder"
                else f"{type(self).__name__} must be given a Config of architecture={self.architecture!r}, got "
                f"{config.architecture!r}; use {other}, or change the Config's architecture"
            )
        self.config = config
        self.embed = Embed(config.d_vocab, config.d_model)
        self.hook_embed = HookPoint()
        self.rotary = None
        if isinstance(config.positions, Rotary):
            self.rotary = RotaryTable(config.attention.d_head, config.positions)
