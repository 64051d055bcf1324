"""Neurons, heads and directions: their places in texts, the tokens they write, what they add, against slow versions."""

import pickle
import random

import numpy as np
import pytest
import torch

from pellucid import LayerNorm, MLPConfig, RMSNorm
from pellucid.analysis import (
    HeadOutput,
    Neuron,
    StreamDirection,
    contexts,
    logit_attribution,
    merge_contexts,
    neuron_effects,
    reading,
    texts,
    top_contexts,
    written_tokens,
)
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError, UnknownNameError
from pellucid.patching import pairs as make_pairs
from pellucid.pretrained.processing import Processing, process
from tests.models import CONFIGS, config_of, model_of

WITH_MLP = [kind for kind in CONFIGS if CONFIGS[kind].mlp is not None]


def documents_of(n=12, *, longest=9, d_vocab=17, seed=0):
    """Rows of ids of different length."""
    draw = random.Random(seed)
    return [[draw.randrange(d_vocab) for _ in range(draw.randint(1, longest))] for _ in range(n)]


def caches_of(model, documents):
    """Everything, of one document after the other."""
    return [model.run_with_cache(torch.tensor([ids]))[1] for ids in documents]


def literal_values(model, cache, thing):
    """The activation at each token of one document."""
    if isinstance(thing, Neuron):
        return cache["post", thing.layer][0, :, thing.neuron]
    if isinstance(thing, HeadOutput):
        written = cache["z", thing.layer][0, :, thing.head] @ model.W_O[thing.layer, thing.head]
        return written.norm(dim=-1) if thing.along is None else written @ thing.along
    n = model.config.n_layers
    at = n if thing.layer == -1 else thing.layer
    name = "resid_mid" if thing.mlp_input else "resid_pre" if at < n else "resid_post"
    return cache[name, min(at, n - 1)][0] @ thing.vector


def literal_places(values, *, k, sign=1, one_per=None):
    """``values``: [(document, position, value)] → the k best, sorted in full."""
    best, seen = [], set()
    for document, position, value in sorted(values, key=lambda x: (-sign * x[2], x[0], x[1])):
        if one_per is None or document not in seen:
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
        assert_places(found.of(thing.label), values, k=4, one_per=one_per)
        assert_places(found.of(thing.label, negative=True), values, k=4, sign=-1, one_per=one_per)
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
    assert_places(found.of("L1N3"), values, k=5, one_per=one_per)
    assert found.tally.n == len(values)
    for one in found.of("L1N3"):
        ids = model.to_tokens(long[one.document], truncate=False)[0].tolist()
        assert ids[one.position] == one.tokens[one.at]


def test_equal_activations_are_taken_as_they_come_however_the_texts_are_cut(monkeypatch):
    model, documents = model_of("bare", dtype=torch.float64), documents_of(12)
    silent = [HeadOutput(0, 1, along=torch.zeros(10, dtype=torch.float64))]
    for most in (1, 2, 100):
        monkeypatch.setattr(texts, "MOST", most)
        for one_per in (None, "document"):
            (places,) = top_contexts(model, documents, what=silent, k=7, one_per=one_per).most
            everywhere = [(i, p) for i, ids in enumerate(documents) for p in range(len(ids))]
            firsts = [(i, 0) for i in range(len(documents))]
            expected = everywhere if one_per is None else firsts
            assert [(one.document, one.position) for one in places] == expected[:7]


@pytest.mark.parametrize("one_per", [None, "document"])
def test_two_parts_make_what_one_pass_makes(one_per):
    model, documents = model_of("gpt2", dtype=torch.float64), documents_of(20)
    asked = {"what": ["L0N1", "L1N2", "1.3"], "k": 5, "negative": True, "one_per": one_per}
    whole = top_contexts(model, documents, **asked)
    parts = [
        top_contexts(model, documents[start : start + 7], first_document=start, **asked) for start in range(0, 20, 7)
    ]
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]
    for order in ((0, 1, 2), (2, 0, 1)):
        first, second, third = (parts[i] for i in order)
        joined = merge_contexts(merge_contexts(first, second), third)
        assert joined.n_documents == 20 and joined.tally.n == whole.tally.n
        np.testing.assert_allclose(joined.statistics.values, whole.statistics.values, atol=1e-12)
        np.testing.assert_allclose(joined.tally.quantile(0.9), whole.tally.quantile(0.9), rtol=0.03)
        for negative in (False, True):
            for label in whole.labels:
                one, other = joined.of(label, negative=negative), whole.of(label, negative=negative)
                assert [x.value for x in one] == pytest.approx([y.value for y in other], abs=1e-12)
                assert all(x.words == tuple(map(str, x.tokens)) for x in one)


def test_parts_that_differ_are_not_merged():
    model, documents = model_of(), documents_of(3)
    one = top_contexts(model, documents, what="L0N1", k=2)
    with pytest.raises(ArgumentError, match="must have the same labels, got"):
        merge_contexts(one, top_contexts(model, documents, what="L0N2", k=2))
    with pytest.raises(ArgumentError, match="must have the same k, got 2 and 3"):
        merge_contexts(one, top_contexts(model, documents, what="L0N1", k=3))
    with pytest.raises(ArgumentError, match="must both have negative places, or neither"):
        merge_contexts(one, top_contexts(model, documents, what="L0N1", k=2, negative=True))


def test_quantiles_are_right_to_one_percent():
    x = torch.randn(2, 5000, dtype=torch.float64) ** 3 * torch.tensor([[1.0], [100.0]], dtype=torch.float64)
    tally = contexts.Tally.of(x[:, :1000]).plus(contexts.Tally.of(x[:, 1000:]))
    for share in (0, 0.01, 0.3, 0.5, 0.9, 0.999, 1):
        exact = np.quantile(x.numpy(), share, axis=1, method="inverted_cdf")
        np.testing.assert_allclose(tally.quantile(share), exact, rtol=0.0101, atol=1e-5)
    assert contexts.Tally.of(torch.zeros(1, 4)).quantile(0.5) == 0
    with pytest.raises(ArgumentError, match="must lie in 0..1, got 2"):
        tally.quantile(2)
    with pytest.raises(ArgumentError, match="activations must be finite"):
        contexts.Tally.of(torch.tensor([[1.0, float("nan")]]))


def test_a_result_shows_its_places(toy, make_model):
    found = top_contexts(toy, ["5 6 7 5", "9"], what="1.0", k=2)
    assert "Where 1 things are most active in 5 tokens of 2 documents" in repr(found)
    assert "«" in repr(found) and "1.0" in found._repr_html_() and found.__rich__().row_count == 2
    with pytest.raises(UnknownNameError, match="label must be one that was watched, got '1.1'; nearest: 1.0"):
        found.of("1.1")
    with pytest.raises(ArgumentError, match="negative contexts were not asked for"):
        found.of("1.0", negative=True)


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
        ({"what": "L2N0"}, ArgumentError, "layer must lie in 0..1, got 2"),
        ({"what": (0, 14)}, ArgumentError, "neuron must lie in 0..13, got 14"),
        ({"what": "0.4"}, ArgumentError, "head must lie in 0..3, got 4"),
        ({"what": "mlp3"}, UnknownNameError, "a name must be like 'L8N2744', a neuron, or '5.1', a head, got 'mlp3'"),
        ({"what": []}, ArgumentError, "must be one thing or more, each of another name, got \\[\\]"),
        ({"what": ["L0N1", (0, 1)]}, ArgumentError, "each of another name, got \\['L0N1', 'L0N1'\\]"),
        ({"what": [3.5]}, ArgumentError, "must be Neuron, HeadOutput, StreamDirection or a name, got 3.5"),
        ({"what": StreamDirection(3, torch.ones(10))}, ArgumentError, "layer must lie in 0..2"),
        ({"what": StreamDirection(1, torch.ones(9))}, ArgumentError, "a direction must be \\[10\\], got \\[9\\]"),
        ({"what": HeadOutput(0, 1, torch.ones(9))}, ArgumentError, "a direction must be \\[10\\], got \\[9\\]"),
        ({"k": 0}, ArgumentError, "k must be 1 or more, got 0"),
        ({"context": -1}, ArgumentError, "context must be 0 or more, got -1"),
        ({"one_per": "doc"}, UnknownNameError, "one_per must be document, row or None, got 'doc'"),
        ({"length": 17}, ArgumentError, "length must lie in 2..16, the model's context, got 17"),
        ({"first_document": -1}, ArgumentError, "first_document must be 0 or more, got -1"),
        ({"texts": ["text"]}, TokenError, "text needs a model with a tokenizer"),
        (
            {"texts": [list(range(17))]},
            ArgumentError,
            "a row of ids must have 1..16 tokens, got \\[17\\] in document 0",
        ),
        ({"texts": torch.tensor([1, 2])}, ArgumentError, "rows of ids must be \\[row pos\\], got \\[2\\]"),
        ({"texts": []}, ArgumentError, "texts must hold a token besides BOS, got none"),
    ],
)
def test_what_cannot_be_is_said(asked, error, message):
    given = {"texts": [[1, 2]], "what": "L0N1", **asked}
    with pytest.raises(error, match=message):
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


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()])
def test_processing_changes_nothing_of_what_is_written(norm):
    model = model_of(config_of(norm=norm), dtype=torch.float64)
    before = written_tokens(model, "L1N2", k=6)
    process(model, Processing())
    for was, now in zip(before, written_tokens(model, "L1N2", k=6), strict=True):
        torch.testing.assert_close(now.scores, was.scores, rtol=0, atol=1e-8)


def test_a_head_writes_no_one_direction():
    with pytest.raises(ArgumentError, match="head 0.1 writes another direction for each token; take ov_tokens"):
        written_tokens(model_of(), "0.1")
    with pytest.raises(ArgumentError, match="vectors must be \\[direction 10\\], got \\[9\\]"):
        written_tokens(model_of(), torch.ones(9))


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
    found = neuron_effects(model, pairs, chosen)
    assert found.unit == "logits" and found.dims == ("prompt", "component")
    for label, (layer, neuron) in zip(chosen, ((1, 3), (0, 5), (0, 0)), strict=True):
        expected = full.sel(layer=layer, neuron=neuron).values
        np.testing.assert_allclose(found.sel(component=label).values, expected, atol=1e-10)


@pytest.mark.parametrize("kind", WITH_MLP)
def test_effects_at_a_named_position_along_a_given_direction(kind):
    model, pairs = model_of(kind, dtype=torch.float64), prompts()
    direction = torch.linspace(-1, 1, 10, dtype=torch.float64)
    found = neuron_effects(model, pairs, (1, 4), at="first", direction=direction)
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
    with pytest.raises(ArgumentError, match="neurons must be neurons, such as 'L8N2744'"):
        neuron_effects(model, pairs, ["0.1", "L0N1"])
    with pytest.raises(UnknownNameError, match="at must be a position of the pairs, got 'last'"):
        neuron_effects(model, pairs, "L0N1", at="last")
    with pytest.raises(ArgumentError, match="need pairs with answers or a direction, got neither"):
        neuron_effects(model, make_pairs([[1, 2]], [[1, 2]]), "L0N1")
    with pytest.raises(ArgumentError, match="direction must be"):
        neuron_effects(model, pairs, "L0N1", direction=torch.ones(9))


def test_rows_of_ids_without_a_bos_that_the_model_has_are_warned_of(make_model):
    model = make_model()
    model.tokenizer.policy = type(model.policy)(**{**vars(model.policy), "prepend_bos": False})
    with pytest.warns(MisreadWarning, match="1 of 1 prompts lack BOS"):
        top_contexts(model, [[5, 6]], what="0.1")
