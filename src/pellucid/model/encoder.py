"""The encoder: token ids to logits, with attention to both sides."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from pellucid.hooks.point import call
from pellucid.hooks.run import LiveRun
from pellucid.model.past import make_span
from pellucid.model.transformer import Stack, check_tokens


class Encoder(Stack):
    """A transformer whose every position sees every other.

    The names of its hook points are the decoder's.

    Args:
        config: What it looks like, of ``architecture="encoder"``.
        seed: Of the fresh weights; None draws from torch's own random state.

    Raises:
        ConfigError: The configuration is of another architecture.

    Example:
        >>> import torch
        >>> from pellucid import AttentionConfig, Config
        >>> attention = AttentionConfig(n_heads=2, d_head=4)
        >>> config = Config(n_layers=1, d_model=8, d_vocab=5, n_ctx=4, attention=attention, architecture="encoder")
        >>> run = Encoder(config, seed=0).run(torch.tensor([[1, 2, 3]]), reads=["blocks.0.attn.hook_pattern"])
        >>> bool((run.cache["blocks.0.attn.hook_pattern"] > 0).all())
        True
    """

    architecture = "encoder"

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        attention_mask: Bool[Tensor, "batch pos"] | Int[Tensor, "batch pos"] | None = None,
        unembed: bool = True,
        run: LiveRun | None = None,
    ) -> Float[Tensor, "batch pos d_out"]:
        """One pass.

        Args:
            tokens: Token ids.
            attention_mask: True (or 1) at real tokens; padding is neither attended to nor counted as a position.
            unembed: False ends at the final norm, without logits.
            run: Who listens.

        Returns:
            Logits `[batch pos d_vocab]`.

        Raises:
            ArgumentError: The tokens do not fit the context, or the mask does not fit them.
            TokenError: A token that the vocabulary lacks.
        """
        check_tokens(tokens)
        span = make_span(
            *tokens.shape, n_ctx=self.config.n_ctx, device=tokens.device, mask=attention_mask, causal=False
        )
        if run is not None and span.keys_mask is not None:
            run.mask = span.keys_mask
        x = self.embedded(tokens, span, run)
        self.place(x, span, run)
        for block in self.blocks:
            x = call(block, x, span, run=run)
        x = call(self.ln_final, x, run=run)
        return call(self.unembed, x, run=run) if unembed else x
