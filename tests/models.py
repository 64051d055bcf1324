"""Tiny random models of every kind, for the tests of hooks, model and facade."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import jaxtyping
import torch
from hypothesis import strategies as st

from pellucid import (
    AttentionConfig,
    Config,
    Encoder,
    EncoderDecoder,
    HookedTransformer,
    LayerNorm,
    Learned,
    MLPConfig,
    RMSNorm,
    Rotary,
    Shortformer,
)

M = TypeVar("M", bound=torch.nn.Module)
D_MODEL, D_VOCAB, N_CTX = 10, 17, 16


def config_of(**changes) -> Config:
    """Two layers in the manner of GPT-2, with some fields changed; heads are wider together than the stream."""
    plain = {
        "n_layers": 2,
        "d_model": D_MODEL,
        "d_vocab": D_VOCAB,
        "n_ctx": N_CTX,
        "attention": AttentionConfig(n_heads=4, d_head=6),
        "mlp": MLPConfig(d_mlp=14),
    }
    return Config(**plain | changes)


GROUPED = AttentionConfig(n_heads=4, d_head=6, n_kv_heads=2, qkv_bias=False, out_bias=False)

CONFIGS = {
    "gpt2": config_of(tied=True),
    "llama": config_of(
        attention=GROUPED,
        mlp=MLPConfig(d_mlp=14, act="silu", gated=True, bias=False),
        norm=RMSNorm(),
        positions=Rotary(),
    ),
    "partly rotary": config_of(
        positions=Rotary(dim=4, base=100.0), unembed_bias=True, mlp=MLPConfig(d_mlp=14, act="gelu")
    ),
    "attention only": config_of(
        mlp=None, attention=AttentionConfig(n_heads=4, d_head=6, n_kv_heads=1, scale=0.3), positions=Shortformer()
    ),
    "bare": config_of(norm=None, positions=None, residual=False, mlp=MLPConfig(d_mlp=14, act="relu")),
}
"""Few that together have everything."""


def model_of(
    config: Config | str = "gpt2", *, dtype: torch.dtype = torch.float32, seed: int = 0, **more
) -> HookedTransformer:
    """A model none of whose parameters is 0 or 1, biases and norms included."""
    config = CONFIGS[config] if isinstance(config, str) else config
    return moved(HookedTransformer(config, seed=seed, device="cpu", **more).to(dtype), seed)


def encoder_of(config: Config | str = "gpt2", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Encoder:
    """The same with attention to both sides."""
    config = CONFIGS[config] if isinstance(config, str) else config
    return moved(Encoder(replace(config, architecture="encoder"), seed=seed).to(dtype), seed)


def encoder_decoder_of(
    config: Config | str = "gpt2", *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> EncoderDecoder:
    """The same with two stacks."""
    config = CONFIGS[config] if isinstance(config, str) else config
    return moved(EncoderDecoder(replace(config, architecture="encoder-decoder"), seed=seed).to(dtype), seed)


def moved(model: M, seed: int = 0) -> M:
    """A model whose biases and norms are no longer 0 or 1."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.rsplit(".", 1)[-1].startswith("W_"):
                parameter += 0.3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(
                    parameter.dtype
                )
    return model


def tokens_of(config: Config | str = "gpt2", *, batch: int = 2, pos: int = 7, seed: int = 0) -> torch.Tensor:
    """Random ids ``[batch pos]``."""
    config = CONFIGS[config] if isinstance(config, str) else config
    return torch.randint(0, config.d_vocab, (batch, pos), generator=torch.Generator().manual_seed(seed))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Any configuration that this version can be given, tiny."""
    n_kv_heads = draw(st.sampled_from([None, 1, 2]))
    attention = AttentionConfig(
        n_heads=4,
        d_head=6,
        n_kv_heads=n_kv_heads,
        scale=draw(st.sampled_from([None, 1.0, 0.2])),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
    )
    acts = st.sampled_from(["relu", "silu", "gelu", "gelu_new", "quick_gelu"])
    some_mlp = st.builds(MLPConfig, d_mlp=st.just(14), act=acts, gated=st.booleans(), bias=st.booleans())
    norms = st.sampled_from(
        [None, LayerNorm(), LayerNorm(eps=0.1, affine=False), RMSNorm(eps=1e-6), RMSNorm(affine=False)]
    )
    return config_of(
        n_layers=draw(st.sampled_from([1, 2, 0])),
        attention=attention,
        mlp=draw(st.none() | some_mlp),
        norm=draw(norms),
        positions=draw(
            st.sampled_from(
                [Learned(), Rotary(), Rotary(dim=2, base=500.0), Shortformer(), Shortformer(layers=1), None]
            )
        ),
        tied=draw(st.booleans()),
        unembed_bias=draw(st.booleans()),
        residual=draw(st.booleans()),
    )


def assert_agree(found, expected, *, within: float) -> None:
    """The same names, shapes, dtypes and infinities, and values that differ by `within` of the largest at most."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        finite = value[value.isfinite()]
        scale = max(1.0, float(finite.detach().abs().max())) if finite.numel() else 1.0
        torch.testing.assert_close(
            found[name].detach(),
            value.detach(),
            rtol=0,
            atol=within * scale,
            msg=lambda why, name=name: f"{name}: {why}",
        )


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the shape checks of the tests, as users run it: for errors about arguments of a wrong type."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
