"""The encoder–decoder: one stack reads a source, another writes, attending to what it wrote and to what was read."""

from collections.abc import Sequence
from typing import cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pellucid.base.errors import ArgumentError
from pellucid.hooks.point import HookPoint, at, call
from pellucid.hooks.run import LiveRun
from pellucid.model.attention import Attention
from pellucid.model.block import Block
from pellucid.model.config import Config
from pellucid.model.embed import Embed
from pellucid.model.norms import make_norm
from pellucid.model.past import Span, cross_span, make_span
from pellucid.model.positional import Learned, PosEmbed, Shortformer
from pellucid.model.transformer import Transformer, check_tokens


class CrossBlock(Block):
    """A block of the decoder: attention, then attention to the source, then the MLP.

    ``ln1 attn``, ``ln2 cross_attn``, and where there is an MLP, ``ln3 mlp``.
    """

    def __init__(self, config: Config, layer: int) -> None:
        super().__init__(config, layer)
        if self.mlp is not None:
            self.ln3 = self.ln2
        self.ln2 = make_norm(config.d_model, config.norm)
        self.cross_attn = Attention(config.d_model, config.attention, layer=layer, rotary=False)
        self.hook_resid_mid, self.hook_cross_attn_out = HookPoint(), HookPoint()
        if self.mlp is not None:
            self.hook_resid_mid_cross = HookPoint()

    def forward(
        self,
        x: Float[Tensor, "batch pos d_model"],
        span: Span,
        source: Float[Tensor, "batch k_pos d_model"],
        across: Span,
        run: LiveRun | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after the block.

        Args:
            x: The stream before it.
            span: Where its rows stand.
            source: What the encoder made of the source.
            across: What they may see of it.
            run: Who listens.
        """
        x = at(self.hook_resid_pre, x, run)
        x = self.joined(x, at(self.hook_attn_out, self._attention(x, span, run), run))
        x = at(self.hook_resid_mid, x, run)
        out = call(self.cross_attn, call(self.ln2, x, run=run), across, source, source, run=run)
        x = self.joined(x, at(self.hook_cross_attn_out, out, run))
        if self.mlp is not None:
            x = at(self.hook_resid_mid_cross, x, run)
            read = call(self.ln3, at(self.hook_mlp_in, x, run), run=run)
            x = self.joined(x, at(self.hook_mlp_out, call(self.mlp, read, run=run), run))
        return at(self.hook_resid_post, x, run)


class EncoderDecoder(Transformer):
    """A transformer that writes after what it has read.

    Hook points are named as in TransformerLens 2.18: ``encoder.L.…`` as a block's, ``decoder.L.…`` with ``cross_attn``
    beside ``attn``. Both sides share `embed`; each has learned positions of its own, if any: `pos_embed` is the
    encoder's, `decoder_pos_embed` the decoder's, and `hook_embed hook_pos_embed` show the source,
    `hook_decoder_embed hook_decoder_pos_embed` what is written. Cross-attention knows no positions.

    Args:
        config: What both stacks look like, of ``architecture="encoder-decoder"``; each has `n_layers` blocks.
        seed: Of the fresh weights; None draws from torch's own random state.

    Raises:
        ConfigError: The configuration is of another architecture.

    Example:
        >>> import torch
        >>> from pellucid import AttentionConfig, Config
        >>> sizes = {"n_layers": 1, "d_model": 8, "d_vocab": 5, "n_ctx": 4}
        >>> attention = AttentionConfig(n_heads=2, d_head=4)
        >>> model = EncoderDecoder(Config(**sizes, attention=attention, architecture="encoder-decoder"), seed=0)
        >>> source, tokens = torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1]])
        >>> run = model.run(source, tokens, reads=["decoder.0.cross_attn.hook_pattern"])
        >>> run.logits.shape, run.cache["decoder.0.cross_attn.hook_pattern"].shape
        (torch.Size([1, 2, 5]), torch.Size([1, 2, 2, 3]))
    """

    architecture = "encoder-decoder"

    def __init__(self, config: Config, *, seed: int | None = None) -> None:
        super().__init__(config)
        layers = range(config.n_layers)
        self.embed = Embed(config.d_vocab, config.d_model)
        self.hook_embed, self.hook_decoder_embed = HookPoint(), HookPoint()
        if isinstance(config.positions, Learned | Shortformer):
            self.pos_embed = PosEmbed(config.n_ctx, config.d_model)
            self.decoder_pos_embed = PosEmbed(config.n_ctx, config.d_model)
            self.hook_pos_embed, self.hook_decoder_pos_embed = HookPoint(), HookPoint()
        self.encoder = cast(Sequence[Block], nn.ModuleList([Block(config, layer) for layer in layers]))
        self.encoder_final_ln = make_norm(config.d_model, config.norm)
        self.decoder = cast(Sequence[CrossBlock], nn.ModuleList([CrossBlock(config, layer) for layer in layers]))
        self.decoder_final_ln = make_norm(config.d_model, config.norm)
        self.unembed = self._unembedding()
        self.setup()
        if not self.embed.W_E.is_meta:
            self.draw_weights(seed)

    def forward(
        self,
        source: Int[Tensor, "batch k_pos"],
        tokens: Int[Tensor, "batch pos"],
        *,
        source_mask: Bool[Tensor, "batch k_pos"] | Int[Tensor, "batch k_pos"] | None = None,
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        unembed: bool = True,
        run: LiveRun | None = None,
    ) -> Float[Tensor, "batch pos d_out"]:
        """One pass of both stacks.

        Args:
            source: Token ids that are read.
            tokens: Token ids that were written, BOS first.
            source_mask: True (or 1) at real tokens of the source.
            attention_mask: True (or 1) at real tokens that were written.
            unembed: False ends at the final norm, without logits.
            run: Who listens.

        Returns:
            Logits `[batch pos d_vocab]` of what is written next.

        Raises:
            ArgumentError: Tokens do not fit the context or each other, or a mask does not fit them.
            TokenError: A token that the vocabulary lacks.
        """
        read, reading = self.encoded(source, source_mask=source_mask, run=run)
        check_tokens(tokens)
        if len(tokens) != len(source):
            raise ArgumentError(
                f"source and tokens must be of as many prompts, got {len(source)} and {len(tokens)}; "
                "repeat one that serves all"
            )
        span = self._span(tokens, attention_mask, causal=True)
        if run is not None:
            run.mask = span.keys_mask
        x = self.embedded(tokens, span, run, side="decoder_")
        self.place(x, span, run, side="decoder_")
        across = cross_span(tokens.shape[1], reading)
        for block in self.decoder:
            x = call(block, x, span, read, across, run=run)
        x = call(self.decoder_final_ln, x, run=run)
        return call(self.unembed, x, run=run) if unembed else x

    def encoded(
        self, source: Int[Tensor, "batch k_pos"], *, source_mask: Tensor | None = None, run: LiveRun | None = None
    ) -> tuple[Float[Tensor, "batch k_pos d_model"], Span]:
        """What the encoder makes of a source, and where its rows stand."""
        check_tokens(source, "source")
        span = self._span(source, source_mask, causal=False)
        x = self.embedded(source, span, run)
        self.place(x, span, run)
        for block in self.encoder:
            x = call(block, x, span, run=run)
        return call(self.encoder_final_ln, x, run=run), span

    def _span(self, tokens: Tensor, mask: Tensor | None, *, causal: bool) -> Span:
        n_ctx = self.config.n_ctx
        return make_span(*tokens.shape, n_ctx=n_ctx, device=tokens.device, mask=mask, causal=causal)
