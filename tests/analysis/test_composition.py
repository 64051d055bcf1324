"""Composition, against dense matrices in float64, and in models whose composition is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from pellucid import AttentionConfig, HookedTransformer, LayerNorm
from pellucid.analysis.compose import composition, strongest_by_chance
from pellucid.base.errors import ArgumentError
from pellucid.model.wired import induction_pair
from pellucid.pretrained.processing import Processing, process
from tests.models import config_of, configs, model_of
from tests.reference import circuits


@settings(max_examples=25)
@given(configs())
def test_each_number_is_that_of_the_dense_matrices(config):
    model = model_of(config.change(residual=True), dtype=torch.float64)
    found = composition(model)
    for s, sender in enumerate(found.dataset["sender"].values.tolist()):
        for r, receiver in enumerate(found.dataset["receiver"].values.tolist()):
            pair = [tuple(map(int, head.split("."))) for head in (sender, receiver)]
            expected = circuits.composition(model, *pair) if pair[0][0] < pair[1][0] else [0, 0, 0]
            np.testing.assert_allclose(found.dataset["raw"].values[s, r], expected, rtol=1e-9)
    possible = found.dataset["raw"].values > 0
    np.testing.assert_allclose(
        found.values, np.where(possible, found.dataset["raw"].values - found.dataset["baseline"].item(), 0)
    )


def test_processing_changes_nothing():
    model = model_of(config_of(n_layers=3, d_model=12), dtype=torch.float64)
    before = composition(model)
    process(model, Processing())
    np.testing.assert_allclose(composition(model).values, before.values, atol=1e-12)


def test_random_heads_have_what_chance_gives():
    attention = AttentionConfig(n_heads=4, d_head=32)
    model = HookedTransformer(config_of(d_model=256, attention=attention, norm=None), seed=0, device="cpu")
    found = composition(model)
    later = found.values[:4, 4:]
    assert found.dataset["baseline"].item() == pytest.approx(1 / 256**0.5, rel=0.02)
    assert abs(later).max() < 0.1 * found.dataset["baseline"].item()
    assert abs(later.mean()) < 0.03 * found.dataset["baseline"].item()
    assert composition(model, seed=0).values.tolist() == found.values.tolist()
    assert composition(model, seed=1).dataset["baseline"].item() != found.dataset["baseline"].item()


@pytest.mark.parametrize("norm", [None, LayerNorm()])
def test_the_strongest_by_chance_is_that_of_random_models(norm):
    """The same in the mean as what models of random weights have, through queries, keys and values alike."""
    attention = AttentionConfig(n_heads=3, d_head=4)
    config = config_of(n_layers=3, d_model=12, attention=attention, norm=norm)
    chance = strongest_by_chance(HookedTransformer(config, seed=0, device="cpu"), draws=200)
    assert chance.shape == (200, 3, 3) and bool(chance[:, 0].isnan().all())
    found = []
    for seed in range(60):
        raw = composition(HookedTransformer(config, seed=seed, device="cpu")).dataset["raw"].values
        found.append([raw[: 3 * n, 3 * n : 3 * n + 3].max(0) for n in (1, 2)])
    for layer in (1, 2):
        per_model = np.mean([one[layer - 1] for one in found], (1, 2))
        away = 4 * np.hypot(per_model.std() / 60**0.5, float(chance[:, layer].mean(1).std()) / 200**0.5)
        assert float(chance[:, layer].mean()) == pytest.approx(per_model.mean(), abs=away)
    assert float(chance[:, 2].mean()) > float(chance[:, 1].mean())
    for wide in (AttentionConfig(n_heads=2, d_head=20), AttentionConfig(n_heads=2, d_head=1)):
        other = strongest_by_chance(HookedTransformer(config.change(attention=wide), seed=0, device="cpu"), draws=3)
        assert bool((other[:, 1:] > 0).all()) and bool((other[:, 1:] <= 1).all())


def test_a_planted_pair_composes_through_keys_and_nothing_else_does():
    wired = induction_pair(3, 3, previous=(0, 2), induction=(2, 1), d_head=12)
    model = HookedTransformer(wired.config, device="cpu")
    model.load_state_dict(wired.weights)
    found = composition(model)
    assert found.top(1).label == "0.2 → 2.1 k"
    assert (found.values != 0).sum() == 1 + 2  # its q and v: what chance would give, and they lack
    assert found.unit == "fraction"
    assert found.record.settings == {"norms": "folded"}
    assert found.record.task == "composition"


def test_a_model_without_layers_has_no_pairs():
    assert composition(model_of(config_of(n_layers=0))).shape == (0, 0, 3)


def test_without_residual_connections_there_is_no_composition():
    with pytest.raises(ArgumentError, match="composition of heads needs residual connections.*has none"):
        composition(model_of("bare"))
