"""The zoo of head roles: every fast number against a slow literal one, and a plain yes or no where it is due."""

import numpy as np
import pytest
import torch

from pellucid import MLPConfig, Rotary, Shortformer
from pellucid.analysis.heads import (
    BOS,
    DUPLICATE,
    INDUCTION,
    PREVIOUS,
    ROLES,
    SELF,
    Role,
    RoleScores,
    head_scores,
    role_scores,
)
from pellucid.analysis.repeated import repeated_tokens, unrepeated_tokens
from pellucid.analysis.zoo_attention import attention_roles
from pellucid.analysis.zoo_roles import ZOO, role_named
from pellucid.analysis.zoo_scores import Zoo, zoo
from pellucid.base.errors import ArgumentError, MisreadWarning, UnknownNameError
from pellucid.measurement import Measurement
from tests.models import unchecked


def literal_patterns(model, tokens):
    """``[prompt layer head q k]``."""
    _, cache = model.run_with_cache(tokens)
    return torch.stack([cache["pattern", layer] for layer in range(model.config.n_layers)], 1)


def literal_stripe(patterns, queries, back, counted=None):
    """The mean over cells p → p − back, cell by cell; `counted` says which of the queries count, by prompt."""
    n_prompts, n_layers, n_heads = patterns.shape[:3]
    out = np.zeros((n_prompts, n_layers, n_heads))
    for prompt in range(n_prompts):
        kept = [p for i, p in enumerate(queries) if counted is None or counted[prompt][i]]
        for p in kept:
            out[prompt] += patterns[prompt, :, :, p, p - back].double().numpy() / len(kept)
    return out


# Attention


def test_roles_one_by_one_are_those_together(make_model):
    model = make_model(d_vocab=12)  # less than 2S tokens: accidental matches are left out
    tokens = repeated_tokens(model, seq_len=8, batch=5, seed=1)
    score, control = role_scores(model, tokens)
    found = attention_roles(model, tokens, ROLES)
    assert list(found) == [role.name for role in ROLES]
    for name, (ours, beside) in found.items():
        np.testing.assert_allclose(ours.values, score.sel(role=name).values, atol=1e-6)
        np.testing.assert_allclose(beside.values, control.sel(role=name).values, atol=1e-6)


def test_stripes_are_means_of_their_cells(make_model):
    model = make_model(d_vocab=12)
    tokens, S = repeated_tokens(model, seq_len=8, batch=4, seed=2), 8
    others = unrepeated_tokens(model, seq_len=8, batch=4, seed=2)
    found = attention_roles(model, tokens, [PREVIOUS, DUPLICATE, INDUCTION, SELF, BOS], offsets=[1, 3])
    repeated, shuffled = literal_patterns(model, tokens.tokens), literal_patterns(model, others.tokens)
    second, unlike = range(S + 1, 2 * S + 1), (~others.matches).tolist()
    assert not all(map(all, unlike))
    for name, back in (("duplicate token", S), ("induction", S - 1)):
        score, control = (part.values for part in found[name])
        np.testing.assert_allclose(score, literal_stripe(repeated, second, back), atol=1e-6)
        np.testing.assert_allclose(control, literal_stripe(shuffled, second, back, unlike), atol=1e-6)
    for name, patterns, first, back in (
        ("previous token", repeated, 2, 1),
        ("self", repeated, 1, 0),
        ("positional 1", shuffled, 2, 1),
        ("positional 3", shuffled, 4, 3),
    ):
        queries = range(first, 2 * S + 1)
        score, control = (part.values for part in found[name])
        np.testing.assert_allclose(score, literal_stripe(patterns, queries, back), atol=1e-6)
        np.testing.assert_allclose(control, np.mean([1 / (p + 1) for p in queries]), rtol=1e-6)
    to_bos = repeated[:, :, :, 1:, 0].double().mean(-1).numpy()
    np.testing.assert_allclose(found["BOS"][0].values, to_bos, atol=1e-6)


def test_nothing_behind_the_last_pattern_is_computed(make_model):
    model, seen = make_model(mlp=MLPConfig(d_mlp=8)), []
    model.add_hook("resid_post", lambda x, hook: seen.append(hook.name))
    attention_roles(model, repeated_tokens(model, seq_len=4, batch=2), [INDUCTION])
    assert seen == ["blocks.0.hook_resid_post"]


def test_a_model_without_layers_has_no_scores(make_model):
    model = make_model(n_layers=0)
    found = zoo(model, ["induction", "copying", "k_composition", "copy_suppression"], seq_len=4, batch=3)
    assert found["induction"].rows() == [] and found["copying"].players() == []
    assert found["induction"].best() is None


def test_a_control_handed_in_is_scored_as_head_scores_does(make_model):
    """Its own accidental matches are left out, too."""
    model = make_model(d_vocab=7)
    control = unrepeated_tokens(model, seq_len=5, batch=6, seed=3)
    assert control.matches.any()
    expected = head_scores(model, control, INDUCTION).values
    np.testing.assert_allclose(attention_roles(model, control, [INDUCTION])["induction"][0].values, expected, atol=1e-6)
    np.testing.assert_allclose(role_scores(model, control, [INDUCTION]).score.values[:, 0], expected, atol=1e-6)


def test_roles_of_one_name_are_refused_and_equal_ones_are_told_apart(make_model):
    model = make_model()
    tokens = repeated_tokens(model, seq_len=5, batch=3)
    with pytest.raises(ArgumentError, match="roles must have different names, got positional 2, positional 2"):
        attention_roles(model, tokens, [Role(name="positional 2", back=2)], offsets=[2])
    both = attention_roles(model, tokens, [Role(name="two back", back=2)], offsets=[2])
    assert np.abs(both["two back"][0].values - both["positional 2"][0].values).max() > 1e-4
    np.testing.assert_allclose(
        both["two back"][0].values, head_scores(model, tokens, Role(name="odd", back=2)).values, atol=1e-6
    )


def test_records_tell_which_tokens_were_read(make_model):
    tokens = repeated_tokens(make_model(), seq_len=5, batch=3, seed=4)
    found = attention_roles(make_model(), tokens, [INDUCTION, PREVIOUS], offsets=[2])
    read = {name: [part.record.settings["repeated"] for part in both] for name, both in found.items()}
    assert read == {"induction": [True, False], "previous token": [True, True], "positional 2": [False, False]}
    assert {part.record.seed for both in found.values() for part in both} == {4}
    control = role_scores(make_model(), tokens, [INDUCTION]).control
    assert control.record.settings["repeated"] is False


@pytest.mark.parametrize("k", [0, -1])
def test_a_positional_role_looks_back(make_model, k):
    model = make_model()
    with pytest.raises(ArgumentError, match="offset of a positional role must be 1 or more"):
        attention_roles(model, repeated_tokens(model, seq_len=4, batch=2), offsets=[k])


# What is said


def test_the_toy_has_one_previous_token_head_and_induction_heads(toy):
    found = zoo(toy)
    assert found["previous_token"].players() == ["0.1"] == found["positional_1"].players()
    assert sorted(found["induction"].players()) == ["1.0", "1.1", "1.2", "1.3"]
    assert found["duplicate_token"].players() == [] and found["bos"].players() == []
    assert {row.partner for row in found["k_composition"].rows() if row.plays} == {"0.1"}
    assert list(found.found) == [name for name, role in ZOO.items() if role.kind != "task"]
    said = repr(found)
    assert "induction" in said and "1.0" in said and "none" in said


@pytest.mark.parametrize("correction", ["fdr", "max"])
def test_the_test_is_of_the_difference_by_prompt_corrected_over_heads(toy, correction):
    one = zoo(toy, ["induction"], batch=9, correction=correction)["induction"]
    assert one.score is not None and one.control is not None and one.test is not None
    difference = one.score - one.control
    expected = difference.significant(correction=correction).dataset["p_corrected"].values
    np.testing.assert_array_equal(one.test.dataset["p_corrected"].values, expected)
    np.testing.assert_allclose(one.test.values, difference.values.mean(0))
    mean = one.score.mean("prompt").dataset
    for row in one.rows():
        layer, head = map(int, row.head.split("."))
        assert row.low == mean["low"].values[layer, head] <= row.score <= row.high
        assert row.p == expected[layer, head]
    gaps = [row.score - row.control for row in one.rows()]
    assert gaps == sorted(gaps, reverse=True)


def test_the_best_head_is_chosen_on_one_half_and_measured_on_the_other(toy):
    one = zoo(toy, ["induction"], batch=8)["induction"]
    best = one.best()
    assert best is not None and one.score is not None
    layer, head = map(int, best.labels[0].split("."))
    assert best.values.ravel()[0] == pytest.approx(one.score.values[4:, layer, head].mean())


def test_one_prompt_has_no_test(toy):
    one = zoo(toy, ["induction"], batch=1)["induction"]
    assert one.test is None and one.best() is None
    assert one.rows()[0].plays is None and np.isnan(one.rows()[0].p)
    assert one.rows()[-1].plays is False  # nothing above its control, however sure
    assert "untested" in repr(Zoo({"induction": one}))


def test_too_few_prompts_are_said(toy):
    with pytest.warns(MisreadWarning, match="no single cell can come out significant"):
        found = zoo(toy, ["induction"], batch=3)
    assert found["induction"].players() == []


def test_a_model_without_bos_has_no_role_of_it(make_model):
    model = make_model(bos=None)
    one = zoo(model, ["bos", "self"], seq_len=5, batch=12)["bos"]
    assert one.score is None and "no BOS" in one.reason


def test_an_offset_beyond_the_prompt_has_a_reason(make_model):
    found = zoo(make_model(), ["positional_7", "positional_8", "positional_9"], seq_len=4, batch=12)
    assert found["positional_7"].score is not None
    assert found["positional_8"].reason == "no token lies 8 back in prompts of 9 tokens"
    assert "no token lies 9 back" in found["positional_9"].reason


@pytest.mark.filterwarnings("ignore:no single cell")
def test_positional_roles_are_told_from_shuffled_text_where_it_is_given(make_model):
    model, draws = make_model(), torch.Generator().manual_seed(3)
    texts = [[0, *range(1, 13)], [0, 5, 6], [0, *range(20, 32)], [0, *range(8, 20)]]
    found = zoo(model, ["positional_2", "self"], seq_len=6, batch=2, seed=3, texts=texts)
    rows = torch.tensor([texts[0], texts[2]])  # the first two that are long enough, each in an order of its own
    for row in rows:
        row[1:] = row[1 + torch.randperm(12, generator=draws)]
    one = found["positional_2"]
    expected = literal_stripe(literal_patterns(model, rows), range(3, 13), 2)
    np.testing.assert_allclose(one.score.values, expected, atol=1e-6)
    np.testing.assert_allclose(one.control.values, np.mean([1 / (p + 1) for p in range(3, 13)]), rtol=1e-6)
    assert one.role.about == "attends 2 back, on shuffled text"
    assert one.score.record.settings == {"texts": "shuffled", "batch": 2, "length": 13, "bos": True}
    assert "texts" not in found["self"].score.record.settings
    plain = zoo(model, ["positional_2"], seq_len=6, batch=12)["positional_2"]
    assert plain.role.about == "attends 2 back, on random tokens that do not repeat"
    with pytest.raises(ArgumentError, match="texts must hold a row of 13 tokens, BOS included, got none"):
        zoo(model, ["positional_2"], seq_len=6, batch=2, texts=[[0, 1, 2, 3]])


def test_a_head_that_does_it_at_one_distance_alone_is_no_induction_head(toy, monkeypatch):
    plain, asked = role_scores, []

    def without_one(model, tokens, roles):
        asked.append((tokens.seq_len, len(tokens.tokens)))
        score, control = (
            Measurement(x.values, x.dims, unit=x.unit, record=x.record) for x in plain(model, tokens, roles)
        )
        values = score.values.copy()
        values[..., 1, 0] = control.values[..., 1, 0]
        return RoleScores(Measurement(values, score.dims, unit=score.unit, record=score.record), control)

    monkeypatch.setattr("pellucid.analysis.zoo_scores.role_scores", without_one)
    one = zoo(toy, ["induction"], batch=12)["induction"]
    assert asked == [(33, 4), (25, 4)] and one.how.endswith("; asked at 33 and 25 tokens too")
    assert sorted(one.players()) == ["1.1", "1.2", "1.3"] and one.rows()[-1].head == "1.0"
    assert one.bars() == {"does so where the copy begins after 50 tokens, and not after 33 or 25": ["1.0"]}
    assert "study induction" in one.role.note


@pytest.mark.parametrize(("off", "barred"), [(0.0, False), (0.12, True)])
def test_a_head_is_barred_where_it_clearly_fails_and_not_where_it_may_have(toy, monkeypatch, off, barred):
    """Its mean lies below what is asked for at 25 tokens, by little and by much; at 33 it does what it does."""
    plain = role_scores

    def unsure(model, tokens, roles):
        score, control = (
            Measurement(x.values, x.dims, unit=x.unit, record=x.record) for x in plain(model, tokens, roles)
        )
        values = score.values.copy()
        if tokens.seq_len == 25:
            swing = np.resize([-0.02, 0.02], len(values))
            values[:, 0, 1, 0] = control.values[:, 0, 1, 0] + 0.095 - off / 2 + swing
        return RoleScores(Measurement(values, score.dims, unit=score.unit, record=score.record), control)

    monkeypatch.setattr("pellucid.analysis.zoo_scores.role_scores", unsure)
    one = zoo(toy, ["induction"])["induction"]
    assert one.bars() == (
        {"does so where the copy begins after 50 tokens, and not after 25": ["1.0"]} if barred else {}
    )
    assert ("1.0" in one.players()) is not barred


def test_short_halves_are_asked_for_longer_ones_and_what_has_no_room_is_said(toy, make_model):
    one = zoo(toy, ["induction"], seq_len=2, batch=12)["induction"]
    assert one.how.endswith("; asked at 3 and 4 tokens too") and one.role.about.endswith("at other distances too")
    assert zoo(toy, ["induction"], seq_len=4, batch=12)["induction"].how.endswith("asked at 2 and 6 tokens too")
    lone = zoo(make_model(n_ctx=6), ["induction"], seq_len=2, batch=12)["induction"]
    assert lone.how.endswith("; asked at no other distance, for which the context has no room")
    assert lone.role.about == "attends to what followed the same token before, at 2 tokens alone"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"roles": "induction"}, r"roles must be a list of names, got 'induction'; write \['induction'\]"),
        ({"roles": [3]}, "role must be a name such as 'induction', got 3"),
        ({"seq_len": "5"}, "seq_len must be 2 or more, a whole number, got '5'"),
        ({"seq_len": -4}, "seq_len must be 2 or more, a whole number, got -4"),
        ({"batch": 0}, "batch must be 1 or more, a whole number, got 0"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"seed": 2**63}, r"seed must lie below 2\^63"),
        ({"alpha": 2.0}, "alpha must lie between 0 and 1, got 2"),
        ({"correction": "bonf"}, "correction must be fdr or max, got 'bonf'"),
    ],
)
def test_what_cannot_be_is_refused_at_the_door_for_every_role(toy, asked, message):
    with unchecked(), pytest.raises((ArgumentError, UnknownNameError), match=message):
        zoo(toy, **{"roles": ["copying"], **asked})


def test_unknown_roles_are_refused_with_the_nearest(toy):
    with pytest.raises(UnknownNameError, match="got 'inducton'; nearest: induction"):
        zoo(toy, ["inducton"])
    for name in ("positional_0", "positional_x", "positional_01", "positional_"):
        with pytest.raises(UnknownNameError, match="role must be a known one"):
            role_named(name)
    with pytest.raises(UnknownNameError, match="role must be one that was looked for, got 'self'"):
        zoo(toy, ["copying"])["self"]


def test_a_role_of_a_task_is_sent_where_tasks_are_known(toy):
    with pytest.raises(ArgumentError, match="name_mover needs a task; .*pellucid heads --role name_mover"):
        zoo(toy, ["name_mover"])


@pytest.mark.parametrize("positions", [Rotary(), Shortformer()])
def test_models_of_other_kinds_have_a_zoo(make_model, positions):
    model = make_model(positions=positions, n_heads=4, n_kv_heads=2)
    found = zoo(model, seq_len=6, batch=12)
    assert all(score.shape[-2:] == (2, 4) for score in found.scores.values())
    assert not found["successor"].reason
