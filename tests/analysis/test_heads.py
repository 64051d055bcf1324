import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from pellucid import Zero
from pellucid.analysis.heads import BOS, DUPLICATE, INDUCTION, PREVIOUS, ROLES, SELF, Role, head_scores, role_scores
from pellucid.analysis.repeated import RepeatedTokens, repeated_tokens, unrepeated_tokens
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError
from tests.reference.heads import attention_on

S = 5
LITERAL = {
    # With BOS, without: queries and the key of each, as the definitions say it.
    INDUCTION: [(range(S + 1, 2 * S + 1), lambda p: p - S + 1), (range(S, 2 * S), lambda p: p - S + 1)],
    DUPLICATE: [(range(S + 1, 2 * S + 1), lambda p: p - S), (range(S, 2 * S), lambda p: p - S)],
    PREVIOUS: [(range(2, 2 * S + 1), lambda p: p - 1), (range(1, 2 * S), lambda p: p - 1)],
    SELF: [(range(1, 2 * S + 1), lambda p: p), (range(1, 2 * S), lambda p: p)],
    BOS: [(range(1, 2 * S + 1), lambda p: 0)],
}
CASES = [(role, number) for role, cases in LITERAL.items() for number in range(len(cases))]


@pytest.mark.parametrize(("role", "number"), CASES, ids=lambda case: getattr(case, "name", case))
def test_a_score_is_the_mean_attention_on_the_cells_of_its_definition(make_model, role, number):
    model = make_model(bos=None if number else 0)
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    expected = attention_on(model, tokens.tokens, *LITERAL[role][number])
    scores = head_scores(model, tokens, role)
    np.testing.assert_allclose(scores.values, expected, atol=1e-6)
    assert scores.dims == ("prompt", "layer", "head")
    assert scores.unit == "attention mass"


def test_the_article_takes_the_whole_diagonal(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3, rule="article")
    whole = range(S - 1, 2 * S + 1)
    assert len(whole) == S + 2
    expected = attention_on(model, tokens.tokens, whole, lambda p: p - S + 1)
    np.testing.assert_allclose(head_scores(model, tokens, INDUCTION).values, expected, atol=1e-6)


def test_the_article_scores_duplicates_as_we_do(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3, rule="article")
    expected = attention_on(model, tokens.tokens, *LITERAL[DUPLICATE][0])
    np.testing.assert_allclose(head_scores(model, tokens, DUPLICATE).values, expected, atol=1e-6)


@pytest.mark.parametrize("rule", [None, "article"])
def test_a_control_leaves_accidental_matches_out(make_model, rule):
    model = make_model(d_vocab=7)
    control = unrepeated_tokens(model, seq_len=S, batch=20, rule=rule)
    assert control.matches.any()
    ids = control.tokens.tolist()

    def counts(prompt, p):
        return p < control.middle or ids[prompt][p] != ids[prompt][p - S]

    queries = LITERAL[INDUCTION][0][0] if rule is None else range(S - 1, 2 * S + 1)
    expected = attention_on(model, control.tokens, queries, lambda p: p - S + 1, counts)
    np.testing.assert_allclose(head_scores(model, control, INDUCTION).values, expected, atol=5e-6)


def test_grouped_queries_have_a_score_for_each_query_head(make_model):
    model = make_model(n_heads=4, n_kv_heads=2)
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    expected = attention_on(model, tokens.tokens, *LITERAL[INDUCTION][0])
    np.testing.assert_allclose(head_scores(model, tokens, INDUCTION).values, expected, atol=1e-6)


def test_the_batch_may_be_read_in_parts(make_model, monkeypatch):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=7)
    control = unrepeated_tokens(model, seq_len=S, batch=7)
    whole = [head_scores(model, part, INDUCTION).values for part in (tokens, control)]
    monkeypatch.setattr("pellucid.analysis.reading.NUMBERS", 2 * 3 * 11 * 11)
    parts = [head_scores(model, part, INDUCTION).values for part in (tokens, control)]
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_all_roles_together_are_each_alone(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    score, control = role_scores(model, tokens)
    assert score.dims == control.dims == ("prompt", "role", "layer", "head")
    others = unrepeated_tokens(model, seq_len=S, batch=3)
    for role in ROLES:
        np.testing.assert_allclose(score.sel(role=role.name).values, head_scores(model, tokens, role).values, atol=1e-6)
        if role.repeated:
            np.testing.assert_allclose(
                control.sel(role=role.name).values, head_scores(model, others, role).values, atol=1e-6
            )


def test_all_roles_and_their_controls_take_one_pass(make_model):
    model = make_model()
    seen = []
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: seen.append(len(x)))]):
        role_scores(model, tokens)
    assert seen == [6]


def test_the_control_of_roles_that_need_no_repetition_is_uniform_attention(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    control = role_scores(model, tokens, [PREVIOUS, SELF, BOS]).control
    for role in (PREVIOUS, SELF, BOS):
        queries = LITERAL[role][0][0]
        uniform = sum(1 / (q + 1) for q in queries) / len(queries)
        np.testing.assert_allclose(control.sel(role=role.name).values, uniform)


def test_a_model_that_attends_uniformly_scores_its_control(make_model):
    model = make_model(init_range=1e-6)
    score, control = role_scores(model, repeated_tokens(model, seq_len=S, batch=3))
    np.testing.assert_allclose((score - control).values, 0, atol=1e-5)


def test_a_model_without_bos_has_no_role_of_it(make_model):
    model = make_model(bos=None)
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    assert BOS.name not in role_scores(model, tokens).score.dataset["role"].values
    with pytest.raises(ArgumentError, match="the role 'BOS' needs prompts that start with BOS"):
        role_scores(model, tokens, [BOS])


def test_a_role_that_needs_no_repetition_reads_any_tokens(make_model):
    model = make_model()
    tokens = torch.tensor([[0, 3, 5, 7], [0, 4, 4, 9]])
    expected = attention_on(model, tokens, range(2, 4), lambda p: p - 1)
    np.testing.assert_allclose(head_scores(model, tokens, PREVIOUS).values, expected, atol=1e-6)


def test_a_role_of_ones_own_is_data(make_model):
    model = make_model()
    tokens = torch.tensor([[0, 3, 5, 7, 2]])
    expected = attention_on(model, tokens, range(3, 5), lambda p: p - 2)
    np.testing.assert_allclose(head_scores(model, tokens, Role(name="two back", back=2)).values, expected, atol=1e-6)


def test_a_role_that_needs_a_repetition_refuses_bare_tokens(make_model):
    with pytest.raises(
        ArgumentError, match=r"'induction' needs RepeatedTokens; make them with repeated_tokens\(model\)"
    ):
        head_scores(make_model(), torch.tensor([[0, 3, 5, 3, 5]]), INDUCTION)


@pytest.mark.parametrize(
    "role", [Role(name="odd", back=-1), Role(name="odd", back=9), Role(name="odd", repeated=True, back=9)]
)
def test_a_role_without_a_key_to_attend_to_is_refused(make_model, role):
    model = make_model()
    with pytest.raises(ArgumentError, match="each query of the role 'odd' must have a key .* prompts of 7 tokens"):
        head_scores(model, repeated_tokens(model, seq_len=3), role)


def test_tokens_without_the_bos_that_the_policy_asks_for_are_refused(make_model):
    model = make_model()
    bare = RepeatedTokens(torch.tensor([[3, 4, 5, 3, 4, 5]]), seq_len=3, bos=False)
    for scores in (lambda: head_scores(model, bare, INDUCTION), lambda: role_scores(model, bare)):
        with pytest.raises(TokenError, match="must start with BOS, id 0, as this model's tokenizer asks, but 1 of 1"):
            scores()


def test_tokens_without_a_bos_that_the_policy_leaves_out_are_warned_of(make_model):
    model = make_model()
    model.tokenizer.policy = replace(model.tokenizer.policy, prepend_bos=False)
    with pytest.warns(MisreadWarning, match="1 of 1 prompts lack BOS, id 0, which this model has"):
        head_scores(model, torch.tensor([[3, 4, 5]]), PREVIOUS)


def test_tokens_with_bos_are_not_warned_of(make_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = head_scores(make_model(), torch.tensor([[0, 4, 5]]), PREVIOUS)
    assert scores.shape == (1, 2, 3)


def test_scores_leave_no_hooks_and_no_gradients(make_model):
    model = make_model()
    role_scores(model, repeated_tokens(model, seq_len=S, batch=3))
    assert model.board == []
    assert all(p.grad is None for p in model.parameters())


def test_standing_hooks_take_part(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=S, batch=3)
    plain = head_scores(model, tokens, INDUCTION).values
    zero = Zero("z", layer=0, head=1)
    with model.hooks(fwd_hooks=[(("z", 0), lambda z, hook: zero.apply(z))]):
        cut = head_scores(model, tokens, INDUCTION).values
    np.testing.assert_array_equal(cut[:, 0], plain[:, 0])
    assert np.abs(cut[:, 1] - plain[:, 1]).max() > 1e-4


def test_a_model_without_layers_has_no_heads(make_model):
    model = make_model(n_layers=0)
    score, control = role_scores(model, repeated_tokens(model, seq_len=S, batch=3))
    assert score.shape == control.shape == (3, 5, 0, 3)


def test_the_bundled_model_has_the_heads_that_it_was_made_for(toy):
    tokens = repeated_tokens(toy, seq_len=37, batch=20, seed=11)
    score, control = (part.mean("prompt") for part in role_scores(toy, tokens))
    induction, previous = (
        score.sel(role=role.name, layer=layer).top(1) for role, layer in ((INDUCTION, 1), (PREVIOUS, 0))
    )
    assert induction.item() >= 0.8
    assert previous.item() >= 0.8
    assert control.sel(role=INDUCTION.name).values.max() <= 0.1
