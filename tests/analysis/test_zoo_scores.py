"""The zoo of head roles: every fast number against a slow literal one, and a plain yes or no where it is due."""

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer, LayerNorm, MLPConfig, Rotary, Shortformer
from pellucid.analysis.attention import masses
from pellucid.analysis.compose import composition
from pellucid.analysis.copying import copying_score
from pellucid.analysis.heads import BOS, DUPLICATE, INDUCTION, PREVIOUS, ROLES, SELF, Role, cells_of, role_scores
from pellucid.analysis.repeated import repeated_tokens, unrepeated_tokens
from pellucid.analysis.zoo_attention import attention_roles, patterns_reduced
from pellucid.analysis.zoo_roles import ZOO, role_named
from pellucid.analysis.zoo_scores import Found, Zoo, zoo
from pellucid.analysis.zoo_weights import SERIES, copy_suppression, successions, successor
from pellucid.base.errors import ArgumentError, MisreadWarning, TokenError, UnknownNameError
from pellucid.base.record import Record
from pellucid.measurement import Measurement
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, D_VOCAB, model_of


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


def test_one_pass_gives_what_two_passes_gave(make_model):
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


@pytest.mark.parametrize("config", CONFIGS)
def test_a_pass_that_ends_at_the_last_pattern_reads_what_a_whole_one_does(config, monkeypatch):
    model = model_of(config).requires_grad_(False)
    tokens = torch.randint(D_VOCAB, (5, 9), generator=torch.Generator().manual_seed(0))
    cells = [cells_of(Role(name="two back", back=2), tokens, bos=False), cells_of(SELF, tokens, bos=False)]
    whole = masses(model, tokens, cells)
    torch.testing.assert_close(patterns_reduced(model, tokens, cells), whole)
    monkeypatch.setattr("pellucid.analysis.reading.NUMBERS", 1)  # a prompt at a time
    torch.testing.assert_close(patterns_reduced(model, tokens, cells), whole, rtol=1e-5, atol=1e-6)
    assert not model.board


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


@pytest.mark.parametrize("k", [0, -1])
def test_a_positional_role_looks_back(make_model, k):
    model = make_model()
    with pytest.raises(ArgumentError, match="offset of a positional role must be 1 or more"):
        attention_roles(model, repeated_tokens(model, seq_len=4, batch=2), offsets=[k])


# Weights


def literal_ov(model, layer, head, ids):
    """Rows of the dense ``W_E W_V W_O W_U``, norms in it but for their scales, which change no rank."""
    block, E = model.blocks[layer], model.W_E[ids].double()
    if model.config.mlp is not None and layer:
        E = E + model.blocks[0].mlp(model.blocks[0].ln2(model.W_E[ids][None]))[0].double()

    def weighted(norm, x):
        w = getattr(norm, "w", None)
        x = x - x.mean(-1, keepdim=True) if isinstance(model.config.norm, LayerNorm) else x
        return x if w is None else x * w.double()

    n_kv = len(block.attn.W_V)
    W_V = block.attn.W_V[head * n_kv // model.config.attention.n_heads].double()
    read = weighted(block.ln1, E)
    written = read @ W_V @ block.attn.W_O[head].double()
    return weighted(model.ln_final, written) @ model.W_U.double()


@pytest.mark.parametrize("config", ["gpt2", "llama", "attention only", "bare"])
def test_copy_suppression_is_what_the_dense_matrix_says(config, monkeypatch):
    model = model_of(config).requires_grad_(False)
    monkeypatch.setattr("pellucid.analysis.zoo_weights.BOTTOM", 3)
    monkeypatch.setattr("pellucid.analysis.zoo_weights.PART", 40)  # two rows at a time
    found = copy_suppression(model)
    ids = list(range(D_VOCAB))
    for layer in range(2):
        for head in range(4):
            matrix = literal_ov(model, layer, head, torch.tensor(ids))
            ours = 0
            for i in ids:
                row = matrix[i].tolist()
                lower = sum(x < row[i] for x in row)
                ours += lower < 3 and row[i] < sum(row) / len(row)
            assert float(found.values[layer, head]) == pytest.approx(ours / len(ids)), (layer, head)
    assert found.values.max() > 0
    assert found.record.settings["tokens"] == D_VOCAB


def suppressing(n=40):
    """One head, whose OV takes off what it reads; and the same with the other sign, and one that writes nothing."""
    from pellucid import AttentionConfig, Config

    attention = AttentionConfig(n_heads=3, d_head=n)
    config = Config(n_layers=1, d_model=n, d_vocab=n, n_ctx=8, attention=attention, norm=None)
    model = HookedTransformer(config, integer_vocabulary(n), seed=0, device="cpu").requires_grad_(False)
    model.load_state_dict(model.state_dict() | {"embed.W_E": torch.eye(n), "unembed.W_U": torch.eye(n)})
    for head, sign in enumerate((-1.0, 1.0, 0.0)):
        model.blocks[0].attn.W_V[head] = torch.eye(n)
        model.blocks[0].attn.W_O[head] = sign * torch.eye(n)
    return model


def test_a_head_that_takes_off_what_it_reads_suppresses_and_one_that_writes_nothing_does_not():
    found = zoo(suppressing(), ["copy_suppression", "copying"])
    assert found["copy_suppression"].players() == ["0.0"]
    assert found["copying"].players() == ["0.1"]
    np.testing.assert_allclose(found.scores["copy_suppression"].values, [[1, 0, 0]])


def test_copy_suppression_can_be_asked_of_some_tokens(toy):
    found = copy_suppression(toy, sample=20, seed=3)
    assert found.record.settings["tokens"] == 20 and found.record.seed == 3
    with pytest.raises(ArgumentError, match="sample must be 2 or more tokens, got 1"):
        copy_suppression(toy, sample=1)


def test_a_successor_head_writes_for_the_next_number():
    n = 40
    model = suppressing(n)
    model.blocks[0].attn.W_O[0] = torch.eye(n).roll(1, 1)  # token i writes for token i + 1
    model.blocks[0].attn.W_O[1] = torch.eye(n).roll(2, 1)  # the one after that: knows the row, not its order
    found = zoo(model, ["successor"])["successor"]
    assert found.players() == ["0.0"] and found.test is None
    assert found.score is not None and found.control is not None
    # 1 … 9: 0 is BOS. All eight that have a next one; with two on, all but the last, of seven others each.
    np.testing.assert_allclose(found.score.values, [[1, 0, 0]])
    np.testing.assert_allclose(found.control.values, [[0, 7 / 8 / 7, 0]])
    assert found.score.record.settings["tokens"] == 8
    assert found.score.record.settings["series"] == ["digits"]


def test_successor_is_the_argmax_of_the_dense_matrix(make_model):
    model = make_model(mlp=MLPConfig(d_mlp=10)).requires_grad_(False)
    rows, _ = successions(model)
    found = successor(model)
    for layer in range(2):
        for head in range(3):
            matrix = literal_ov(model, layer, head, torch.tensor([now for now, _, _ in rows]))
            right = np.mean([int(row.argmax()) == then for row, (_, then, _) in zip(matrix, rows, strict=True)])
            assert float(found.values[layer, head]) == pytest.approx(right)


def test_ordinals_are_those_that_the_tokenizer_has():
    model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
    rows, names = successions(model)
    texts = {(model.tokenizer.decode([now]), model.tokenizer.decode([then])) for now, then, _ in rows}
    assert (" one", " two") in texts and (" first", " second") in texts
    assert not any("third" in text for pair in texts for text in pair)  # two tokens here
    assert set(names) <= set(SERIES) and "days" not in names
    assert all(now in row and then in row for now, then, row in rows)


def test_a_tokenizer_without_ordinals_has_no_successor_and_says_so(make_model):
    for model in (make_model(tokenizer=False), make_model(d_vocab=2)):
        with pytest.raises(TokenError, match="two neighbours of some row"):
            successor(model)
        found = zoo(model, ["successor"])["successor"]
        assert found.score is None and found.rows() == [] and found.players() == []
        assert "as single tokens" in found.reason


def test_other_vocabularies_on_the_way_out_have_a_reason(make_model):
    model = make_model(d_vocab_out=7)
    found = zoo(model, ["copying", "copy_suppression", "successor"])
    assert found.scores == {}
    assert all("d_vocab_out=7" in one.reason for one in found.found.values())


def test_composition_tells_the_strongest_earlier_head(make_model):
    model = make_model(n_layers=3)
    pairs = composition(model)
    for name in "qkv":
        one = zoo(model, [f"{name}_composition"])[f"{name}_composition"]
        by_head = {row.head: row for row in one.rows()}
        for head in ("0.0", "0.2"):
            assert by_head[head].partner is None and np.isnan(by_head[head].score) and by_head[head].plays is False
        for head in ("1.1", "2.0", "2.2"):
            earlier = [f"{layer}.{n}" for layer in range(int(head[0])) for n in range(3)]  # others are 0, not less
            into = pairs.sel(sender=earlier, receiver=head, input=name)
            row = by_head[head]
            assert row.partner == into.top(1).labels[0].split(" ")[0]
            assert row.score - row.control == pytest.approx(float(into.values.max()))


def test_copying_is_the_known_score(toy):
    one = zoo(toy, ["copying"])["copying"]
    assert one.score is not None and one.control is not None
    known = copying_score(toy)
    np.testing.assert_array_equal(one.score.values, known.values)
    np.testing.assert_array_equal(one.control.values, known.dataset["control"].values)


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


def made(values, control=0.0, frames=None, **more):
    dims, told = ("prompt", "layer", "head"), {"unit": "attention mass", "record": Record()}
    told |= {} if frames is None else {"coords": {"frame": ("prompt", frames)}}
    score = Measurement(values, dims, **told)
    return Found.of(role_named("induction"), score, Measurement(np.full(score.shape, control), dims, **told), **more)


def test_what_is_large_but_unsure_or_sure_but_small_is_no_yes():
    draws = np.random.default_rng(0)
    values = np.stack(
        [0.9 + 0.01 * draws.normal(size=12), 0.15 * draws.normal(size=12) * 8, 0.02 + 0.001 * draws.normal(size=12)], -1
    )[:, None]
    values[:, 0, 1] += 0.12 - values[:, 0, 1].mean()
    one = made(values)
    assert {row.head: row.plays for row in one.rows()} == {"0.0": True, "0.1": False, "0.2": False}
    by_head = {row.head: row for row in one.rows()}
    assert by_head["0.1"].p > 0.05 and by_head["0.2"].p < 0.05


def test_a_barred_head_comes_last_and_is_not_chosen():
    values = np.tile([[0.9, 0.5, 0.0]], (8, 1, 1)) + 0.01 * np.random.default_rng(0).normal(size=(8, 1, 3))
    one = made(values, frames=list("abcdefgh"), barred=np.array([[True, False, False]]))
    assert one.players() == ["0.1"] and one.rows()[-1].head == "0.0"
    best = one.best()
    assert best is not None and best.labels == ["0.1"]


def test_prompts_of_one_frame_count_as_one():
    values = 0.5 + 0.01 * np.random.default_rng(0).normal(size=(12, 1, 1))
    alone, framed = (made(values, frames=frames) for frames in (None, list("aabbccddeeff")))
    assert alone.rows()[0].p == pytest.approx(2**-11) and framed.rows()[0].p == pytest.approx(2**-5)


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
