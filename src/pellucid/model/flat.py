"""`model.cfg`: the configuration as one flat, read-only list of fields, under the names of TransformerLens 2.18."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pellucid.base.errors import ConfigError, PellucidError, nearest
from pellucid.model.norms import LayerNorm, RMSNorm
from pellucid.model.positional import Learned, Rotary, Shortformer

if TYPE_CHECKING:
    from pellucid.model.decoder import Decoder


class UnknownFieldError(PellucidError, AttributeError):
    """A field that the configuration has not."""


def _normalisation(model: "Decoder") -> str | None:
    match model.config.norm:
        case LayerNorm(affine=affine):
            return "LN" if affine else "LNPre"
        case RMSNorm(affine=affine):
            return "RMS" if affine else "RMSPre"
    return None


_POSITIONS = {Learned: "standard", Rotary: "rotary", Shortformer: "shortformer"}


def _rotary(field: str) -> Callable[["Decoder"], Any]:
    def read(model: "Decoder") -> Any:
        positions = model.config.positions
        if not isinstance(positions, Rotary):
            return None
        return positions.base if field == "base" else positions.dim or model.config.attention.d_head

    return read


def _mlp(field: str, otherwise: Any = None) -> Callable[["Decoder"], Any]:
    return lambda model: otherwise if model.config.mlp is None else getattr(model.config.mlp, field)


FIELDS: dict[str, Callable[["Decoder"], Any]] = {
    "n_layers": lambda m: m.config.n_layers,
    "d_model": lambda m: m.config.d_model,
    "d_head": lambda m: m.config.attention.d_head,
    "n_heads": lambda m: m.config.attention.n_heads,
    "n_key_value_heads": lambda m: m.config.attention.n_kv_heads,
    "d_mlp": _mlp("d_mlp"),
    "act_fn": _mlp("act"),
    "gated_mlp": _mlp("gated", False),
    "attn_only": lambda m: m.config.mlp is None,
    "d_vocab": lambda m: m.config.d_vocab,
    "d_vocab_out": lambda m: m.config.vocab_out,
    "n_ctx": lambda m: m.config.n_ctx,
    "attn_scale": lambda m: 1.0 / m.config.attention.factor,
    "use_attn_scale": lambda m: m.config.attention.factor != 1.0,
    "attention_dir": lambda m: "causal",
    "normalization_type": _normalisation,
    "eps": lambda m: None if m.config.norm is None else m.config.norm.eps,
    "final_rms": lambda m: isinstance(m.config.norm, RMSNorm),
    "positional_embedding_type": lambda m: _POSITIONS.get(type(m.config.positions)),  # none: no positions
    "rotary_dim": _rotary("dim"),
    "rotary_base": _rotary("base"),
    "tie_word_embeddings": lambda m: "W_U" not in m.unembed._parameters,
    "parallel_attn_mlp": lambda m: False,
    "init_range": lambda m: m.config.deviation,
    "device": lambda m: m.device,
    "dtype": lambda m: m.dtype,
}


_SWITCHES = {
    "use_attn_result": "result",
    "use_split_qkv_input": "q_input",
    "use_attn_in": "attn_in",
    "use_hook_mlp_in": "mlp_in",
}
"""Fields of 2.18 that had points computed, and such a point."""


def _needless(name: str) -> str:
    return f"{name} needs no switch here: name the point, e.g. names_filter={_SWITCHES[name]!r}"


class FlatConfig:
    """A view: it says what the model is now, so `device` and `dtype` follow `.to()`.

    Args:
        model: The model that it describes.
        more: Fields that lie outside the configuration, such as the model's name, and how each is read.
    """

    def __init__(self, model: "Decoder", more: dict[str, Callable[[Any], Any]] | None = None) -> None:
        object.__setattr__(self, "_model", model)
        object.__setattr__(self, "_more", more or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by copy and pickle before there is a model to look at
            raise AttributeError(name)
        if name in FIELDS:
            return FIELDS[name](self._model)
        if name in self._more:
            return self._more[name](self._model)
        if name in _SWITCHES:
            raise UnknownFieldError(_needless(name))
        raise UnknownFieldError(f"cfg has no field {name!r}{nearest(name, [*FIELDS, *self._more])}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SWITCHES:
            raise ConfigError(_needless(name))
        raise ConfigError(
            f"cfg is read-only, got {name}={value!r}; make a model of another Config, or use .to() for device and dtype"
        )

    def __dir__(self) -> list[str]:
        return [*FIELDS, *self._more]

    def to_dict(self) -> dict[str, Any]:
        """All fields."""
        return {name: getattr(self, name) for name in self.__dir__()}

    def __repr__(self) -> str:
        return "\n".join(["cfg:", *(f"  {name}: {value}" for name, value in self.to_dict().items())])
