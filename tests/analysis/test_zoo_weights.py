"""Roles read off the weights, against dense matrices and in models whose heads are known."""

import numpy as np
import pytest
import torch

from pellucid import HookedTransformer, LayerNorm, MLPConfig
from pellucid.analysis.compose import composition, strongest_by_chance
from pellucid.analysis.copying import copying_by_chance, copying_score, multiplications
from pellucid.analysis.zoo_scores import zoo
from pellucid.analysis.zoo_weights import SERIES, copy_suppression, successions, successor
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import D_VOCAB, model_of


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
    monkeypatch.setattr("pellucid.analysis.token_circuits.PART", 40)  # two rows at a time
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
            assert float(found.values[:, layer, head].mean()) == pytest.approx(ours / len(ids)), (layer, head)
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
    np.testing.assert_allclose(found.scores["copy_suppression"].mean("prompt").values, [[1, 0, 0]])
    assert found.scores["copy_suppression"].shape == (39, 1, 3)  # BOS is no ordinary token


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
    assert found.players() == ["0.0"] and found.how == "sign flips of 8 words, corrected over the heads (fdr)"
    assert [row.p for row in found.rows()] == pytest.approx([3 * 2**-7, 1, 3 * 2**-7])  # 0.1 has less than its control
    assert found.score is not None and found.control is not None
    # 1 … 9: 0 is BOS. All eight that have a next one; with two on, all but the last, of seven others each.
    np.testing.assert_allclose(found.score.mean("prompt").values, [[1, 0, 0]])
    np.testing.assert_allclose(found.control.mean("prompt").values, [[0, 7 / 8 / 7, 0]])
    assert found.score.record.settings["tokens"] == 8
    assert found.score.record.settings["series"] == ["digits"]


def test_successor_is_the_argmax_of_the_dense_matrix(make_model):
    model = make_model(mlp=MLPConfig(d_mlp=10)).requires_grad_(False)
    rows, _ = successions(model)
    found = successor(model)
    for layer in range(2):
        for head in range(3):
            matrix = literal_ov(model, layer, head, torch.tensor([one.now for one in rows]))
            right = np.mean([int(row.argmax()) == one.then for row, one in zip(matrix, rows, strict=True)])
            assert float(found.values[:, layer, head].mean()) == pytest.approx(right)


def test_ordinals_are_those_that_the_tokenizer_has():
    model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
    rows, names = successions(model)
    texts = {(model.tokenizer.decode([now]), model.tokenizer.decode([then])) for now, then, _, _ in rows}
    assert (" one", " two") in texts and (" first", " second") in texts
    assert not any("third" in text for pair in texts for text in pair)  # two tokens here
    assert set(names) <= set(SERIES) and "days" not in names
    assert all(now in row and then in row for now, then, row, _ in rows)


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
    chance = strongest_by_chance(model).mean(0)
    for name in "qkv":
        one = zoo(model, [f"{name}_composition"])[f"{name}_composition"]
        by_head = {row.head: row for row in one.rows()}
        for head in ("0.0", "0.2"):
            assert by_head[head].partner is None and np.isnan(by_head[head].score)
            assert by_head[head].verdict == "cannot" and by_head[head].barred == "no head lies in an earlier layer"
        for head in ("1.1", "2.0", "2.2"):
            earlier = [f"{layer}.{n}" for layer in range(int(head[0])) for n in range(3)]  # others are 0, not less
            into = pairs.sel(sender=earlier, receiver=head, input=name)
            row = by_head[head]
            assert row.partner == into.top(1).labels[0].split(" ")[0]
            assert row.score == pytest.approx(float(into.dataset["raw"].values.max()))
            assert row.control == pytest.approx(float(chance[int(head[0]), int(head[2])]))


def test_copying_is_the_known_score(toy):
    one = zoo(toy, ["copying"])["copying"]
    assert one.score is not None and one.control is not None
    known = copying_score(toy, draws=99)
    np.testing.assert_array_equal(one.score.values, known.values)
    np.testing.assert_allclose(one.control.values, known.dataset["control"].values)
    assert "rank among 99 draws by chance" in one.how and np.isnan(one.rows()[0].low)


def test_chance_is_the_score_with_another_order_of_the_vocabulary(make_model):
    """Draw by draw, on the dense matrix; the order is shuffled on and on."""
    model = make_model(d_vocab=30)
    found = copying_by_chance(model, draws=3, seed=2)
    order, draws = torch.arange(30), torch.Generator().manual_seed(2)
    for draw in found:
        for layer in range(2):
            for head in range(3):
                matrix = literal_ov(model, layer, head, order).detach()
                values = torch.linalg.eigvals(matrix)
                assert float(draw[layer, head]) == pytest.approx(
                    float(values.real.sum() / values.abs().sum()), abs=1e-5
                )
        order = order[torch.randperm(30, generator=draws)]
    np.testing.assert_allclose(copying_score(model, draws=3, seed=2).dataset["control"].values, found[1:].mean(0))


@pytest.mark.parametrize(
    ("alpha", "long", "draws"), [(0.05, 10**12, 99), (0.05, 0, 49), (0.01, 0, 99), (0.001, 0, 999), (1e-6, 0, 999)]
)
def test_there_are_as_many_draws_as_the_level_needs_and_time_allows(make_model, monkeypatch, alpha, long, draws):
    asked = []

    def none(model, *, draws, seed):
        asked.append(draws)
        raise ArgumentError("not here")

    monkeypatch.setattr("pellucid.analysis.zoo_scores.LONG", long)
    monkeypatch.setattr("pellucid.analysis.zoo_scores.copying_by_chance", none)
    assert zoo(make_model(), ["copying"], alpha=alpha)["copying"].reason == "not here"
    assert asked == [draws]


def test_fewer_draws_are_said(toy, monkeypatch):
    assert multiplications(toy) == (64 + 2 * 4 * toy.config.attention.d_head) * toy.config.d_model**2
    monkeypatch.setattr("pellucid.analysis.zoo_scores.LONG", 99 * multiplications(toy) - 1)
    how = zoo(toy, ["copying"])["copying"].how
    assert how.endswith(
        "rank among 49 draws by chance, of the farthest head in each; 49, not 99, for a model of this size"
    )
    monkeypatch.setattr("pellucid.analysis.zoo_scores.LONG", 99 * multiplications(toy))
    assert zoo(toy, ["copying"])["copying"].how.endswith("rank among 99 draws by chance, of the farthest head in each")


def test_a_smaller_level_takes_more_random_models(make_model):
    for alpha, draws in ((0.05, 999), (0.0005, 1999)):
        assert f"among {draws} draws" in zoo(make_model(), ["k_composition"], alpha=alpha)["k_composition"].how


def test_a_word_with_a_space_and_the_same_without_count_as_one(monkeypatch):
    """Eight words, each of them two tokens here: as many flips as words."""
    n = 40
    model = suppressing(n)
    model.blocks[0].attn.W_O[0] = torch.eye(n).roll(1, 1)
    monkeypatch.setattr("pellucid.analysis.zoo_weights.SERIES", {"digits": "1 2 3 4 5 6 7 8 9"})

    def single(model, text):
        return int(text) + (20 if text.startswith(" ") else 0)

    monkeypatch.setattr("pellucid.analysis.zoo_weights._single", single)
    found = zoo(model, ["successor"])["successor"]
    assert found.score is not None and found.score.shape == (16, 1, 3) and found.score.frames is not None
    assert sorted(set(found.score.frames)) == [f"digits: {i}" for i in range(1, 9)]
    assert found.players() == ["0.0"] and found.how.startswith("sign flips of 8 words")
    assert found.rows()[0].p == pytest.approx(3 * 2**-7)


def test_the_unembedding_is_widened_once(toy, monkeypatch):
    from pellucid.model.norms import widened

    seen = []
    monkeypatch.setattr(
        "pellucid.analysis.token_circuits.widened", lambda W: (seen.append(tuple(W.shape)), widened(W))[1]
    )
    copy_suppression(toy)
    assert seen.count(tuple(toy.W_U.shape)) == 1
