"""Counts of whole documents, against a reader who takes one after the other."""

import itertools
import random
from collections import Counter

import pytest
import torch

from pellucid.analysis import bigrams, skip_trigrams, texts
from pellucid.analysis.token_counts import bigram_counts, id_rows, lift, occurrences, trigram_counts


def long_documents(model):
    """Texts that are longer than the model's context, and their ids with BOS in front, once."""
    draw = random.Random(0)
    given = [" ".join(str(draw.randrange(1, 12)) for _ in range(n)) for n in (300, 3, 41)]
    return given, [model.to_tokens(text, truncate=False)[0].tolist() for text in given]


@pytest.fixture(params=[1, 1024])
def model(make_model, monkeypatch, request):
    monkeypatch.setattr(texts, "MOST", request.param)
    return make_model(n_ctx=8, d_vocab=12, n_layers=1)


def test_bigrams_of_a_text_longer_than_the_context_are_those_of_the_text(model):
    given, documents = long_documents(model)
    pairs = Counter(pair for ids in documents for pair in itertools.pairwise(ids))
    found = bigrams(model, k=12, texts=given)
    assert found.occurs.tolist() == [sum(n for (first, _), n in pairs.items() if first == i) for i in range(12)]
    assert found.occurs[0] == 3  # BOS, once for each document
    for token, (ids, counts) in enumerate(zip(found.table.ids.tolist(), found.counts.tolist(), strict=True)):
        assert counts == [pairs[token, out] for out in ids]


def test_tokens_occur_as_often_whatever_the_context(model, make_model):
    given, documents = long_documents(model)
    expected = Counter(itertools.chain.from_iterable(documents))
    for n_ctx in (8, 500):
        other = make_model(n_ctx=n_ctx, d_vocab=12, n_layers=1)
        assert occurrences(id_rows(other, given), 12).tolist() == [expected[i] for i in range(12)]


@pytest.mark.parametrize("before", [None, 3, 40])
def test_skip_trigrams_are_counted_over_the_cuts_of_the_context(model, before):
    given, documents = long_documents(model)
    found = skip_trigrams(model, 0, texts=given, n=8, before=before, seen=1)
    assert len(found) == 8 and found.record.settings["before"] == (7 if before is None else before)
    for (_, s, d, o), counts in zip(found.triples.tolist(), found.counts.tolist(), strict=True):
        told = [0, 0, 0, 0]
        for ids in documents:
            for p in range(len(ids) - 1):
                if ids[p] == d:
                    place = 0 if s in ids[max(0, p - (before or 7)) : p] else 2
                    told[place] += 1
                    told[place + 1] += ids[p + 1] == o
        assert counts == told


def test_no_triple_goes_from_one_document_into_the_next(model):
    triples = torch.tensor([[0, 5, 6, 7]])
    counts = trigram_counts(triples, id_rows(model, ["5", "6 7", "5 6 7", "5 1 6 2"]))
    assert counts.tolist() == [[2, 1, 1, 1]]


def test_padding_is_no_token_and_rows_given_twice_are_told_twice():
    rows = torch.tensor([[5, 6, 5, 7], [5, 6, -1, -1]]).numpy()
    counts, occurs = bigram_counts([rows], torch.tensor([5, 6, 5]), torch.tensor([[6, 7], [5, 6], [6, 7]]), 8)
    assert counts.tolist() == [[2, 1], [1, 0], [2, 1]] and occurs.tolist() == [3, 1, 3]


def test_a_lift_needs_both_sides():
    found = lift(torch.tensor([[9, 4, 19, 1], [0, 0, 5, 1], [5, 1, 0, 0]]))
    assert found[0].item() == pytest.approx((4.5 / 10) / (1.5 / 20)) and found[1:].isnan().all()
