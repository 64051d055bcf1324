"""Texts as rows: cut to the context, or whole; what is no text is refused with its document."""

import random

import pytest
import torch

from pellucid.analysis import bigrams, texts, top_contexts
from pellucid.analysis.texts import rows_of, whole_documents
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from tests.models import config_of, model_of

LONG = " ".join(map(str, range(1, 20)))


def read(batches):
    """Each row of some batches: its real ids, document and start."""
    return [
        (ids[mask].tolist(), document, start)
        for rows in batches
        for ids, mask, document, start in zip(
            rows.tokens, rows.mask, rows.document.tolist(), rows.start.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("most", [1, 2, 1024])
@pytest.mark.parametrize("bos", [0, None])
def test_rows_put_together_are_the_documents(make_model, monkeypatch, bos, most):
    monkeypatch.setattr(texts, "MOST", most)
    model, draw = make_model(n_ctx=8, bos=bos), random.Random(0)
    documents = [" ".join(str(draw.randrange(1, 40)) for _ in range(draw.randint(1, 25))) for _ in range(7)]
    front, wanted = ([] if bos is None else [0]), [model.to_tokens(x, truncate=False)[0].tolist() for x in documents]
    together = [list(front) for _ in documents]
    for ids, document, start in read(rows_of(model, documents, widest=1, length=6, first_document=4)):
        assert len(ids) <= 6 and ids[: len(front)] == front
        assert start + len(front) == len(together[document - 4])
        together[document - 4] += ids[len(front) :]
    assert together == wanted
    assert read(whole_documents(model, documents, widest=1)) == [(ids, i, 0) for i, ids in enumerate(wanted)]


def test_batches_hold_what_fits_and_mark_what_is_real(make_model, monkeypatch):
    monkeypatch.setattr(texts, "NUMBERS", 20)
    model = make_model()
    batches = list(rows_of(model, ["5 6", "7", LONG, "8"], widest=2))
    assert [batch.tokens.shape for batch in batches] == [(2, 3), (1, 20), (1, 2)]
    assert batches[0].lengths == [3, 2] and batches[0].attention_mask is batches[0].mask and len(batches[0]) == 2
    assert batches[0].counted.tolist() == [[False, True, True], [False, True, False]]
    assert batches[1].attention_mask is None


def test_rows_of_ids_are_taken_as_they_are_and_longer_than_the_context_only_to_count(make_model):
    model = make_model(n_ctx=8)
    rows = torch.tensor([[0, *range(1, 12)]])
    assert read(whole_documents(model, rows, widest=1)) == [(rows[0].tolist(), 0, 0)]
    with pytest.raises(ArgumentError, match="a row of ids must have 1..8 tokens, got \\[12\\] in document 0"):
        list(rows_of(model, rows, widest=1))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (None, ArgumentError, "texts must be a text, several, a Corpus, or rows of token ids, got None"),
        (5, ArgumentError, "texts must be a text, several, a Corpus, or rows of token ids, got 5"),
        ([5, 6], ArgumentError, "each of texts must be a text or a row of ids, got the number 5 as document 0"),
        ([[1], []], ArgumentError, "a row of ids must have 1..16 tokens, got \\[0\\] in document 1"),
        ([list(range(17))], ArgumentError, "a row of ids must have 1..16 tokens, got \\[17\\] in document 0"),
        ([[[1, 2]]], ArgumentError, "a row of ids must have 1..16 tokens, got \\[1, 2\\] in document 0"),
        (torch.tensor([1, 2]), ArgumentError, "rows of ids must be \\[row pos\\], got \\[2\\]"),
        ([[1, 2], [3, -1]], TokenError, "token ids must lie in 0..16, got -1 in document 1"),
        ([[1, 17, 2]], TokenError, "token ids must lie in 0..16, got 17 in document 0; use the model's own"),
        (["text"], TokenError, "text needs a model with a tokenizer"),
        ([], ArgumentError, "texts must hold a token besides BOS, got none"),
    ],
)
def test_what_is_no_text_is_refused(given, error, message):
    with pytest.raises(error, match=message):
        top_contexts(model_of(), given, what="0.1")
    if given is not None and "1..16" not in message:
        with pytest.raises(error, match=message):
            bigrams(model_of(config_of(mlp=None)), [1], texts=given)


def test_a_tokenizer_that_knows_more_than_the_model_is_told(make_model):
    model = make_model(d_vocab=40)
    model.tokenizer = make_model(d_vocab=50).tokenizer
    with pytest.raises(TokenError, match="token ids must lie in 0..39, got 45 in document 1"):
        top_contexts(model, ["5 6", "7 45"], what="0.1")


def test_rows_of_ids_without_a_bos_that_the_model_has_are_warned_of(make_model):
    model = make_model()
    model.tokenizer.policy = type(model.policy)(**{**vars(model.policy), "prepend_bos": False})
    with pytest.warns(MisreadWarning, match="1 of 1 prompts lack BOS"):
        top_contexts(model, [[5, 6]], what="0.1")
