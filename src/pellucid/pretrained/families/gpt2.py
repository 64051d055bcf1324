"""GPT-2: learned positions, LayerNorm, a plain MLP, Q, K and V packed into one matrix, stored input-major."""

from typing import Any

from pellucid.model.attention import AttentionConfig
from pellucid.model.config import Config
from pellucid.model.mlp import MLPConfig
from pellucid.model.norms import LayerNorm
from pellucid.pretrained.family import Family, Fields
from pellucid.pretrained.rules import Format, Rule


def _read(fields: Fields) -> Config:
    d_model, n_heads = fields.integer("n_embd"), fields.integer("n_head")
    if n_heads < 1 or d_model % n_heads:
        raise fields.refuse("n_head", f"a divisor of n_embd = {d_model}")
    n_ctx = fields.integer("n_positions")
    if fields.integer("n_ctx", n_ctx) != n_ctx:
        raise fields.refuse("n_ctx", f"n_positions = {n_ctx}, of which it is the older name")
    scaled = fields.boolean("scale_attn_weights", True)
    return Config(
        n_layers=fields.integer("n_layer"),
        d_model=d_model,
        d_vocab=fields.integer("vocab_size"),
        n_ctx=n_ctx,
        attention=AttentionConfig(n_heads=n_heads, d_head=d_model // n_heads, scale=None if scaled else 1.0),
        mlp=MLPConfig(d_mlp=fields.integer("n_inner", 4 * d_model), act=fields.text("activation_function", "gelu_new")),
        norm=LayerNorm(eps=fields.number("layer_norm_epsilon", 1e-5)),
        tied=fields.boolean("tie_word_embeddings", True),
        init_range=fields.number("initializer_range", 0.02),
    )


def _write(config: Config) -> dict[str, Any]:
    d_mlp = None if config.mlp is None else config.mlp.d_mlp
    values = {
        "n_layer": config.n_layers,
        "n_embd": config.d_model,
        "vocab_size": config.d_vocab,
        "n_positions": config.n_ctx,
        "n_head": config.attention.n_heads,
        "n_inner": None if d_mlp == 4 * config.d_model else d_mlp,
        "activation_function": config.mlp and config.mlp.act,
        "layer_norm_epsilon": config.norm and config.norm.eps,
        "scale_attn_weights": config.attention.factor != 1.0,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.init_range,
    }
    return {name: value for name, value in values.items() if value is not None}


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    read=_read,
    write=_write,
    ignored={
        "attn_pdrop": "dropout, which Pellucid runs without",
        "embd_pdrop": "dropout",
        "resid_pdrop": "dropout",
        "summary_type": "of a head for classification",
        "summary_use_proj": "of a head for classification",
        "summary_activation": "of a head for classification",
        "summary_proj_to_labels": "of a head for classification",
        "summary_first_dropout": "of a head for classification",
        "n_special": "of the tokenizer, in the oldest files",
        "predict_special_tokens": "of the tokenizer, in the oldest files",
    },
    fixed={"scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False},
    form=Format(
        prefix="transformer.",
        rules=(
            Rule("transformer.wte.weight", ("embed.W_E",), "d_vocab d_model -> d_vocab d_model"),
            Rule("transformer.wpe.weight", ("pos_embed.W_pos",), "n_ctx d_model -> n_ctx d_model"),
            Rule("transformer.h.{l}.ln_1.weight", ("blocks.{l}.ln1.w",), "d_model -> d_model"),
            Rule("transformer.h.{l}.ln_1.bias", ("blocks.{l}.ln1.b",), "d_model -> d_model"),
            Rule(
                "transformer.h.{l}.attn.c_attn.weight",
                ("blocks.{l}.attn.W_Q", "blocks.{l}.attn.W_K", "blocks.{l}.attn.W_V"),
                "d_model (part head d_head) -> part head d_model d_head",
            ),
            Rule(
                "transformer.h.{l}.attn.c_attn.bias",
                ("blocks.{l}.attn.b_Q", "blocks.{l}.attn.b_K", "blocks.{l}.attn.b_V"),
                "(part head d_head) -> part head d_head",
            ),
            Rule(
                "transformer.h.{l}.attn.c_proj.weight",
                ("blocks.{l}.attn.W_O",),
                "(head d_head) d_model -> head d_head d_model",
            ),
            Rule("transformer.h.{l}.attn.c_proj.bias", ("blocks.{l}.attn.b_O",), "d_model -> d_model"),
            Rule("transformer.h.{l}.ln_2.weight", ("blocks.{l}.ln2.w",), "d_model -> d_model"),
            Rule("transformer.h.{l}.ln_2.bias", ("blocks.{l}.ln2.b",), "d_model -> d_model"),
            Rule("transformer.h.{l}.mlp.c_fc.weight", ("blocks.{l}.mlp.W_in",), "d_model d_mlp -> d_model d_mlp"),
            Rule("transformer.h.{l}.mlp.c_fc.bias", ("blocks.{l}.mlp.b_in",), "d_mlp -> d_mlp"),
            Rule("transformer.h.{l}.mlp.c_proj.weight", ("blocks.{l}.mlp.W_out",), "d_mlp d_model -> d_mlp d_model"),
            Rule("transformer.h.{l}.mlp.c_proj.bias", ("blocks.{l}.mlp.b_out",), "d_model -> d_model"),
            Rule("transformer.ln_f.weight", ("ln_final.w",), "d_model -> d_model"),
            Rule("transformer.ln_f.bias", ("ln_final.b",), "d_model -> d_model"),
            Rule("lm_head.weight", ("unembed.W_U",), "d_vocab d_model -> d_model d_vocab"),
        ),
        unread={
            "transformer.h.{l}.attn.bias": "the causal mask, which older versions stored",
            "transformer.h.{l}.attn.masked_bias": "what masked scores became",
        },
        copies={"lm_head.weight": "transformer.wte.weight"},
    ),
)
"""GPT-2 in all sizes, DistilGPT2, and models trained from scratch in this form.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; `GPT2LMHeadModel` of transformers.
"""
