"""Attention-only models as tables, against dense matrices, and counts against a reader of the text."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch

from pellucid import AttentionConfig, HookedTransformer, LayerNorm, Learned, RMSNorm, Rotary, Shortformer
from pellucid.analysis import bigrams, ngrams, skip_trigrams
from pellucid.analysis.ngrams import strongest_trigrams
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.model.wired.skip_trigram import skip_trigram
from pellucid.pretrained.processing import Processing, process
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import config_of, model_of

KINDS = {
    "layer norm": config_of(mlp=None, n_layers=1, unembed_bias=True),
    "no norm": config_of(mlp=None, n_layers=1, norm=None, positions=None, tied=True),
    "grouped": config_of(
        mlp=None,
        n_layers=2,
        norm=RMSNorm(),
        attention=AttentionConfig(n_heads=4, d_head=6, n_kv_heads=2, scale=0.3, qkv_bias=False),
        positions=Shortformer(),
    ),
}


def documents_of(n=30, length=12, d_vocab=17, seed=0):
    draw = random.Random(seed)
    return [[draw.randrange(d_vocab) for _ in range(length)] for _ in range(n)]


# Bigrams


@pytest.mark.parametrize("positions", [None, Shortformer()])
@pytest.mark.parametrize("norm", [None, LayerNorm(), RMSNorm()])
def test_a_model_without_layers_is_its_bigram_table(norm, positions):
    model = model_of(
        config_of(n_layers=0, mlp=None, norm=norm, positions=positions, unembed_bias=True), dtype=torch.float64
    )
    found = bigrams(model, k=5).table
    for token in range(17):
        said = model(torch.tensor([[3, token]]))[0, -1].log_softmax(-1).topk(5)
        torch.testing.assert_close(found.scores[token], said.values.detach(), rtol=0, atol=1e-10)
        assert torch.equal(found.ids[token], said.indices)


@pytest.mark.parametrize("kind", KINDS)
def test_bigrams_are_the_direct_path_of_deeper_models(kind, monkeypatch):
    monkeypatch.setattr(ngrams, "PART", 40)  # two rows at a time
    model = model_of(KINDS[kind], dtype=torch.float64)
    found = bigrams(model, [5, 1, 5], k=4).table
    with torch.no_grad():
        for block in model.blocks:  # silent heads leave the direct path alone
            for W in (block.attn.W_O, block.attn.b_O):
                W.zero_()
        if hasattr(model, "pos_embed"):
            model.pos_embed.W_pos.zero_()
    for row, token in enumerate((5, 1, 5)):
        said = model(torch.tensor([[token]]))[0, 0].log_softmax(-1).topk(4)
        torch.testing.assert_close(found.scores[row], said.values.detach(), rtol=0, atol=1e-10)
        assert torch.equal(found.ids[row], said.indices)


def test_bigrams_are_counted_as_a_reader_would():
    model, documents = model_of(KINDS["layer norm"]), [*documents_of(20, 9), [5, 1], [5]]
    found = bigrams(model, [5, 1, 5], k=4, texts=documents)
    pairs = [pair for row in documents for pair in itertools.pairwise(row)]
    for row, token in enumerate((5, 1, 5)):
        n = sum(a == token for a, _ in pairs)
        assert found.occurs[row] == n
        for place, out in enumerate(found.table.ids[row].tolist()):
            assert found.counts[row, place] == pairs.count((token, out))
            assert found.rates[row, place] == pytest.approx(pairs.count((token, out)) / n)
    assert bigrams(model, [5]).counts is None and bigrams(model, [5]).rates is None
    assert "Most probable next tokens" in repr(found)


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()])
def test_processing_changes_nothing(norm):
    model = model_of(config_of(mlp=None, n_layers=1, norm=norm), dtype=torch.float64)

    def told():
        return bigrams(model, k=3).table.scores, skip_trigrams(model, n=5)

    scores, found = told()
    process(model, Processing())
    scores_now, now = told()
    torch.testing.assert_close(scores_now, scores, rtol=0, atol=1e-8)
    assert torch.equal(now.triples, found.triples)
    torch.testing.assert_close(now.raises, found.raises, rtol=0, atol=1e-8)
    torch.testing.assert_close(now.attends, found.attends, rtol=0, atol=1e-8)


# Skip-trigrams


def dense(model, head, share):
    """``attends[d, s]`` and ``raises[s, o]``, as matrices of all tokens, row by row."""
    attn, n = model.blocks[0].attn, model.config.d_vocab
    group = model.config.attention.n_heads // (model.config.attention.n_kv_heads or model.config.attention.n_heads)
    read = model.blocks[0].ln1(model.W_E[None])[0]
    q = read @ attn.W_Q[head] + (0 if attn.b_Q is None else attn.b_Q[head])
    scores = q @ (read @ attn.W_K[head // group]).T * model.config.attention.factor
    attends = torch.zeros(n, n, dtype=torch.float64)
    for d in range(n):
        weights = scores[d].exp()
        attends[d] = (weights / (weights * share).sum()).log()
    written = read @ attn.W_V[head // group] @ attn.W_O[head]
    if isinstance(model.config.norm, LayerNorm):
        written = written - written.mean(-1, keepdim=True)
    if model.config.norm is not None:
        written = written * model.ln_final.w
    raises = written @ model.W_U
    raises = raises - raises.mean(-1, keepdim=True)
    return attends, raises - share @ raises


@pytest.mark.parametrize("kind", KINDS)
def test_triples_are_the_strongest_of_the_dense_tables(kind, monkeypatch):
    monkeypatch.setattr(ngrams, "PART", 100)
    model = model_of(KINDS[kind], dtype=torch.float64)
    share = torch.rand(17, dtype=torch.float64)
    share, allowed = share / share.sum(), torch.rand(17) > 0.2
    with torch.no_grad():
        found = strongest_trigrams(model, share, allowed, heads=[2], n=6, candidates=17, each=100)
        attends, raises = dense(model, 2, share)
    tokens = [i for i in range(17) if allowed[i]]
    every = [
        (float(attends[d, s]), float(raises[s, o]), s, d, o)
        for s, d, o in itertools.product(tokens, repeat=3)
        if s != d and attends[d, s] > 0 and raises[s, o] > 0
    ]
    every.sort(key=lambda x: -(x[0] + math.log(x[1])))
    assert found.triples.tolist() == [[2, *one[2:]] for one in every[:6]]
    assert found.attends.tolist() == pytest.approx([one[0] for one in every[:6]], abs=1e-10)
    assert found.raises.tolist() == pytest.approx([one[1] for one in every[:6]], abs=1e-10)


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_as_many_triples_as_asked_for_are_taken_one_by_one(kind, each):
    model, share = model_of(KINDS[kind], dtype=torch.float64), torch.full((17,), 1 / 17, dtype=torch.float64)
    with torch.no_grad():
        attends, raises = dense(model, 2, share)
    every = [
        (float(attends[d, s] + raises[s, o].log()), s, d, o)
        for s, d, o in itertools.product(range(17), repeat=3)
        if s != d and attends[d, s] > 0 and raises[s, o] > 0
    ]
    taken, of_source, of_pair = [], Counter(), Counter()
    for _, s, d, o in sorted(every, reverse=True):
        if of_source[s] < each and of_pair[d, o] < each:
            of_source[s] += 1
            of_pair[d, o] += 1
            taken.append([2, s, d, o])
    for n in (1, 3, 10, 1000):
        assert skip_trigrams(model, 2, n=n, each=each).triples.tolist() == taken[:n]


def test_a_source_with_the_strongest_hundreds_leaves_room_for_others():
    model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
    few, many = (skip_trigrams(model, n=n).triples.view(4, n, 4) for n in (3, 10))
    assert torch.equal(few, many[:, :3])


@pytest.mark.parametrize("before", [None, 1, 3])
def test_triples_are_counted_as_a_reader_would(before):
    model, documents = model_of(KINDS["layer norm"]), [*documents_of(60, 14, d_vocab=6), [1, 2], [3]]
    found = skip_trigrams(model, 1, texts=documents, n=8, before=before, seen=1)
    assert (found.triples[:, 0] == 1).all() and (found.triples[:, 1:] < 6).all()
    for i, (_, s, d, o) in enumerate(found.triples.tolist()):
        told = [0, 0, 0, 0]
        for row in documents:
            for p in range(len(row) - 1):
                if row[p] == d:
                    place = 0 if s in row[max(0, p - (before or p)) : p] else 2
                    told[place] += 1
                    told[place + 1] += row[p + 1] == o
        assert found.counts[i].tolist() == told
        rate = found.rates[i].item()
        assert rate == pytest.approx(told[1] / told[0]) if told[0] else math.isnan(rate)
        assert found.bigram_rates[i] == pytest.approx((told[1] + told[3]) / (told[0] + told[2]))
    assert "bigram rate" in found._repr_html_() and "→" in repr(found)


TRIPLES = {(5, 9): 3, (5, 8): 3, (5, 7): 3, (6, 9): 4, (2, 11): 12}


@pytest.mark.parametrize(("n_heads", "head"), [(1, 0), (3, 2)])
def test_a_wired_reader_has_its_triples_and_no_others(n_heads, head):
    wired = skip_trigram(TRIPLES, 1, n_heads, head=(0, head))
    model = HookedTransformer(wired.config, integer_vocabulary(20), device="cpu")
    model.load_state_dict(wired.weights)
    found = skip_trigrams(model, n=50, each=9)
    expected = {(head, s, d, o) for (s, d), o in TRIPLES.items()}
    assert {tuple(triple) for triple in found.triples.tolist()} == expected and len(found) == len(expected)
    assert ("5", "9", "3") in found.words and found.counts is None and found.lifts is None


def test_the_strongest_come_first_where_other_heads_make_noise():
    wired = skip_trigram(TRIPLES, 1, 2, noise=0.02)
    model = HookedTransformer(wired.config, integer_vocabulary(20), device="cpu")
    model.load_state_dict(wired.weights)
    found = skip_trigrams(model, 0, n=5, each=9)
    assert {tuple(triple) for triple in found.triples.tolist()} == {(0, s, d, o) for (s, d), o in TRIPLES.items()}


def test_what_is_no_table_is_refused(toy):
    with pytest.raises(ArgumentError, match="bigrams are read off attention-only models, and this one has MLPs"):
        bigrams(model_of())
    with pytest.raises(ArgumentError, match="skip-trigrams are read off attention-only models"):
        skip_trigrams(model_of())
    with pytest.raises(ArgumentError, match="skip-trigrams need residual connections, and this model has none"):
        skip_trigrams(model_of(config_of(mlp=None, residual=False)))
    with pytest.raises(ArgumentError, match="skip-trigrams need a head, and this model has no layers"):
        skip_trigrams(model_of(config_of(mlp=None, n_layers=0)))
    with pytest.raises(ArgumentError, match="with rotary positions scores depend on the distance"):
        skip_trigrams(model_of(config_of(mlp=None, positions=Rotary())))
    with pytest.raises(ArgumentError, match="by the vocabulary they come in by, got 17 and 9"):
        skip_trigrams(model_of(config_of(mlp=None, d_vocab_out=9)))
    with pytest.raises(ArgumentError, match="k must be 1 or more, a whole number, got 0"):
        bigrams(toy, k=0)
    for name in ("n", "seen", "each", "before"):
        with pytest.raises(ArgumentError, match=f"{name} must be 1 or more, a whole number, got 0"):
            skip_trigrams(toy, **{name: 0})
    with pytest.raises(ArgumentError, match="texts are read twice, got an iterator"):
        skip_trigrams(toy, texts=iter(["5 6"]))
    with pytest.raises(ArgumentError, match="texts must be a text, several, a Corpus, or rows of token ids, got 5"):
        skip_trigrams(toy, texts=5)
    with pytest.raises(TokenError, match="token ids must lie in 0..63, got 99 in document 0"):
        skip_trigrams(toy, texts=[[0, 5, 99, 5, 6]], seen=1)
    with pytest.raises(ArgumentError, match="no token is left to make skip-trigrams of"):
        skip_trigrams(toy, texts=["5 6"])


def test_positions_in_the_stream_are_left_out():
    model = model_of(config_of(mlp=None, n_layers=1, positions=Learned()), dtype=torch.float64)
    before = skip_trigrams(model, n=4)
    with torch.no_grad():
        model.pos_embed.W_pos.normal_()
    assert torch.equal(skip_trigrams(model, n=4).triples, before.triples)
