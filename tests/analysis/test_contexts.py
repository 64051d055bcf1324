"""Places and tallies: merged from parts, told apart, and left out where nothing happens."""

import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid import MLPConfig
from pellucid.analysis import HeadOutput, StreamDirection, contexts, merge_contexts, texts, top_contexts
from pellucid.base.errors import ArgumentError, UnknownNameError
from pellucid.pretrained.processing import Processing
from tests.models import config_of, model_of


def documents_of(n=12, *, longest=9, d_vocab=17, seed=0):
    """Rows of ids of different length."""
    draw = random.Random(seed)
    return [[draw.randrange(d_vocab) for _ in range(draw.randint(1, longest))] for _ in range(n)]


# Merging


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


def test_documents_of_two_parts_must_be_numbered_apart():
    model, documents = model_of("gpt2"), documents_of(9)
    first, second = (top_contexts(model, part, what="1.2", k=4) for part in (documents[:5], documents[5:]))
    assert first.documents == ((0, 5),) and second.documents == ((0, 4),)
    with pytest.raises(ArgumentError, match="got documents 0..3 and 0..4; number those of the second part with"):
        merge_contexts(first, second)
    behind = top_contexts(model, documents[5:], what="1.2", k=4, first_document=5)
    assert merge_contexts(first, behind).documents == merge_contexts(behind, first).documents == ((0, 9),)
    far = top_contexts(model, documents[5:], what="1.2", k=4, first_document=50)
    both = merge_contexts(first, far)
    assert both.documents == ((0, 5), (50, 54)) and both.n_documents == 9
    with pytest.raises(ArgumentError, match=r"first_document=54"):
        merge_contexts(both, top_contexts(model, documents, what="1.2", k=4, first_document=53))


def test_one_pass_numbers_its_documents_however_it_is_cut(make_model, monkeypatch):
    monkeypatch.setattr(texts, "MOST", 1)  # the second document lies in several batches
    model = make_model(n_ctx=8)
    found = top_contexts(model, ["5 6", " ".join(map(str, range(1, 30))), "7"], what="1.0", k=2, first_document=3)
    assert found.documents == ((3, 6),) and found.n_documents == 3


ONE, OTHER = (torch.linspace(-1, 2, 10) ** power for power in (1, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"what": "L0N2"}, "must have the same labels, got"),
        ({"k": 3}, "must have the same k, got 2 and 3"),
        ({"one_per": "row"}, "must have the same one_per, got None and 'row'"),
        ({"negative": True}, "must both have negative places, or neither"),
        ({"length": 5}, "must have the same length, got None and 5"),
        ({"context": 3}, "must have the same context, got 20 and 3"),
        ({"model": model_of(seed=1)}, "must have the same fingerprint, of what is watched and of the model's weights"),
        ({"model": model_of(dtype=torch.float64)}, "must have the same dtype, got 'float32' and 'float64'"),
    ],
)
def test_parts_that_differ_are_not_merged(changes, message):
    model, documents = model_of(), documents_of(3, longest=5)
    one = top_contexts(model, documents, what="L0N1", k=2)
    asked = {"model": model, "texts": documents, "what": "L0N1", "k": 2, "first_document": 3} | changes
    with pytest.raises(ArgumentError, match=message):
        merge_contexts(one, top_contexts(asked.pop("model"), asked.pop("texts"), **asked))


@pytest.mark.parametrize("other", [{"vector": OTHER}, {"layer": 0}, {"mlp_input": True}])
def test_directions_of_one_name_that_differ_are_not_merged(other):
    model, documents = model_of(), documents_of(3)
    first, second = (StreamDirection(**{"layer": 1, "vector": ONE} | more) for more in ({}, other))
    one = top_contexts(model, documents, what=first)
    with pytest.raises(ArgumentError, match="must have the same fingerprint"):
        merge_contexts(one, top_contexts(model, documents, what=second, first_document=3))
    assert len(merge_contexts(one, top_contexts(model, documents, what=first, first_document=3))) == 1


def test_records_that_differ_are_not_merged_unless_one_lacks_the_hash():
    one = top_contexts(model_of(), documents_of(3), what="1.0")
    far = replace(one, documents=((3, 6),))
    for changes, message in (
        ({"weights_hash": "b"}, "must have the same weights_hash, got 'a' and 'b'"),
        ({"processing": tuple(vars(Processing()))}, "must have the same processing, got"),
        ({"model": "gpt2"}, "must have the same model, got None and 'gpt2'"),
    ):
        first = replace(one, record=one.record.add(weights_hash="a"))
        with pytest.raises(ArgumentError, match=message):
            merge_contexts(first, replace(far, record=first.record.add(**changes)))
        assert merge_contexts(first, far).n_documents == 6


# Places


@pytest.mark.parametrize("most", [1, 3, 1024])
def test_one_per_row_takes_the_best_of_each_row_of_a_long_document(make_model, monkeypatch, most):
    monkeypatch.setattr(texts, "MOST", most)
    model, draw = make_model(n_ctx=6).double(), random.Random(0)
    long = [" ".join(str(draw.randrange(1, 40)) for _ in range(n)) for n in (17, 3, 11)]
    thing = HeadOutput(0, 1, along=torch.linspace(-1, 2, 12, dtype=torch.float64))
    best = []
    for number, text in enumerate(long):
        ids = model.to_tokens(text, truncate=False)[0].tolist()[1:]
        for start in range(0, len(ids), 5):
            row = torch.tensor([[0, *ids[start : start + 5]]])
            values = top_contexts(model, row, what=thing, k=1).of(thing.label)[0]
            best.append((values.value, number, start + values.position, start))
    best.sort(reverse=True)
    found = top_contexts(model, long, what=thing, k=5, one_per="row").of(thing.label)
    assert [one.value for one in found] == pytest.approx([one[0] for one in best[:5]], abs=1e-10)
    assert [(one.document, one.position, one.row) for one in found] == [one[1:] for one in best[:5]]
    assert len({one.document for one in found}) < 5


def test_equal_activations_are_taken_as_they_come_however_the_texts_are_cut(monkeypatch):
    model, documents = model_of("bare", dtype=torch.float64), documents_of(12)
    with torch.no_grad():
        model.blocks[0].attn.W_O[1] = 0
    silent = [HeadOutput(0, 1, along=torch.ones(10, dtype=torch.float64))]
    for most in (1, 2, 100):
        monkeypatch.setattr(texts, "MOST", most)
        for one_per in (None, "document"):
            (places,) = top_contexts(model, documents, what=silent, k=7, one_per=one_per).most
            everywhere = [(i, p) for i, ids in enumerate(documents) for p in range(len(ids))]
            firsts = [(i, 0) for i in range(len(documents))]
            expected = everywhere if one_per is None else firsts
            assert [(one.document, one.position) for one in places] == expected[:7]


def test_a_neuron_that_is_never_active_has_no_places():
    model = model_of(config_of(mlp=MLPConfig(d_mlp=14, act="relu")))
    with torch.no_grad():
        model.blocks[0].mlp.b_in[3] = -1e6
    found = top_contexts(model, documents_of(), what=["L0N3", "L0N4", "1.2"], k=50, negative=True)
    assert found.of("L0N3") == [] and found.statistics.sel(component="L0N3").dataset["maximum"].item() == 0
    assert 0 < len(found.of("L0N4")) < 50 and all(one.value > 0 for one in found.of("L0N4"))
    for label in found.labels:  # no activation of a ReLU, and no length, is below 0
        assert found.of(label, negative=True) == []
    assert "nowhere above 0" in repr(found)


def test_along_a_direction_places_below_0_may_be_the_largest():
    model = model_of()
    with torch.no_grad():
        model.embed.W_E[:] = 0
        model.pos_embed.W_pos[:] = -ONE
    found = top_contexts(model, documents_of(), what=StreamDirection(0, ONE), k=3)
    assert len(found.most[0]) == 3 and all(one.value < 0 for one in found.most[0])


# Tallies, and what is shown


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
