"""Neurons, heads and directions: their places in texts, the tokens they write, what they add, against slow versions."""

import random

import numpy as np
import pytest
import torch

from pellucid import LayerNorm, MLPConfig, RMSNorm
from pellucid.analysis import (
    HeadOutput,
    Neuron,
    StreamDirection,
    attribution,
    direct_effects,
    logit_attribution,
    reading,
    texts,
    top_contexts,
    written_tokens,
)
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError
from pellucid.patching import pairs as make_pairs
from pellucid.pretrained.processing import Processing, process
from tests.models import CONFIGS, config_of, model_of, unchecked

WITH_MLP = [kind for kind in CONFIGS if CONFIGS[kind].mlp is not None]


def documents_of(n=12, *, longest=9, d_vocab=17, seed=0):
    """Rows of ids of different length."""
    draw = random.Random(seed)
    return [[draw.randrange(d_vocab) for _ in range(draw.randint(1, longest))] for _ in range(n)]


def caches_of(model, documents):
    """Everything, of one document after the other."""
    return [model.run_with_cache(torch.tensor([ids]))[1] for ids in documents]


def centred(model, x):
    return x - x.mean(-1, keepdim=True) if isinstance(model.config.norm, LayerNorm) else x


def literal_written(model, cache, layer, head):
    """What a head writes of one document: its pattern times values without any bias, times `W_O`."""
    x, config = centred(model, cache["resid_pre", layer][0]), model.config
    if config.norm is not None:
        x = x / cache[f"blocks.{layer}.ln1.hook_scale"][0]
        x = x if model.blocks[layer].ln1.w is None else x * model.blocks[layer].ln1.w
    of = head // (config.attention.n_heads // config.attention.kv_heads)
    return centred(
        model, cache["pattern", layer][0, head] @ (x @ model.blocks[layer].attn.W_V[of]) @ model.W_O[layer, head]
    )


def literal_values(model, cache, thing):
    """The activation at each token of one document."""
    if isinstance(thing, Neuron):
        return cache["post", thing.layer][0, :, thing.neuron]
    if isinstance(thing, HeadOutput):
        written = literal_written(model, cache, thing.layer, thing.head)
        return written.norm(dim=-1) if thing.along is None else written @ thing.along
    return centred(model, literal_stream(model, cache, thing)) @ thing.vector


def literal_stream(model, cache, thing):
    n = model.config.n_layers
    at = n if thing.layer == -1 else thing.layer
    name = "resid_mid" if thing.mlp_input else "resid_pre" if at < n else "resid_post"
    return cache[name, min(at, n - 1)][0]


def literal_places(values, *, k, sign=1, one_per=None, from_zero=False):
    """``values``: [(document, position, value)] → the k best, sorted in full; only above 0, if so."""
    best, seen = [], set()
    for document, position, value in sorted(values, key=lambda x: (-sign * x[2], x[0], x[1])):
        if (one_per is None or document not in seen) and (not from_zero or sign * value > 0):
            best.append((document, position, value))
            seen.add(document)
    return best[:k]


def things_of(config):
    vector = torch.linspace(-1, 2, config.d_model, dtype=torch.float64)
    things = [
        HeadOutput(1, 2),
        HeadOutput(0, 1, along=vector),
        StreamDirection(1, vector, "low"),
        StreamDirection(-1, vector, "high"),
    ]
    if config.mlp is not None:
        things += [Neuron(1, 3), Neuron(0, 5), Neuron(1, 0), StreamDirection(0, vector, "mid", mlp_input=True)]
    return things


def has_along(thing):
    return getattr(thing, "along", None) is not None


def assert_places(found, values, **asked):
    """Found are the best of all values; among equal ones rounding, which depends on the batch, may choose."""
    expected, at = literal_places(values, **asked), {place[:2]: place[2] for place in values}
    assert [one.value for one in found] == pytest.approx([place[2] for place in expected], abs=1e-10)
    places = [(one.document, one.position) for one in found]
    assert [one.value for one in found] == pytest.approx([at[place] for place in places], abs=1e-10)
    assert len(set(places)) == len(places)
    if asked.get("one_per") is not None:
        assert len({document for document, _ in places}) == len(places)


@pytest.mark.parametrize("one_per", [None, "document", "row"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_places_and_tally_are_those_of_a_loop_over_all_tokens(kind, one_per, monkeypatch):
    monkeypatch.setattr(texts, "MOST", 5)  # several batches
    model, documents = model_of(kind, dtype=torch.float64), documents_of()
    things = things_of(model.config)
    found = top_contexts(model, documents, what=things, k=4, negative=True, one_per=one_per, context=2)
    assert found.n_documents == len(documents) and found.tally.n == sum(map(len, documents))
    statistics, caches = found.statistics, caches_of(model, documents)
    for thing in things:
        values = [
            (number, position, float(value))
            for number, cache in enumerate(caches)
            for position, value in enumerate(literal_values(model, cache, thing).detach())
        ]
        asked = {"k": 4, "one_per": one_per, "from_zero": not hasattr(thing, "vector") and not has_along(thing)}
        assert_places(found.of(thing.label), values, **asked)
        assert_places(found.of(thing.label, negative=True), values, sign=-1, **asked)
        told, numbers = statistics.sel(component=thing.label), np.array([value for *_, value in values])
        assert told.item() == pytest.approx(numbers.mean(), abs=1e-10)
        assert told.dataset["maximum"].item() == pytest.approx(numbers.max(), abs=1e-10)
        assert told.dataset["minimum"].item() == pytest.approx(numbers.min(), abs=1e-10)
        assert told.dataset["active"].item() == pytest.approx((numbers > 0).mean())


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_shown_is_what_stands_there(kind):
    model, documents = model_of(kind, dtype=torch.float64), documents_of(seed=1)
    thing = HeadOutput(1, 2)
    for one in top_contexts(model, documents, what=thing, k=6, context=2).of("1.2"):
        ids = documents[one.document]
        start = max(0, one.position - 2)
        assert one.tokens == ids[start : one.position + 3] and one.words == tuple(map(str, one.tokens))
        assert one.at == one.position - start and one.activations[one.at] == one.value
        values = literal_values(model, *caches_of(model, [ids]), thing).detach()[start : one.position + 3]
        np.testing.assert_allclose(one.activations, values, atol=1e-10)


@pytest.mark.parametrize("one_per", [None, "document"])
@pytest.mark.parametrize("bos", [0, None])
def test_long_texts_go_on_in_further_rows(make_model, one_per, bos, monkeypatch):
    monkeypatch.setattr(texts, "MOST", 2)
    model = make_model(mlp=MLPConfig(d_mlp=7), n_ctx=8, bos=bos).double()
    long = [" ".join(map(str, ids)) for ids in documents_of(6, longest=30, d_vocab=40, seed=2)]
    found = top_contexts(model, long, what=(1, 3), k=5, one_per=one_per, length=6)
    values, front = [], 0 if bos is None else 1
    for number, text in enumerate(long):
        ids = model.to_tokens(text, truncate=False)[0].tolist()
        step = 6 - front
        for start in range(0, len(ids) - front, step):
            row = ids[:front] + ids[front + start : front + start + step]
            post = literal_values(model, *caches_of(model, [row]), Neuron(1, 3)).detach()
            values += [(number, start + p, float(post[p])) for p in range(front, len(row))]
    assert_places(found.of("L1N3"), values, k=5, one_per=one_per, from_zero=True)
    assert found.tally.n == len(values)
    for one in found.of("L1N3"):
        ids = model.to_tokens(long[one.document], truncate=False)[0].tolist()
        assert ids[one.position] == one.tokens[one.at]


def test_bos_is_shown_but_neither_counted_nor_found(toy):
    found = top_contexts(toy, ["5 6", "7"], what="1.0", k=9)
    assert found.tally.n == 3 and sorted((one.document, one.position) for one in found.of("1.0")) == [
        *((0, 1), (0, 2), (1, 1))
    ]
    assert all(one.bos and one.tokens[0] == 0 and len(one.activations) == len(one.tokens) for one in found.of("1.0"))
    near = top_contexts(toy, ["5 6 7 8 9"], what="1.0", k=9, context=1).of("1.0")
    assert {one.position for one in near if one.bos} == {1}


def test_only_what_is_needed_is_run(toy, monkeypatch):
    ran = []
    run = type(toy).run

    def counting(self, *args, **more):
        done = run(self, *args, **more)
        ran.append((more["stop_at_layer"], sorted(done.cache)))
        return done

    monkeypatch.setattr(type(toy), "run", counting)
    top_contexts(toy, ["5 6", "7"], what="0.1", k=1)
    assert ran == [(1, ["blocks.0.attn.hook_z"])]


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"k": 2.0}, ArgumentError, "k must be 1 or more, a whole number, got 2.0"),
        ({"k": True}, ArgumentError, "k must be 1 or more, a whole number, got True"),
        ({"context": 1.5}, ArgumentError, "context must be 0 or more, a whole number, got 1.5"),
        ({"length": 2.5}, ArgumentError, "length must be 2 or more, a whole number, got 2.5"),
        ({"k": 0}, ArgumentError, "k must be 1 or more, a whole number, got 0"),
        ({"context": -1}, ArgumentError, "context must be 0 or more, a whole number, got -1"),
        ({"one_per": "doc"}, UnknownNameError, "one_per must be document, row or None, got 'doc'"),
        ({"length": 17}, ArgumentError, "length must lie in 2..16, the model's context, got 17"),
        ({"first_document": -1}, ArgumentError, "first_document must be 0 or more, a whole number, got -1"),
    ],
)
def test_what_cannot_be_is_said(asked, error, message):
    given = {"texts": [[1, 2]], "what": "L0N1", **asked}
    with unchecked(), pytest.raises(error, match=message):
        top_contexts(model_of(), given.pop("texts"), **given)


def test_neurons_need_mlps_and_rows_of_ids_need_bos(toy):
    with pytest.raises(ArgumentError, match="this model has attention only; watch its heads"):
        top_contexts(toy, ["5"], what="L0N1")
    with pytest.raises(TokenError, match="tokens must start with BOS"):
        top_contexts(toy, torch.tensor([[5, 6]]), what="0.1")
    with pytest.raises(ArgumentError, match="must hold a token besides BOS, got none"):
        top_contexts(toy, [[0]], what="0.1")


# What is written


@pytest.mark.parametrize("kind", WITH_MLP)
def test_written_tokens_are_those_of_the_dense_matrix(kind):
    model = model_of(kind, dtype=torch.float64)
    vector = torch.linspace(-1, 2, 10, dtype=torch.float64)
    found = written_tokens(model, ["L0N3", "L1N5", StreamDirection(1, vector, "mine")], k=5)
    rows = torch.stack([model.W_out[0, 3], model.W_out[1, 5], vector]).detach()
    if isinstance(model.config.norm, LayerNorm):
        rows = rows - rows.mean(-1, keepdim=True)
    rows = rows if model.config.norm is None else rows * model.ln_final.w.detach()
    dense = rows @ model.W_U.detach()
    dense = dense - dense.mean(-1, keepdim=True)
    for table, largest in zip(found, (True, False), strict=True):
        best = dense.topk(5, largest=largest)
        torch.testing.assert_close(table.scores, best.values, rtol=0, atol=1e-10)
        assert torch.equal(table.ids, best.indices) and table.labels == ["L0N3", "L1N5", "mine"]
    alone = written_tokens(model, vector, k=5).raised
    assert torch.equal(alone.ids[0], found.raised.ids[2]) and alone.labels == ["direction 0"]


@pytest.mark.parametrize("what", ["L1N2", "1.2"])
@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()])
def test_processing_changes_nothing_of_what_is_written(norm, what):
    model = model_of(config_of(norm=norm), dtype=torch.float64)
    before = written_tokens(model, what, k=6)
    process(model, Processing())
    for was, now in zip(before, written_tokens(model, what, k=6), strict=True):
        torch.testing.assert_close(now.scores, was.scores, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_head_writes_most_along_the_first_direction_of_its_dense_ov(kind):
    model = model_of(kind, dtype=torch.float64)
    vector = torch.linspace(-1, 2, 10, dtype=torch.float64)
    found = written_tokens(model, ["1.2", HeadOutput(0, 1, along=vector, name="mine")], k=17)
    attention, w = model.config.attention, getattr(model.blocks[1].ln1, "w", None)
    read = model.blocks[1].attn.W_V[2 // (attention.n_heads // attention.kv_heads)].detach()
    read = read if w is None else read * w.detach()[:, None]
    if isinstance(model.config.norm, LayerNorm):
        read = read - read.mean(0)
    strongest = torch.linalg.svd(read @ centred(model, model.W_O[1, 2].detach())).Vh[0]
    rows = centred(model, torch.stack([strongest, vector]))
    rows = rows if model.config.norm is None else rows * model.ln_final.w.detach()
    dense = rows @ model.W_U.detach()
    dense = dense - dense.mean(-1, keepdim=True)
    dense[0] *= dense[0, dense[0].abs().argmax()].sign()
    for table, largest in zip(found, (True, False), strict=True):
        torch.testing.assert_close(table.scores, dense.topk(17, largest=largest).values, rtol=0, atol=1e-10)
        assert table.labels == ["1.2", "0.1 along mine"] and table.record.settings["singular"] == ["1.2"]


def test_of_a_heads_two_senses_the_one_that_says_most_of_a_token_is_raised():
    model = model_of()
    raised, lowered = written_tokens(model, [f"{layer}.{head}" for layer in (0, 1) for head in range(4)], k=1)
    assert (raised.scores > -lowered.scores).all() and (lowered.scores < 0).all()


def test_what_writes_nothing_or_is_no_direction_is_refused():
    model = model_of()
    with torch.no_grad():
        model.blocks[0].attn.W_O[1] = 0
    with pytest.raises(ArgumentError, match="head 0.1 must write something, and its OV is 0"):
        written_tokens(model, ["0.0", "0.1"])
    with pytest.raises(ArgumentError, match="vectors must be \\[direction 10\\], got \\[9\\]"):
        written_tokens(model, torch.ones(9))
    with unchecked(), pytest.raises(ArgumentError, match="k must be 1 or more, a whole number, got 2.0"):
        written_tokens(model, "0.2", k=2.0)


# What is added


def prompts(seed=0):
    rows = [ids for ids in documents_of(9, seed=seed) if len(ids) > 1]
    n = len(rows)
    return make_pairs(rows, rows, answer=[[1, 2]] * n, wrong=[3] * n, positions={"first": 0})


@pytest.mark.parametrize("kind", WITH_MLP)
def test_effects_are_those_of_the_full_attribution(kind, monkeypatch):
    monkeypatch.setattr(reading, "NUMBERS", 200)  # several parts
    model, pairs = model_of(kind, dtype=torch.float64), prompts()
    full = logit_attribution(model, pairs, by="neuron")
    chosen = ["L1N3", "L0N5", "L0N0"]
    found = direct_effects(model, pairs, chosen)
    assert found.unit == "logits" and found.dims == ("prompt", "component")
    for label, (layer, neuron) in zip(chosen, ((1, 3), (0, 5), (0, 0)), strict=True):
        expected = full.sel(layer=layer, neuron=neuron).values
        np.testing.assert_allclose(found.sel(component=label).values, expected, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_effects_of_heads_are_those_of_the_full_attribution(kind, monkeypatch):
    monkeypatch.setattr(reading, "NUMBERS", 200)  # several parts
    model, pairs = model_of(kind, dtype=torch.float64), prompts()
    full, chosen = logit_attribution(model, pairs, by="head"), ["1.3", "0.2", "1.0"]
    found = direct_effects(model, pairs, chosen)
    for label in chosen:
        layer, head = map(int, label.split("."))
        expected = full.sel(layer=layer, head=head).values
        np.testing.assert_allclose(found.sel(component=label).values, expected, atol=1e-10)


@pytest.mark.parametrize("kind", CONFIGS)
def test_effects_along_directions_are_those_of_one_component_of_the_vector(kind):
    model, pairs = model_of(kind, dtype=torch.float64), prompts()
    directions = [thing for thing in things_of(model.config) if has_along(thing) or hasattr(thing, "vector")]
    found, answers = direct_effects(model, pairs, directions), attribution.Answers.of(model, pairs).directions
    for thing in directions:
        unit = centred(model, getattr(thing, "vector", getattr(thing, "along", None)))
        unit, last = unit / unit.norm(), model.config.n_layers - 1
        for i, length in enumerate(pairs.lengths.tolist()):
            _, cache = model.run_with_cache(pairs.clean[i : i + 1, :length])
            if isinstance(thing, HeadOutput):
                x = cache["z", thing.layer][0, -1, thing.head] @ model.W_O[thing.layer, thing.head]
                heard = model.config.residual or (thing.layer == last and model.config.mlp is None)
            else:
                x, heard = literal_stream(model, cache, thing)[-1], model.config.residual or thing.layer == -1
            written = centred(model, (x @ unit) * unit) * heard
            if model.config.norm is not None:
                written = written / cache["ln_final.hook_scale"][0, -1] * model.ln_final.w
            assert found.sel(component=thing.label).values[i] == pytest.approx((written @ answers[i]).item(), abs=1e-10)
            value = literal_values(model, cache, thing)[-1].item()
            told = found.dataset["activation"].sel(component=thing.label).values[i]
            assert told == pytest.approx(value, abs=1e-10)


def test_components_along_an_orthonormal_basis_add_up_to_the_head():
    model, pairs = model_of(dtype=torch.float64), prompts()
    basis = torch.linalg.svd(centred(model, torch.randn(10, 10, dtype=torch.float64))).Vh[
        :-1
    ]  # of what LayerNorm leaves
    along = [HeadOutput(1, 2, along=vector, name=str(i)) for i, vector in enumerate(basis)]
    found = direct_effects(model, pairs, ["1.2", *along]).values
    np.testing.assert_allclose(found[:, 1:].sum(1), found[:, 0], atol=1e-10)


@pytest.mark.parametrize("kind", WITH_MLP)
def test_effects_at_a_named_position_along_a_given_direction(kind):
    model, pairs = model_of(kind, dtype=torch.float64), prompts()
    direction = torch.linspace(-1, 1, 10, dtype=torch.float64)
    found = direct_effects(model, pairs, (1, 4), at="first", direction=direction)
    for i, length in enumerate(pairs.lengths.tolist()):
        _, cache = model.run_with_cache(pairs.clean[i : i + 1, :length])
        post = cache["post", 1][0, 0, 4]
        written = post * model.W_out[1, 4]
        if isinstance(model.config.norm, LayerNorm):
            written = written - written.mean()
        if model.config.norm is not None:
            written = written / cache["ln_final.hook_scale"][0, 0] * model.ln_final.w
        assert found.values[i, 0] == pytest.approx((written @ direction).item(), abs=1e-10)
        assert found.dataset["activation"].values[i, 0] == pytest.approx(post.item(), abs=1e-10)


def test_effects_that_cannot_be_are_refused():
    model, pairs = model_of(), prompts()
    with pytest.raises(UnknownNameError, match="at must be a position of the pairs, got 'last'"):
        direct_effects(model, pairs, "L0N1", at="last")
    with pytest.raises(ArgumentError, match="need pairs with answers or a direction, got neither"):
        direct_effects(model, make_pairs([[1, 2]], [[1, 2]]), "L0N1")
    with pytest.raises(ArgumentError, match="direction must be"):
        direct_effects(model, pairs, "L0N1", direction=torch.ones(9))
