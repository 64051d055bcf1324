"""Llama: rotary positions, RMSNorm, a gated MLP, grouped queries; matrices stored output-major."""

from typing import Any

from pellucid.model.attention import AttentionConfig
from pellucid.model.config import Config
from pellucid.model.mlp import MLPConfig
from pellucid.model.norms import RMSNorm
from pellucid.model.positional import Rotary
from pellucid.pretrained.family import Family, Fields
from pellucid.pretrained.rules import Format, Rule


def _read(fields: Fields) -> Config:
    d_model, n_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    n_kv_heads = fields.integer("num_key_value_heads", n_heads)
    if n_heads < 1 or d_model % n_heads:
        raise fields.refuse("num_attention_heads", f"a divisor of hidden_size = {d_model}")
    bias = fields.boolean("attention_bias", False)
    return Config(
        n_layers=fields.integer("num_hidden_layers"),
        d_model=d_model,
        d_vocab=fields.integer("vocab_size"),
        n_ctx=fields.integer("max_position_embeddings"),
        attention=AttentionConfig(
            n_heads=n_heads,
            d_head=fields.integer("head_dim", d_model // n_heads),
            n_kv_heads=None if n_kv_heads == n_heads else n_kv_heads,
            qkv_bias=bias,
            out_bias=bias,
        ),
        mlp=MLPConfig(
            d_mlp=fields.integer("intermediate_size"),
            act=fields.text("hidden_act", "silu"),
            gated=True,
            bias=fields.boolean("mlp_bias", False),
        ),
        norm=RMSNorm(eps=fields.number("rms_norm_eps", 1e-6)),
        positions=Rotary(base=_rotary_base(fields)),
        tied=fields.boolean("tie_word_embeddings", False),
        init_range=fields.number("initializer_range", 0.02),
    )


def _rotary_base(fields: Fields) -> float:
    """Older files hold `rope_theta` and `rope_scaling`, newer ones `rope_parameters` with both in it."""
    base = fields.number("rope_theta", 10000.0)
    for name in ("rope_scaling", "rope_parameters"):
        table = dict(fields.table(name))
        kinds = {table.pop("rope_type", "default"), table.pop("type", "default")}
        theta = table.pop("rope_theta", base)
        if kinds != {"default"} or table or (theta != base and fields.has("rope_theta")):
            raise fields.refuse(name, "that of unscaled rotary positions ({'rope_type': 'default'}) or null")
        base = float(theta)
    return base


def _write(config: Config) -> dict[str, Any]:
    values = {
        "num_hidden_layers": config.n_layers,
        "hidden_size": config.d_model,
        "vocab_size": config.d_vocab,
        "max_position_embeddings": config.n_ctx,
        "num_attention_heads": config.attention.n_heads,
        "num_key_value_heads": config.attention.kv_heads,
        "head_dim": config.attention.d_head,
        "attention_bias": config.attention.qkv_bias,
        "intermediate_size": 4 * config.d_model if config.mlp is None else config.mlp.d_mlp,
        "hidden_act": config.mlp and config.mlp.act,
        "mlp_bias": config.mlp and config.mlp.bias,
        "rms_norm_eps": config.norm and config.norm.eps,
        "rope_theta": config.positions.base if isinstance(config.positions, Rotary) else None,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_range,
    }
    return {name: value for name, value in values.items() if value is not None}


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    read=_read,
    write=_write,
    ignored={
        "attention_dropout": "dropout, which Pellucid runs without",
        "is_llama_config": "says who wrote the file",
    },
    fixed={"pretraining_tp": 1, "rope_interleaved": False, "partial_rotary_factor": 1.0},
    form=Format(
        prefix="model.",
        rules=(
            Rule("model.embed_tokens.weight", ("embed.W_E",), "d_vocab d_model -> d_vocab d_model"),
            Rule("model.layers.{l}.input_layernorm.weight", ("blocks.{l}.ln1.w",), "d_model -> d_model"),
            *(
                rule
                for theirs, heads, letter in (("q", "head", "Q"), ("k", "kv_head", "K"), ("v", "kv_head", "V"))
                for rule in (
                    Rule(
                        f"model.layers.{{l}}.self_attn.{theirs}_proj.weight",
                        (f"blocks.{{l}}.attn.W_{letter}",),
                        f"({heads} d_head) d_model -> {heads} d_model d_head",
                    ),
                    Rule(
                        f"model.layers.{{l}}.self_attn.{theirs}_proj.bias",
                        (f"blocks.{{l}}.attn.b_{letter}",),
                        f"({heads} d_head) -> {heads} d_head",
                    ),
                )
            ),
            Rule(
                "model.layers.{l}.self_attn.o_proj.weight",
                ("blocks.{l}.attn.W_O",),
                "d_model (head d_head) -> head d_head d_model",
            ),
            Rule("model.layers.{l}.self_attn.o_proj.bias", ("blocks.{l}.attn.b_O",), "d_model -> d_model"),
            Rule("model.layers.{l}.post_attention_layernorm.weight", ("blocks.{l}.ln2.w",), "d_model -> d_model"),
            Rule("model.layers.{l}.mlp.gate_proj.weight", ("blocks.{l}.mlp.W_gate",), "d_mlp d_model -> d_model d_mlp"),
            Rule("model.layers.{l}.mlp.gate_proj.bias", ("blocks.{l}.mlp.b_gate",), "d_mlp -> d_mlp"),
            Rule("model.layers.{l}.mlp.up_proj.weight", ("blocks.{l}.mlp.W_in",), "d_mlp d_model -> d_model d_mlp"),
            Rule("model.layers.{l}.mlp.up_proj.bias", ("blocks.{l}.mlp.b_in",), "d_mlp -> d_mlp"),
            Rule("model.layers.{l}.mlp.down_proj.weight", ("blocks.{l}.mlp.W_out",), "d_model d_mlp -> d_mlp d_model"),
            Rule("model.layers.{l}.mlp.down_proj.bias", ("blocks.{l}.mlp.b_out",), "d_model -> d_model"),
            Rule("model.norm.weight", ("ln_final.w",), "d_model -> d_model"),
            Rule("lm_head.weight", ("unembed.W_U",), "d_vocab d_model -> d_model d_vocab"),
        ),
        unread={
            "model.layers.{l}.self_attn.rotary_emb.inv_freq": "rotary frequencies, which are computed",
            "model.rotary_emb.inv_freq": "rotary frequencies, which are computed",
        },
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    ),
)
"""Llama 1, 2 and 3.0 and models of their form, whose rotary positions are not scaled.

Source: Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models"; `LlamaForCausalLM` of transformers.
"""
