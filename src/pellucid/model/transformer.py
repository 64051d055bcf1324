"""What models of every architecture have: a configuration, fresh weights, tied or untied, and runs as values.

What a model does with tokens is its own `forward`. `Stack` adds what the decoder and the encoder share: one stack of
blocks between an embedding and an unembedding.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pellucid.base.errors import ArgumentError, CheckpointError, ConfigError, TokenError
from pellucid.hooks.edits import Edit
from pellucid.hooks.names import Filter, select
from pellucid.hooks.point import HookPoint, at, call
from pellucid.hooks.root import HookedRoot
from pellucid.hooks.run import LiveRun, Run
from pellucid.model.attention import Attention
from pellucid.model.block import Block
from pellucid.model.config import Architecture, Config
from pellucid.model.embed import Embed, TiedUnembed, Unembed
from pellucid.model.norms import make_norm
from pellucid.model.past import Span
from pellucid.model.positional import Added, Learned, PosEmbed, Rotary, RotaryTable, Shortformer
from pellucid.model.state import from_2_18
from pellucid.model.weights import Weights

CLASSES: dict[Architecture, str] = {
    "decoder": "HookedTransformer",
    "encoder": "Encoder",
    "encoder-decoder": "EncoderDecoder",
}
"""The class that a configuration of each architecture is for."""


class Transformer(HookedRoot):
    """A model with hook points, whatever its architecture.

    Args:
        config: What it looks like.

    Raises:
        ConfigError: The configuration is of another architecture.
    """

    architecture: ClassVar[Architecture]
    """Of the configurations that a class takes."""
    embed: Embed
    unembed: Unembed

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.architecture != self.architecture:
            raise ConfigError(
                f"{type(self).__name__} needs a configuration of architecture {self.architecture!r}, got "
                f"{config.architecture!r}; use {CLASSES[config.architecture]}"
            )
        self.config = config
        self.rotary = None
        if isinstance(config.positions, Rotary):
            self.rotary = RotaryTable(config.attention.d_head, config.positions)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    def run(
        self,
        *inputs: Any,
        edits: Edit | Sequence[Edit] = (),
        reads: Filter = (),
        attention: str = "auto",
        **more: Any,
    ) -> Run:
        """A run as a value: with edits made and activations read, leaving nothing behind.

        Args:
            *inputs: As for a call of the model.
            edits: One, or several, applied in their order.
            reads: Which activations to give back: names, short names (every layer), shorthands, a callable on names, or
                None for all.
            attention: `"auto"` takes the fused forms wherever nobody listens inside; `"explicit"` never does, so that a
                value does not depend, in its last digits, on what else is read, and derivatives of any order exist.
            **more: As for a call of the model.

        Returns:
            Logits (the stream where it stopped early), and the activations read, by full name, detached.

        Raises:
            UnknownNameError: An edit or a read means no hook point.
        """
        if attention not in ("auto", "explicit"):
            raise ArgumentError(f"attention must be 'auto' or 'explicit', got {attention!r}")
        live = self.live_run(explicit=attention == "explicit")
        for edit in [edits] if isinstance(edits, Edit) else edits:
            for name, placed in edit.resolve(self).items():
                live.add_edit(name, placed.apply)
        cache: dict[str, Tensor] = {}
        nothing = not isinstance(reads, str) and isinstance(reads, Sequence) and not reads
        for name in [] if nothing else select(self.hook_names, reads):
            live.add_reader(name, lambda x, point: cache.__setitem__(point.name, x.detach()))
        out = self(*inputs, run=live, **more)
        return Run(out, cache, live.mask)

    def run_with_cache(self, *inputs: Any, names_filter: Filter = None, **more: Any) -> Any:
        """A forward pass, and its activations.

        Args:
            *inputs: As for a call of the model.
            names_filter: Which activations: names, short names (every layer), shorthands, a callable on names; None for
                all.
            **more: As for a call of the model.

        Returns:
            (what a call gives, the activations by full name, detached).

        Raises:
            UnknownNameError: `names_filter` means no hook point.
        """
        ran = self.run(*inputs, reads=names_filter, attention="explicit", **more)
        return ran.logits, dict(ran.cache)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Takes weights by their names, those of TransformerLens 2.18 included (see `model/state.py`).

        A tied unembedding becomes one of its own where the state has another `W_U`, once all else has been taken.
        """
        ours = from_2_18(state_dict, dict(self.named_parameters()), self.unembed)
        own = ours.pop("unembed.W_U", None) if isinstance(self.unembed, TiedUnembed) else None
        if own is not None and own.shape != self.unembed.W_U.shape:
            raise CheckpointError(
                f"unembed.W_U must be {list(self.unembed.W_U.shape)}, got {list(own.shape)}; load weights of the same "
                "model"
            )
        result = super().load_state_dict(ours, strict, assign)
        if own is not None and isinstance(self.unembed, TiedUnembed):
            with torch.no_grad():
                self.unembed.load(own, assign=assign)
        for module in self.modules():
            if isinstance(module, Attention):
                module.lay_out()
        return result

    def setup(self) -> None:
        """Reads the module tree anew, after a module was put in or taken out."""
        super().setup()
        if isinstance(self.unembed, TiedUnembed):
            self.unembed._embed = (self.embed,)

    def draw_weights(self, seed: int | None = None) -> None:
        """Draws every weight matrix anew from a normal distribution; biases become zero."""
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                last = name.rsplit(".", 1)[-1]
                if last in ("W_E", "W_pos"):
                    parameter.normal_(std=self.config.embed_deviation, generator=generator)
                elif last.startswith("W_"):
                    parameter.normal_(std=self.config.deviation, generator=generator)
                elif last.startswith("b"):
                    parameter.zero_()

    def _unembedding(self) -> Unembed:
        config = self.config
        if config.tied:
            return TiedUnembed(self.embed, bias=config.unembed_bias)
        return Unembed(config.d_model, config.vocab_out, bias=config.unembed_bias)

    def _vectors(self, tokens: Tensor, run: LiveRun | None) -> Float[Tensor, "batch pos d_model"]:
        try:
            return call(self.embed, tokens, run=run)
        except IndexError as error:
            raise TokenError(
                f"token ids must lie in 0..{self.config.d_vocab - 1}, got {int(tokens.min())}..{int(tokens.max())}; "
                "use the model's own tokenizer"
            ) from error

    def embedded(
        self, tokens: Tensor, span: Span, run: LiveRun | None = None, *, side: str = ""
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream before the first block.

        Args:
            tokens: Token ids `[batch pos]`.
            span: Where they stand.
            run: Who listens.
            side: What stands before `embed` and `pos_embed` in the names of this side's points and parts.
        """
        x = at(getattr(self, f"hook_{side}embed"), self._vectors(tokens, run), run)
        return x + self._places(x, span, run, side) if isinstance(self.config.positions, Learned) else x

    def place(self, x: Tensor, span: Span, run: LiveRun | None = None, *, side: str = "") -> None:
        """Tells attention where the rows of a span stand; see `embedded`."""
        if self.rotary is not None and span.positions is not None:
            span.placing = self.rotary.at(span.positions, self.config.n_ctx, x)
        elif self.rotary is not None:
            span.placing = self.rotary.between(span.first, span.first + span.n_rows, x)
        elif isinstance(self.config.positions, Shortformer):
            span.placing = Added(self._places(x, span, run, side), self.config.positions.layers)

    def _places(self, x: Tensor, span: Span, run: LiveRun | None, side: str) -> Float[Tensor, "batch pos d_model"]:
        """The vectors of the positions where rows stand."""
        pos_embed = getattr(self, f"{side}pos_embed")
        if span.positions is not None:
            vectors = pos_embed(span.positions).expand_as(x)
        else:
            vectors = pos_embed.between(span.first, span.first + span.n_rows).expand_as(x)
            if run is not None:  # what it shows must not be the weight itself
                vectors = vectors.clone()
        return at(getattr(self, f"hook_{side}pos_embed"), vectors, run)


class Stack(Transformer, Weights):
    """One stack of blocks.

    Args:
        config: What it looks like.
        seed: Of the fresh weights; None draws from torch's own random state.
    """

    blocks: Sequence[Block]

    def __init__(self, config: Config, *, seed: int | None = None) -> None:
        super().__init__(config)
        self.embed = Embed(config.d_vocab, config.d_model)
        self.hook_embed = HookPoint()
        if isinstance(config.positions, Learned | Shortformer):
            self.pos_embed = PosEmbed(config.n_ctx, config.d_model)
            self.hook_pos_embed = HookPoint()
        blocks = nn.ModuleList([Block(config, layer) for layer in range(config.n_layers)])
        self.blocks = cast(Sequence[Block], blocks)
        self.ln_final = make_norm(config.d_model, config.norm)
        self.unembed = self._unembedding()
        self.setup()
        if not self.embed.W_E.is_meta:
            self.draw_weights(seed)


def check_tokens(tokens: Tensor, what: str = "tokens", *, otherwise: str = "") -> None:
    """Whether these are token ids.

    Args:
        tokens: What was given.
        what: Its name in the call.
        otherwise: What else could be given, for the message.

    Raises:
        ArgumentError: They are not `[batch pos]` integers.
    """
    if tokens.ndim != 2 or tokens.is_floating_point():
        raise ArgumentError(f"{what} must be integers [batch pos], got {tokens.dtype} {list(tokens.shape)}{otherwise}")
