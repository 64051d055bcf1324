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


def test_the_reads_of_one_layer_are_held_at_a_time(monkeypatch):
    from pellucid.analysis import compose

    plain, seen = compose._norms, []
    monkeypatch.setattr(
        compose, "_norms", lambda left, right: (seen.append((len(left), len(right))), plain(left, right))[1]
    )
    config = config_of(n_layers=4)
    composition(HookedTransformer(config, seed=0, device="cpu"))
    assert seen == [(config.attention.n_heads, 3 * config.attention.n_heads)] * 6


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


@pytest.mark.parametrize("norm", [None, LayerNorm()])
def test_the_norms_that_are_drawn_are_those_that_are_multiplied_out(monkeypatch, norm):
    """Quantiles of the largest of 4 and of 8, in heads of 16 dimensions."""
    attention = AttentionConfig(n_heads=4, d_head=16)
    config = config_of(n_layers=3, d_model=48, attention=attention, norm=norm)
    model = HookedTransformer(config, seed=0, device="cpu")
    exact = strongest_by_chance(model)
    monkeypatch.setattr("pellucid.analysis.compose.LITERAL", 0)
    drawn = strongest_by_chance(model, seed=1)
    assert drawn.shape == exact.shape and bool(drawn[:, 0].isnan().all())
    for layer in (1, 2):
        for q, off in ((0.05, 0.006), (0.5, 0.006), (0.95, 0.015)):
            assert float(drawn[:, layer].quantile(q)) == pytest.approx(float(exact[:, layer].quantile(q)), rel=off)
    torch.testing.assert_close(strongest_by_chance(model, seed=1), drawn, equal_nan=True)


def test_heads_of_one_dimension_have_a_beta_law(monkeypatch):
    """The product of two vectors is a cosine, whose square has this law: the largest of one is one."""
    monkeypatch.setattr("pellucid.analysis.compose.LITERAL", 0)
    config = config_of(n_layers=2, d_model=9, attention=AttentionConfig(n_heads=1, d_head=1), norm=None)
    drawn = strongest_by_chance(HookedTransformer(config, seed=0, device="cpu"), draws=4000)[:, 1, 0]
    vectors = torch.randn(100_000, 9, generator=torch.Generator().manual_seed(0))
    cosines = (vectors[:, 0] / vectors.norm(dim=1)).abs().double()
    for q in (0.25, 0.5, 0.9, 0.99):
        assert float(drawn.quantile(q)) == pytest.approx(float(cosines.quantile(q)), rel=0.05)


def test_of_a_large_model_no_random_models_are_made(monkeypatch):
    """As many layers and heads as the largest have: a little above the mean of one pair, and more so the more pairs."""
    config = config_of(n_layers=24, d_model=256, attention=AttentionConfig(n_heads=16, d_head=32))
    monkeypatch.setattr("pellucid.analysis.compose._random", None)
    chance = strongest_by_chance(HookedTransformer(config, seed=0, device="cpu"))
    assert chance.shape == (999, 24, 16)
    assert float(chance[:, 1:].min()) > 1 / 16 and float(chance[:, 1:].max()) < 1.25 / 16
    assert bool((chance[:, 1:].mean((0, 2)).diff()[:5] > 0).all())


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
