"""The configuration: what cannot be is refused, and it goes round through JSON."""

import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given

from pellucid import AttentionConfig, Config, HookedTransformer, Learned, Rotary
from pellucid.base.errors import ConfigError
from tests.models import config_of, configs, unchecked


@given(configs())
def test_a_configuration_goes_round_through_json(config):
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_choice_among_types_is_named_by_its_kind():
    values = config_of(positions=Rotary(base=5.0, dim=4), norm=None, mlp=None).to_dict()
    assert values["positions"] == {"kind": "Rotary", "base": 5.0, "dim": 4}
    assert values["norm"] is None and values["mlp"] is None


def test_a_copy_with_other_fields_is_checked_too():
    config = config_of()
    assert config.change(n_layers=5).n_layers == 5
    assert config.n_layers == 2
    with pytest.raises(ConfigError, match="n_layers must be 0 or more, got -1"):
        config.change(n_layers=-1)
    with pytest.raises(FrozenInstanceError):
        config.n_layers = 3


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"n_layers": -1}, "n_layers must be 0 or more, got -1"),
        ({"d_model": 0}, "d_model must be 1 or more, got 0"),
        ({"d_vocab": 0}, "d_vocab must be 1 or more, got 0"),
        ({"n_ctx": 0}, "n_ctx must be 1 or more, got 0"),
        ({"tied": True, "d_vocab_out": 5}, "d_vocab_out must be d_vocab=17 .*, got 5; leave it out, or set tied=False"),
    ],
)
def test_what_cannot_be_is_refused(fields, said):
    with pytest.raises(ConfigError, match=said):
        config_of(**fields)


@pytest.mark.parametrize(
    "fields, said",
    [
        (
            {"positions": "rotary"},
            r"positions must be Learned or .* or None, got 'rotary'; make one, as in positions=Shortformer\(...\)",
        ),
        ({"positions": Rotary}, "positions must be Learned or .* or None, got <class .*Rotary'>"),
        ({"positions": Learned}, "positions must be Learned or .* or None, got <class .*Learned'>"),
        (
            {"positions": {"kind": "Rotary"}},
            "positions must be Learned or .* or None, got {'kind': 'Rotary'}",
        ),
        ({"attention": {"n_heads": 2}}, "attention must be AttentionConfig, got {'n_heads': 2}; make one"),
        ({"attention": None}, "attention must be AttentionConfig, got None; make one"),
        ({"mlp": {"d_mlp": 4}}, "mlp must be MLPConfig or None, got {'d_mlp': 4}; make one"),
        ({"norm": "LN"}, "norm must be LayerNorm or RMSNorm or None, got 'LN'; make one"),
        ({"n_layers": "2"}, "n_layers must be a whole number, got '2'"),
        ({"n_layers": True}, "n_layers must be a whole number, got True"),
        ({"d_model": 8.0}, "d_model must be a whole number, got 8.0"),
        ({"d_vocab_out": "5"}, "d_vocab_out must be a whole number, got '5'"),
        ({"d_vocab_out": 0}, "d_vocab_out must be 1 or more, got 0"),
    ],
)
def test_a_field_of_a_wrong_kind_is_refused(fields, said):
    with unchecked(), pytest.raises(ConfigError, match=said):
        config_of(**fields)


def changed(**changes):
    return config_of().to_dict() | changes


@pytest.mark.parametrize(
    "values, said",
    [
        (changed(n_layer=2), "configuration has no field 'n_layer'; nearest: n_layers"),
        (changed(attention={"n_heads": 2, "d_heads": 4}), "attention has no field 'd_heads'; nearest: d_head"),
        (changed(attention=None), "attention must be a table of fields, got None"),
        (changed(mlp={"act": "relu"}), "mlp lacks a field or has one of a wrong type: .*d_mlp"),
        (changed(norm={"kind": "BatchNorm"}), "norm must be of kind LayerNorm, RMSNorm, got 'BatchNorm'"),
        (changed(norm="LN"), "norm must be of kind LayerNorm, RMSNorm, got 'LN'"),
        (changed(positions={"kind": "Rotary", "theta": 1}), "positions has no field 'theta'"),
        ({k: v for k, v in changed().items() if k != "d_model"}, "configuration lacks a field .*d_model"),
        (changed(n_ctx=-5), "n_ctx must be 1 or more, got -5"),
    ],
)
def test_a_table_that_is_no_configuration_is_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        Config.from_dict(values)


def test_a_model_takes_a_configuration_and_nothing_else():
    with unchecked(), pytest.raises(ConfigError, match="cfg must be a pellucid.Config, got dict; Config.from_dict"):
        HookedTransformer(config_of().to_dict())


def test_a_small_configuration_needs_few_fields():
    config = Config(n_layers=1, d_model=8, d_vocab=5, n_ctx=16, attention=AttentionConfig(n_heads=2, d_head=4))
    assert config.vocab_out == 5
    assert config.mlp is None and config.residual and not config.tied
