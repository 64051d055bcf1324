"""`model.cfg`: a flat view that says what the model is now."""

import copy
import pickle

import pytest
import torch

from pellucid import AttentionConfig, LayerNorm, RMSNorm
from pellucid.base.errors import ConfigError, PellucidError
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, config_of, model_of, tokens_of


@pytest.mark.parametrize(
    "kind, fields",
    [
        (
            "gpt2",
            {
                "n_layers": 2,
                "d_model": 10,
                "d_head": 6,
                "n_heads": 4,
                "n_key_value_heads": None,
                "d_mlp": 14,
                "act_fn": "gelu_new",
                "gated_mlp": False,
                "attn_only": False,
                "d_vocab": 17,
                "d_vocab_out": 17,
                "n_ctx": 16,
                "normalization_type": "LN",
                "eps": 1e-5,
                "positional_embedding_type": "standard",
                "tie_word_embeddings": True,
                "rotary_dim": None,
                "attention_dir": "causal",
            },
        ),
        (
            "llama",
            {
                "n_key_value_heads": 2,
                "normalization_type": "RMS",
                "final_rms": True,
                "gated_mlp": True,
                "act_fn": "silu",
                "positional_embedding_type": "rotary",
                "rotary_dim": 6,
                "rotary_base": 10000.0,
                "tie_word_embeddings": False,
            },
        ),
        ("partly rotary", {"rotary_dim": 4, "rotary_base": 100.0}),
        ("attention only", {"attn_only": True, "d_mlp": None, "act_fn": None, "attn_scale": pytest.approx(1 / 0.3)}),
        ("bare", {"normalization_type": None, "eps": None, "positional_embedding_type": None}),
    ],
)
def test_fields_have_the_names_and_values_that_people_know(kind, fields):
    cfg = model_of(kind).cfg
    assert {name: getattr(cfg, name) for name in fields} == fields
    assert cfg.to_dict().items() >= fields.items()


def test_folded_norms_are_told():
    assert model_of(config_of(norm=LayerNorm(affine=False))).cfg.normalization_type == "LNPre"
    assert model_of(config_of(norm=RMSNorm(affine=False))).cfg.normalization_type == "RMSPre"


def test_the_scale_is_what_scores_are_divided_by():
    assert model_of("gpt2").cfg.attn_scale == pytest.approx(6**0.5)
    assert model_of("gpt2").cfg.use_attn_scale
    unscaled = config_of(attention=AttentionConfig(n_heads=4, d_head=6, scale=1.0))
    assert not model_of(unscaled).cfg.use_attn_scale


def test_device_and_dtype_follow_the_model():
    model = model_of("gpt2")
    cfg = model.cfg
    assert cfg.device == torch.device("cpu") and cfg.dtype == torch.float32
    model.double()
    assert cfg.dtype == model.cfg.dtype == torch.float64
    model.to("meta")
    assert cfg.device == torch.device("meta")


def test_it_is_read_only():
    cfg = model_of("gpt2").cfg
    with pytest.raises(
        ConfigError, match="cfg is read-only, got n_layers=3; make a model of another Config, or use .to"
    ):
        cfg.n_layers = 3
    assert cfg.n_layers == 2


def test_an_unknown_field_is_an_error_that_offers_the_nearest():
    cfg = model_of("gpt2").cfg
    with pytest.raises(AttributeError, match="cfg has no field 'n_layer'; nearest: n_layers") as caught:
        _ = cfg.n_layer
    assert isinstance(caught.value, PellucidError)
    assert not hasattr(cfg, "n_params")
    assert getattr(cfg, "use_attn_result", None) is None


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_field_can_be_read_listed_and_printed(kind):
    cfg = model_of(kind).cfg
    assert set(cfg.to_dict()) == set(dir(cfg))
    assert "  n_layers: 2\n" in repr(cfg)
    assert f"d_model: {cfg.d_model}" in str(cfg)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg))])
def test_it_can_be_copied(copied):
    cfg = model_of("gpt2").cfg
    assert copied(cfg).to_dict() == cfg.to_dict()


def test_it_tells_the_model_s_seed_and_name():
    cfg = model_of("gpt2", seed=3).cfg
    assert cfg.seed == 3
    assert cfg.model_name is None


@pytest.mark.parametrize(
    "switch, point",
    [
        ("use_attn_result", "result"),
        ("use_split_qkv_input", "q_input"),
        ("use_attn_in", "attn_in"),
        ("use_hook_mlp_in", "mlp_in"),
    ],
)
def test_a_switch_of_2_18_is_answered_with_the_point_to_name(switch, point):
    model = model_of("gpt2")
    said = f"{switch} needs no switch here: name the point, e.g. names_filter='{point}'"
    with pytest.raises(AttributeError, match=said):
        getattr(model.cfg, switch)
    with pytest.raises(ConfigError, match=said):
        setattr(model.cfg, switch, True)
    assert model.run_with_cache(tokens_of(), names_filter=point)[1]


def test_it_tells_the_tokenizer_and_whether_bos_is_put_in_front():
    assert model_of("gpt2").cfg.default_prepend_bos is None
    cfg = model_of("gpt2", tokenizer=integer_vocabulary(17)).cfg
    assert cfg.default_prepend_bos is True
    assert cfg.tokenizer_name == integer_vocabulary(17).name_or_path
