import pytest
import torch

from pellucid.base.errors import ConfigError
from pellucid.model.attention import AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.model.mlp import MLPConfig
from pellucid.model.positional import Rotary
from pellucid.train.optimiser import Optimiser

CONFIG = Config(
    n_layers=1,
    d_model=8,
    d_vocab=12,
    n_ctx=12,
    attention=AttentionConfig(n_heads=2, d_head=4),
    mlp=MLPConfig(d_mlp=16),
    unembed_bias=True,
)


def decayed(model, **changes):
    """Names of the weights from which something is taken off."""
    optimiser = Optimiser(weight_decay=0.1, **changes).made(model)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimiser.param_groups}
    assert set().union(*groups.values()) == set(names.values())
    return groups[0.1]


def test_weights_decay_where_they_multiply():
    model = Decoder(CONFIG, seed=0)
    matrices = {name for name, _ in model.named_parameters() if name.rsplit(".", 1)[-1].startswith("W_")}
    assert decayed(model) == matrices
    assert {"embed.W_E", "pos_embed.W_pos", "blocks.0.attn.W_Q", "blocks.0.mlp.W_out", "unembed.W_U"} <= matrices


def test_or_the_positions_alone_or_everything():
    model = Decoder(CONFIG, seed=0)
    assert decayed(model, decayed="positions") == {"pos_embed.W_pos"}
    assert decayed(model, decayed="everything") == {name for name, _ in model.named_parameters()}


def test_frozen_weights_are_left_out():
    model = Decoder(CONFIG, seed=0)
    model.embed.W_E.requires_grad_(False)
    optimiser = Optimiser().made(model)
    held = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert id(model.embed.W_E) not in held and id(model.W_pos) in held


def test_the_settings_arrive():
    found = Optimiser(lr=0.5, betas=(0.1, 0.2), eps=1e-3).made(Decoder(CONFIG, seed=0))
    assert isinstance(found, torch.optim.AdamW)
    assert {name: found.defaults[name] for name in ("lr", "betas", "eps", "fused")} == {
        "lr": 0.5,
        "betas": (0.1, 0.2),
        "eps": 1e-3,
        "fused": True,
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"clip": -1.0}, "clip must be above 0, got -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas must lie from 0 to below 1, got \(0.9, 1.0\)"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, got -0.1"),
    ],
)
def test_an_optimiser_that_cannot_be_is_refused(changes, found):
    with pytest.raises(ConfigError, match=found):
        Optimiser(**changes)


def test_decay_of_positions_that_a_model_has_not_is_refused():
    model = Decoder(CONFIG.change(positions=Rotary()), seed=0)
    with pytest.raises(ConfigError, match="decayed='positions' names none of this model"):
        Optimiser(weight_decay=0.1, decayed="positions").made(model)


def test_a_model_that_is_frozen_whole_is_refused():
    with pytest.raises(ConfigError, match="all of them are frozen"):
        Optimiser().made(Decoder(CONFIG, seed=0).requires_grad_(False))
