"""The circuit of two heads, against the dense product, and in models whose circuit is known."""

import itertools

import numpy as np
import pytest
import torch

from pellucid import AttentionConfig, HookedTransformer
from pellucid.analysis import weights
from pellucid.analysis.weights import DIRECTIONS, two_head_circuit, two_head_matches
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.model.wired import induction_pair
from tests.models import CONFIGS, config_of, model_of, tokens_of
from tests.reference import circuits

ROTARY = {"llama": 5, "partly rotary": 3}
"""Models whose positions are rotary, and a distance."""
BEST = ("top-1 key per query", "top-1 query per key")


def matches(model, previous=("0.0",), induction=("1.0",), **more):
    return two_head_matches(model, previous, induction=induction, **more)


@pytest.mark.parametrize("name", ROTARY)
def test_the_literal_rotation_is_that_between_turned_queries_and_keys(name):
    model = model_of(name, dtype=torch.float64)
    cache = model.run(tokens_of(name), reads=["q", "k", "rot_q", "rot_k"]).cache
    R = circuits.rotation(model, 4)
    expected = (cache["rot_q", 1][:, 6, 0] * cache["rot_k", 1][:, 2, 0]).sum(-1)
    torch.testing.assert_close(((cache["q", 1][:, 6, 0] @ R) * cache["k", 1][:, 2, 0]).sum(-1), expected)


@pytest.mark.parametrize(
    ("name", "embedding"),
    [*itertools.product(("gpt2", "llama", "partly rotary"), ("raw", "extended")), ("attention only", "raw")],
)
def test_the_circuit_is_the_dense_product(name, embedding):
    model = model_of(CONFIGS[name].change(n_layers=3), dtype=torch.float64)
    distance = ROTARY.get(name)
    for previous, induction in itertools.product([(0, 3), (1, 0)], [(2, 1), (2, 2)]):
        found = two_head_circuit(
            model, "{}.{}".format(*previous), "{}.{}".format(*induction), embedding=embedding, distance=distance
        )
        expected = circuits.two_heads(
            model, previous, induction, extended=embedding == "extended", distance=distance or 0
        )
        torch.testing.assert_close(found.AB, expected)
        assert found.mdim == model.cfg.d_head


@pytest.mark.parametrize("part", [weights.PART, 40])
def test_matches_are_those_of_the_dense_product(monkeypatch, part):
    monkeypatch.setattr(weights, "PART", part)
    model = model_of(config_of(n_layers=3, d_vocab=61), dtype=torch.float64)
    previous, induction = ["0.1", "1.2"], ["2.0", "2.3"]
    found = matches(model, previous, induction, embedding="extended", sample=None)
    for p, i in itertools.product(previous, induction):
        circuit = circuits.two_heads(model, *(tuple(map(int, head.split("."))) for head in (p, i)), extended=True)
        for direction, side in zip(DIRECTIONS, (circuit, circuit.T), strict=True):
            for k in (1, 5):
                hits = found.accuracy.sel(sender=p, receiver=i, group=f"top-{k} {direction}").item()
                assert hits == pytest.approx(circuits.hits(side, k))
            missed = [(token, best) for token, best in enumerate(side.argmax(-1).tolist()) if token != best]
            ranks = [circuits.neighbour_rank(model.W_E, *pair) for pair in missed]
            cell = found.near_misses.sel(sender=p, receiver=i, group=direction)
            assert cell.item() == pytest.approx(sum(rank <= 10 for rank in ranks) / len(ranks))
            assert cell.dataset["missed"].item() == len(missed)
            assert cell.dataset["rank"].item() == sorted(ranks)[(len(ranks) - 1) // 2]
            assert cell.dataset["chance"].item() == pytest.approx(10 / 60)


def test_the_number_is_the_articles(toy):
    found = matches(toy, ["0.1"], ["1.0"]).accuracy
    W_E = toy.W_E
    queries, keys = W_E @ toy.W_Q[1, 0], W_E @ toy.W_V[0, 1] @ toy.W_O[0, 1] @ toy.W_K[1, 0]
    hits = ((queries @ keys.T).argmax(-1) == torch.arange(len(W_E))).double().mean().item()
    assert found.sel(group="top-1 key per query").item() == pytest.approx(hits)
    assert hits > 0.9
    assert found.unit == "fraction"
    assert found.dataset["chance"].values.tolist() == [1 / 64, 5 / 64] * 2


@pytest.mark.parametrize("embedding", ["raw", "extended"])
def test_a_planted_pair_matches_every_token_but_bos_and_no_other_pair_does(embedding):
    wired = induction_pair(3, 3, previous=(0, 2), induction=(2, 1), d_head=12, noise=0.005)
    model = HookedTransformer(wired.config, device="cpu")
    model.load_state_dict(wired.weights)
    heads = [f"{layer}.{head}" for layer in range(3) for head in range(3)]
    found = matches(model, heads, heads, embedding=embedding).accuracy
    for group in BEST:
        best = found.sel(group=group).top(2)
        assert best.labels[0] == f"0.2 → 2.1 {group}"
        assert best.values[0] >= 22 / 23
        assert best.values[1] < 0.5


def test_a_circuit_of_zeros_matches_no_more_than_chance():
    model = model_of()
    model.blocks[0].attn.W_O.data.zero_()
    found = matches(model)
    assert all(found.accuracy.sel(group=group).item() <= 1 / 17 for group in BEST)


def test_a_pair_in_the_wrong_order_is_no_number():
    found = matches(model_of(), ["0.0", "1.1"], ["1.0", "0.3"])
    for part in found:
        there = np.isfinite(part.values).all(axis=-1)
        assert there.tolist() == [[True, False], [False, False]]
        assert part.top(99).labels[0].startswith("0.0 → 1.0 ")


def twins(model) -> None:
    """Makes every circuit take a token for its twin: tokens 2i and 2i+1, which lie close together."""
    V, D = model.W_E.shape
    centres = torch.nn.functional.normalize(torch.randn(V // 2, D, generator=torch.Generator().manual_seed(1)), dim=-1)
    apart = 0.1 * torch.linalg.qr(centres.T)[0][:, -1]
    with torch.no_grad():
        model.blocks[0].attn.W_V.zero_()[:, :D] = torch.eye(D)
        for W in (model.blocks[1].attn.W_Q, model.blocks[1].attn.W_K):
            W.zero_()[:, :D] = torch.eye(D)
        mirror = torch.eye(D) - 2 * torch.outer(apart, apart) / apart.square().sum()
        model.blocks[0].attn.W_O.zero_()[:, :D] = mirror
        away = centres - torch.outer(centres @ apart, apart) / apart.square().sum()
        model.embed.W_E.copy_(torch.stack([away + apart, away - apart], dim=1).flatten(0, 1))


def test_misses_that_are_near_are_told_from_misses_that_are_not():
    model = model_of(config_of(d_model=24, d_vocab=200, mlp=None, attention=AttentionConfig(n_heads=1, d_head=24)))
    twins(model)
    found = matches(model)
    assert all(found.accuracy.sel(group=group).item() == 0 for group in BEST)
    for direction in DIRECTIONS:
        cell = found.near_misses.sel(group=direction)
        assert cell.item() == 1
        assert cell.dataset["rank"].item() == 1
        assert cell.dataset["shuffled"].item() < 0.3


def test_a_sample_of_the_misses_follows_its_seed():
    model = model_of(config_of(d_vocab=60))
    first, again, other = (matches(model, sample=20, seed=seed).near_misses for seed in (0, 0, 1))
    assert first.values.tolist() == again.values.tolist() != other.values.tolist()
    np.testing.assert_array_equal(first.values * 20, np.round(first.values * 20))
    assert first.record.settings["sample"] == 20
    assert first.record.seed == 0


def test_nothing_missed_is_no_number():
    model = model_of(config_of(d_model=24, d_vocab=24, mlp=None, attention=AttentionConfig(n_heads=1, d_head=24)))
    first, second = (block.attn for block in model.blocks)
    with torch.no_grad():
        for W in (model.embed.W_E, first.W_V, first.W_O, second.W_Q, second.W_K):
            W.copy_(torch.eye(24))
    found = matches(model)
    assert (found.accuracy.values == 1).all()
    assert np.isnan(found.near_misses.values).all()
    assert (found.near_misses.dataset["missed"].values == 0).all()


def test_the_record_tells_what_was_left_to_choice(toy):
    found = matches(toy, ["0.1"], ["1.0"]).accuracy
    assert found.record.task == "two-head circuit"
    assert found.record.processing == toy.record.processing
    assert found.record.settings["embedding"] == "raw"
    assert found.record.settings["distance"] is None
    rotary = matches(model_of("llama"), distance=3).accuracy
    assert rotary.record.settings["distance"] == 3


@pytest.mark.parametrize(
    ("name", "changes", "error", "message"),
    [
        (
            "gpt2",
            {"previous": ["0.4"]},
            UnknownNameError,
            "a head must be one of the model's, as layer.head, got '0.4'",
        ),
        ("gpt2", {"induction": []}, ArgumentError, r"one head or more each.* got \['0.0'\], \[\] and 1000"),
        ("gpt2", {"sample": 0}, ArgumentError, r"sample 1 token or more \(or None, for all\), got .* and 0"),
        ("gpt2", {"embedding": "row"}, UnknownNameError, "embedding must be a known one, got 'row'; nearest: raw"),
        ("gpt2", {"distance": 3}, ArgumentError, "no difference in a model whose positions are not rotary, got 3"),
        ("llama", {}, ArgumentError, r"distance must lie in 0..15, got None; S − 1 is that of repeated tokens"),
        ("llama", {"distance": 16}, ArgumentError, r"distance must lie in 0..15, got 16"),
        ("attention only", {"embedding": "extended"}, ArgumentError, "needs the first block's MLP.*attention only"),
        ("bare", {}, ArgumentError, "needs residual connections.* this model has none"),
    ],
)
def test_what_has_no_circuit_is_refused(name, changes, error, message):
    with pytest.raises(error, match=message):
        matches(model_of(name), **changes)


def test_one_circuit_of_heads_in_the_wrong_order_is_refused():
    with pytest.raises(ArgumentError, match="earlier layer than the induction head, got 1.0 and 1.1; exchange them"):
        two_head_circuit(model_of(), "1.0", "1.1")
