"""What a training run begins with: fresh weights, a model that loads, or parts of others; and what stays as it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from pellucid.base.errors import ConfigError, nearest
from pellucid.base.record import Record
from pellucid.hooked_transformer import HookedTransformer
from pellucid.model.config import Config
from pellucid.model.encoder_decoder import EncoderDecoder
from pellucid.pretrained.names import find
from pellucid.text.learn import LearnedVocabulary
from pellucid.text.read import read_tokenizer
from pellucid.text.tokenizer import Tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from pellucid.train.sentences import sentence_vocabulary
from pellucid.train.text import Text

INTEGERS = "integers"
"""The tokenizer whose tokens are numbers, with BOS 0."""
SENTENCES = "sentences"
"""That of the words of `pellucid.train.sentences`."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """The model that is trained. In a recipe, the fields of `config` stand beside the others.

    Args:
        config: What a model with fresh weights looks like.
        pretrained: Or a model to go on from, by any name that loads; its weights are taken as they are in the file.
        tokenizer: A folder or a name with a tokenizer, ``"integers"``, ``"sentences"``, how to learn one from the
            training text, or nothing: that of the model to go on from, and integers for a fresh one.
        take: Parts that are taken from other models, by name: ``{"embed" = "gpt2", "blocks.0" = "gpt2"}``.
        frozen: Parts that stay as they are, such as ``"embed"``, ``"blocks.0.attn"``.

    Raises:
        ConfigError: Not exactly one of `config` and `pretrained` is given.
    """

    config: Config | None = None
    pretrained: str | None = None
    tokenizer: str | LearnedVocabulary | None = None
    take: dict[str, str] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.config is None) == (self.pretrained is None):
            found = "neither" if self.config is None else "both"
            raise ConfigError(
                f"a model must have the fields of a configuration (n_layers, d_model, …) or pretrained, got {found}; "
                "a model that is gone on from has its own"
            )

    def made(self, *, seed: int, text: Text | None = None, device: torch.device | str | None = None) -> Any:
        """The model, ready to be trained.

        Args:
            seed: Of the fresh weights.
            text: What a tokenizer may be learned from.
            device: Where.

        Raises:
            ConfigError: A part is named that there is not, or does not fit.
            CheckpointError: A model or a tokenizer cannot be loaded.
        """
        if self.config is None:
            loaded = HookedTransformer.from_pretrained_no_processing(str(self.pretrained), device=device)
            if self.tokenizer is not None:
                loaded.tokenizer = self._tokenizer(loaded.config, text)
            model: Any = loaded
        elif self.config.architecture == "encoder-decoder":
            model = EncoderDecoder(self.config, seed=seed).to(device or "cpu")
        else:
            tokenizer = self._tokenizer(self.config, text)
            model = HookedTransformer(self.config, tokenizer, seed=seed, device=device, record=Record(seed=seed))
        for part, name in self.take.items():
            _take(model, part, name)
        for part in self.frozen:
            for parameter in _part(model, part, "frozen").values():
                parameter.requires_grad_(False)
        return model

    def _tokenizer(self, config: Config, text: Text | None) -> Tokenizer:
        if self.tokenizer is None or self.tokenizer == INTEGERS:
            return integer_vocabulary(config.d_vocab)
        if isinstance(self.tokenizer, str):
            found = named_tokenizer(self.tokenizer)
        elif text is None:
            raise ConfigError("a tokenizer can be learned from text alone, and data is none; give data of kind Text")
        else:
            found = self.tokenizer.learned(text.training())
        if len(found) > config.d_vocab:
            raise ConfigError(
                f"model.d_vocab must be as many as the tokenizer has, {len(found)}, or more, got {config.d_vocab}; "
                f"set model.d_vocab={len(found)}"
            )
        return found


def named_tokenizer(name: str) -> Tokenizer:
    """That of a folder or a name; ``"sentences"`` is that of `pellucid.train.sentences`.

    Raises:
        ConfigError: There is none.
        CheckpointError: It cannot be read.
    """
    if name == SENTENCES:
        return sentence_vocabulary()
    folder = find(name, any_folder=True).folder
    found = read_tokenizer(folder)
    if found is None:
        raise ConfigError(f"model.tokenizer must be a folder or a name with a tokenizer, {folder} has none")
    return found


def _take(model: nn.Module, part: str, name: str) -> None:
    """Copies a part's weights out of another model."""
    ours = _part(model, part, "take")
    other = HookedTransformer.from_pretrained_no_processing(name, device="cpu")
    theirs = _part(other, part, f"take, {name}:")
    shapes = [{key: list(p.shape) for key, p in side.items()} for side in (ours, theirs)]
    if shapes[0] != shapes[1]:
        wrong = next(key for key in {**shapes[0], **shapes[1]} if shapes[0].get(key) != shapes[1].get(key))
        raise ConfigError(
            f"model.take: {part} must be alike in both models, but {wrong} is {shapes[0].get(wrong, 'missing')} here "
            f"and {shapes[1].get(wrong, 'missing')} in {name}; give this model the sizes of that one"
        )
    with torch.no_grad():
        for key, parameter in ours.items():
            parameter.copy_(theirs[key])


def _part(model: nn.Module, part: str, where: str) -> Mapping[str, nn.Parameter]:
    """The parameters of a part, by name."""
    named = dict(model.named_parameters())
    found = {name: p for name, p in named.items() if name == part or name.startswith(f"{part}.")}
    if not found:
        parts = {".".join(name.split(".")[:n]) for name in named for n in range(1, 5)}
        raise ConfigError(f"model.{where} must name a part of the model, got {part!r}{nearest(part, sorted(parts))}")
    return found
