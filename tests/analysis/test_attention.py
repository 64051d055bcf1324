"""Rest on BOS, prefix matching, and the warning that names the trap."""

import numpy as np
import pytest
import torch

from pellucid.analysis.attention import Cells, masses, rest_scores
from pellucid.analysis.heads import INDUCTION, head_scores, prefix_matching
from pellucid.analysis.repeated import repeated_tokens
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from tests.models import CONFIGS, D_VOCAB, model_of
from tests.reference.heads import attention_on

S = 5


@pytest.mark.parametrize("config", CONFIGS)
def test_masses_are_means_of_single_cells(config, monkeypatch):
    model = model_of(config, dtype=torch.float64).requires_grad_(False)
    tokens = torch.randint(D_VOCAB, (5, 9), generator=torch.Generator().manual_seed(0))
    counted = torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) < 0.7
    counted[:, 0] = True
    cells = [Cells(torch.tensor([2, 7, 8]), torch.tensor([0, 6, 8]), told) for told in (None, counted)]
    expected = torch.zeros(5, 2, model.config.n_layers, model.config.attention.n_heads, dtype=torch.float64)
    for prompt in range(5):
        _, cache = model.run_with_cache(tokens[prompt : prompt + 1])
        for i, cell in enumerate(cells):
            kept = [c for c in range(3) if cell.counted is None or cell.counted[prompt, c]]
            for layer in range(model.config.n_layers):
                for c in kept:
                    q, k = int(cell.queries[c]), int(cell.keys[c])
                    expected[prompt, i, layer] += cache["pattern", layer][0, :, q, k] / len(kept)
    torch.testing.assert_close(masses(model, tokens, cells), expected)
    monkeypatch.setattr("pellucid.analysis.reading.NUMBERS", 1)  # a prompt at a time
    torch.testing.assert_close(masses(model, tokens, cells), expected)
    assert not model.board


def test_rest_is_the_attention_to_bos_from_each_half(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    rest = rest_scores(model, tokens)
    for half, queries in (("first half", range(1, S + 1)), ("second half", range(S + 1, 2 * S + 1))):
        expected = attention_on(model, tokens.tokens, queries, lambda p: 0)
        np.testing.assert_allclose(rest.sel(group=half).values, expected, atol=1e-6)
    assert rest.unit == "attention mass"


def test_heads_that_all_rest_on_bos_are_warned_of(make_model):
    model = make_model()
    with torch.no_grad():
        for block in model.blocks:  # a score so high for the first key that nothing else is seen
            block.attn.b_Q.fill_(1.0)
            block.attn.W_K.zero_()
            block.attn.W_Q.zero_()
        model.embed.W_E.zero_()
        model.pos_embed.W_pos.zero_()
        model.pos_embed.W_pos[0, 0] = 1.0
        for block in model.blocks:
            block.attn.W_K[:, 0] = 50.0
    with pytest.warns(MisreadWarning, match=r"100% of the heads rest on BOS in both halves: what they do on a match"):
        rest_scores(model, repeated_tokens(model, seq_len=S, batch=2))


def test_rest_needs_a_bos(make_model):
    model = make_model(bos=None)
    with pytest.raises(ArgumentError, match="begin with BOS"):
        rest_scores(model, repeated_tokens(model, seq_len=S, batch=2))


@pytest.mark.parametrize(
    "d_vocab", [300, 40, 7], ids=["all different", "different in a copy", "drawn with replacement"]
)
def test_prefix_matching_sums_over_all_earlier_copies(make_model, monkeypatch, d_vocab):
    model = make_model(d_vocab=d_vocab)
    seen = []
    plain = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda self, t, **k: (seen.append(t), plain(self, t, **k))[1])
    found = prefix_matching(model, batch=3, seed=1)
    monkeypatch.undo()
    n = min(25, (model.cfg.n_ctx - 1) // 4)
    repeated, others = seen
    assert repeated.shape == others.shape == (3, 1 + 4 * n)
    assert torch.equal(repeated[:, 1 : n + 1].repeat(1, 4), repeated[:, 1:])
    for tokens, scores, counts in (
        (repeated, found.score, lambda prompt, p, k: True),
        (others, found.control, lambda prompt, p, k: others[prompt, p] != others[prompt, k - 1]),
    ):
        expected = torch.zeros(scores.shape)
        for back in (1, 2, 3):
            for p in range(back * n + 1, 4 * n + 1):
                for prompt in range(3):
                    if counts(prompt, p, p - back * n + 1):
                        cell = attention_on(
                            model, tokens[prompt : prompt + 1], range(p, p + 1), lambda q, back=back: q - back * n + 1
                        )
                        expected[prompt] += cell[0]
        if scores is found.score:
            np.testing.assert_allclose(scores.values, expected / (3 * n), atol=1e-5)
        else:  # the mean over the cells that count stands for those that do not
            cells = [(back, p) for back in (1, 2, 3) for p in range(back * n + 1, 4 * n + 1)]
            share = [np.mean([counts(prompt, p, p - b * n + 1).item() for b, p in cells]) for prompt in range(3)]
            expected = expected / (3 * n) / torch.tensor(share)[:, None, None]
            np.testing.assert_allclose(scores.values, expected, atol=1e-5)


def test_prefix_matching_needs_a_context_of_four_copies(make_model):
    with pytest.raises(ArgumentError, match="9 tokens or more, got n_ctx=8"):
        prefix_matching(make_model(n_ctx=8))


def test_the_introduction_draws_ids_from_1000_to_9999_without_bos_and_takes_the_whole_diagonal(make_model):
    model = make_model(d_vocab=1200, d_vocab_out=1200)
    with pytest.warns(MisreadWarning, match="lack BOS"):
        tokens = repeated_tokens(model, seq_len=S, batch=4, rule="introduction")
        scores = head_scores(model, tokens, INDUCTION)
    assert tokens.tokens.shape == (4, 2 * S) and not tokens.bos and tokens.bos_left_out
    assert int(tokens.tokens.min()) >= 1000 and int(tokens.tokens.max()) < 1200
    expected = attention_on(model, tokens.tokens, range(S - 1, 2 * S), lambda p: p - S + 1)
    np.testing.assert_allclose(scores.values, expected, atol=1e-6)


def test_the_introductions_rule_needs_its_token_ids(make_model):
    with pytest.raises(TokenError, match="draws token ids from 1000 to 9999, and this vocabulary has"):
        repeated_tokens(make_model(), seq_len=S, rule="introduction")


def test_bos_can_be_left_out_on_purpose_but_not_invented(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=2, bos=False)
    assert tokens.tokens.shape == (2, 2 * S)
    with pytest.warns(MisreadWarning, match="lack BOS"):
        head_scores(model, tokens, INDUCTION)
    with pytest.raises(TokenError, match="bos=True needs a model with a BOS token"):
        repeated_tokens(make_model(bos=None), seq_len=S, bos=True)
