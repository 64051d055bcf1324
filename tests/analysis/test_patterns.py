"""Statistics of attention, against loops over the cells of cached patterns."""

import math
import warnings
from dataclasses import replace

import pytest
import torch

from pellucid import HookedTransformer
from pellucid.analysis import pattern_statistics, texts
from pellucid.analysis.attention import Cells, masses, warn_of_rest
from pellucid.analysis.heads import PREVIOUS, head_scores
from pellucid.analysis.patterns import PatternStatistics
from pellucid.analysis.task_heads import attention_from, previous_attention
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from pellucid.tasks.pairs import Pairs
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, config_of, model_of

NAMES = ("entropy", "keys", "distance", "first", "itself", "previous")


def literal(pattern, start):
    """The six numbers of one head on one row, cell by cell; `start` is 1 behind BOS."""
    n = len(pattern)
    told = {name: [] for name in NAMES}
    for q in range(1, n):
        p = [pattern[q][key] for key in range(q + 1)]
        entropy = -sum(x * math.log(x) for x in p if x > 0)
        told["entropy"].append(entropy)
        told["keys"].append(math.exp(entropy))
        told["distance"].append(sum(x * (q - key) for key, x in enumerate(p)))
        told["first"].append(p[0])
        told["itself"].append(p[q])
        if q - 1 >= start:
            told["previous"].append(p[q - 1])
    return {name: sum(values) / len(values) for name, values in told.items()}


def assert_literal(found, model, rows, start):
    for i, ids in enumerate(rows):
        _, cache = model.run_with_cache(torch.tensor([ids]))
        uniform = [[1 / (q + 1)] * (q + 1) for q in range(len(ids))]
        for name, value in literal(uniform, start).items():
            assert getattr(found, name).dataset["control"].values[i] == pytest.approx(value, abs=1e-10)
        for layer in range(model.config.n_layers):
            for head in range(model.config.attention.n_heads):
                expected = literal(cache["pattern", layer][0, head].tolist(), start)
                for name in NAMES:
                    value = getattr(found, name).values[i, layer, head]
                    assert value == pytest.approx(expected[name], abs=1e-10), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_statistics_are_those_of_a_loop_over_cells(kind, monkeypatch):
    monkeypatch.setattr(texts, "MOST", 2)
    model = model_of(kind, dtype=torch.float64)
    rows = [[1, 2, 3, 4], [5, 6], [5, 6, 7], [1], [2, 2, 9, 1, 0, 3, 4]]
    found = pattern_statistics(model, rows)
    long = [ids for ids in rows if len(ids) >= 3]
    assert found.entropy.shape == (3, 2, 4) and found.entropy.unit == "nats" and found.keys.unit == "tokens"
    assert found.first.dataset["document"].values.tolist() == [0, 2, 4]
    assert_literal(found, model, long, 0)


def test_bos_is_no_previous_token(make_model):
    model = make_model(n_ctx=8).double()
    found = pattern_statistics(model, ["5 6 7", "8 9 10 11 12 13 14 15 16"])
    rows = [[0, 5, 6, 7], [0, *range(8, 15)], [0, 15, 16]]
    assert found.first.dataset["document"].values.tolist() == [0, 1, 1]
    assert_literal(found, model, rows, 1)


def test_the_toy_looks_back_by_one(toy):
    found = pattern_statistics(toy, ["5 6 7 8 9 10 11 12 13 14"])
    assert isinstance(found, PatternStatistics)
    assert found.previous.mean("prompt").top(1).label == "0.1"
    head = {"layer": 0, "head": 1}
    assert found.keys.mean("prompt").sel(**head).item() < found.keys.dataset["control"].mean().item()


@pytest.mark.parametrize(("bos", "where"), [(0, "BOS"), (None, "the first token")])
def test_heads_that_rest_are_warned_of(make_model, bos, where):
    model = make_model(bos=bos)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_Q.zero_()
    short = ["5 6"] if bos is not None else ["5 6 7"]
    pattern_statistics(model, ["5 6 7 8 9 10"])  # uniform attention rests nowhere
    with torch.no_grad():
        model.pos_embed.W_pos.zero_()
        model.pos_embed.W_pos[0, 0] = 100.0
        for block in model.blocks:
            block.attn.b_Q[..., 0] = 100.0
            block.attn.W_K.zero_()
            block.attn.W_K[:, 0, 0] = 1.0
    with pytest.warns(MisreadWarning, match=f"100% of the heads rest on {where}"):
        pattern_statistics(model, short)


def test_half_of_the_heads_are_not_most():
    warn_of_rest(torch.tensor([[0.9, 0.4]]))
    warn_of_rest(torch.zeros(0, 4))
    with pytest.warns(MisreadWarning, match="75% of the heads rest on BOS"):
        warn_of_rest(torch.tensor([[0.9, 0.4], [0.5, 0.6]]))


def test_what_has_no_patterns_is_refused(toy):
    with pytest.raises(ArgumentError, match="texts must hold a row of three tokens or more"):
        pattern_statistics(toy, ["5", "6"])
    with pytest.raises(ArgumentError, match="need a model with layers, got n_layers=0"):
        pattern_statistics(model_of(config_of(n_layers=0)), [[1, 2, 3]])
    with pytest.raises(TokenError, match="tokens must start with BOS"):
        pattern_statistics(toy, torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("bos", [True, False])
def test_whoever_averages_patterns_is_warned_where_heads_rest_on_the_first_token(bos):
    """All queries look at position 0, whatever stands there; it is called BOS where it is, and only there."""
    model = HookedTransformer(config_of(n_layers=1), integer_vocabulary(17), seed=0).requires_grad_(False)
    model.pos_embed.W_pos.zero_()
    model.pos_embed.W_pos[0, 0] = 100.0
    for block in model.blocks:
        block.attn.W_Q.zero_(), block.attn.W_K.zero_()
        block.attn.b_Q[..., 0], block.attn.W_K[:, 0, 0] = 100.0, 1.0
    if not bos:
        model.tokenizer.policy = replace(model.tokenizer.policy, prepend_bos=False)
    tokens = torch.randint(1, 17, (3, 10), generator=torch.Generator().manual_seed(0))
    if bos:
        tokens[:, 0] = 0
    pairs = Pairs.from_tokens(tokens, tokens)
    ways = {
        "head_scores": lambda: head_scores(model, tokens, PREVIOUS),
        "attention_from": lambda: attention_from(model, pairs, "end"),
        "previous_attention": lambda: previous_attention(model, pairs),
        "masses": lambda: masses(model, tokens, [Cells(torch.tensor([3]), torch.tensor([2]))]),
        "pattern_statistics": lambda: pattern_statistics(model, tokens),
    }
    for name, way in ways.items():
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            way()
        said = [str(one.message) for one in seen]
        where = "BOS" if bos else "the first token"
        assert any(f"of the heads rest on {where}:" in text for text in said), (name, said)
        assert bos or not any("rest on BOS" in text for text in said)
