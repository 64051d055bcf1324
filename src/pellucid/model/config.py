"""Everything that says what a transformer looks like, as one typed value."""

from dataclasses import asdict, dataclass, fields, replace
from types import NoneType
from typing import Any, Literal, TypeAlias, get_args

from pellucid.base.errors import ConfigError, nearest
from pellucid.model.attention import AttentionConfig
from pellucid.model.mlp import MLPConfig
from pellucid.model.norms import LayerNorm, NormConfig, RMSNorm
from pellucid.model.positional import Learned, PositionConfig, Rotary, Shortformer

Architecture: TypeAlias = Literal["decoder", "encoder", "encoder-decoder"]
"""Whether attention sees what comes later, and whether there are two stacks."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """A transformer: decoder-only, unless `architecture` says otherwise.

    Args:
        n_layers: Blocks; 0 is a bigram model.
        d_model: Width of the residual stream.
        d_vocab: Token ids that go in.
        n_ctx: The longest prompt, in tokens.
        attention: The attention of each block.
        mlp: The MLP of each block; None for attention only.
        norm: The norm before each part and at the end; None for none.
        positions: How positions enter; None for not at all.
        d_vocab_out: Logits that come out; None for `d_vocab`.
        tied: Whether `W_U` is `W_E` transposed.
        unembed_bias: Whether there is `b_U`.
        residual: False switches the residual connections off: each part replaces the stream.
        init_range: Standard deviation of fresh weights; None for `0.8/√d_model`.
        embed_init_range: That of fresh embeddings, of tokens and of positions; None: the same.
        architecture: ``"decoder"``: attention to what came before; ``"encoder"``: to both sides; ``"encoder-decoder"``:
            both, each of `n_layers` blocks.

    Raises:
        ConfigError: A value cannot be, or two contradict each other.

    Example:
        >>> attention = AttentionConfig(n_heads=2, d_head=4)
        >>> Config(n_layers=1, d_model=8, d_vocab=5, n_ctx=16, attention=attention).vocab_out
        5
    """

    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    attention: AttentionConfig
    mlp: MLPConfig | None = None
    norm: NormConfig = LayerNorm()
    positions: PositionConfig = Learned()
    d_vocab_out: int | None = None
    tied: bool = False
    unembed_bias: bool = False
    residual: bool = True
    init_range: float | None = None
    embed_init_range: float | None = None
    architecture: Architecture = "decoder"

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            known = get_args(Architecture)
            raise ConfigError(
                f"architecture must be {', '.join(known)}, got {self.architecture!r}{nearest(self.architecture, known)}"
            )
        for name, kinds in _KINDS.items():
            if not isinstance(getattr(self, name), kinds):
                raise ConfigError(_wrong_kind(name, kinds, getattr(self, name)))
        for name, least in (("n_layers", 0), ("d_model", 1), ("d_vocab", 1), ("n_ctx", 1), ("vocab_out", 1)):
            size, called = getattr(self, name), "d_vocab_out" if name == "vocab_out" else name
            if not isinstance(size, int) or isinstance(size, bool):
                raise ConfigError(f"{called} must be a whole number, got {size!r}")
            if size < least:
                raise ConfigError(f"{called} must be {least} or more, got {size}")
        if self.tied and self.vocab_out != self.d_vocab:
            raise ConfigError(
                f"d_vocab_out must be d_vocab={self.d_vocab} where W_U is W_E transposed, got {self.d_vocab_out}; "
                "leave it out, or set tied=False"
            )
        if isinstance(self.positions, Shortformer) and self.positions.layers is not None and self.positions.layers < 1:
            raise ConfigError(
                f"Shortformer layers must be 1 or more, got {self.positions.layers}; None tells all layers"
            )
        if isinstance(self.positions, Rotary):
            dim = self.attention.d_head if self.positions.dim is None else self.positions.dim
            if dim % 2 or not 0 < dim <= self.attention.d_head:
                raise ConfigError(
                    f"Rotary dim must be even and at most d_head={self.attention.d_head}, got {dim}; set its dim"
                )

    @property
    def vocab_out(self) -> int:
        """Number of logits."""
        return self.d_vocab if self.d_vocab_out is None else self.d_vocab_out

    @property
    def deviation(self) -> float:
        """Standard deviation of fresh weights."""
        return 0.8 / self.d_model**0.5 if self.init_range is None else self.init_range

    @property
    def embed_deviation(self) -> float:
        """Standard deviation of fresh embeddings."""
        return self.deviation if self.embed_init_range is None else self.embed_init_range

    def change(self, **changes: Any) -> "Config":
        """A copy with some fields replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; a choice among types is named by `kind`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["attention"] = asdict(self.attention)
        values["mlp"] = None if self.mlp is None else asdict(self.mlp)
        for name in ("norm", "positions"):
            choice = values[name]
            values[name] = None if choice is None else {"kind": type(choice).__name__, **asdict(choice)}
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`.

        Raises:
            ConfigError: A field is unknown, missing, or of an unknown kind.
        """
        values = dict(values)
        values["attention"] = _made(AttentionConfig, values.get("attention"), "attention")
        if values.get("mlp") is not None:
            values["mlp"] = _made(MLPConfig, values["mlp"], "mlp")
        for name, kinds in (("norm", (LayerNorm, RMSNorm)), ("positions", (Learned, Rotary, Shortformer))):
            if values.get(name) is not None:
                values[name] = _chosen(kinds, values[name], name)
        return _made(cls, values, "configuration")


_KINDS: dict[str, tuple[type, ...]] = {
    "attention": (AttentionConfig,),
    "mlp": (MLPConfig, NoneType),
    "norm": (LayerNorm, RMSNorm, NoneType),
    "positions": (Learned, Rotary, Shortformer, NoneType),
}
"""What each part's configuration may be."""


def _wrong_kind(name: str, kinds: tuple[type, ...], found: object) -> str:
    made = [kind.__name__ for kind in kinds if kind is not NoneType]
    offered = " or ".join([*made, "None"] if NoneType in kinds else made)
    return f"{name} must be {offered}, got {found!r}; make one, as in {name}={made[-1]}(...)"


def _made(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be a table of fields, got {values!r}")
    known = [field.name for field in fields(cls)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} has no field {name!r}{nearest(name, known)}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where} lacks a field or has one of a wrong type: {error}") from error


def _chosen(kinds: tuple[type, ...], values: Any, where: str) -> Any:
    kind = values.get("kind") if isinstance(values, dict) else values
    for cls in kinds:
        if cls.__name__ == kind:
            return _made(cls, {k: v for k, v in values.items() if k != "kind"}, where)
    raise ConfigError(f"{where} must be of kind {', '.join(cls.__name__ for cls in kinds)}, got {kind!r}")
