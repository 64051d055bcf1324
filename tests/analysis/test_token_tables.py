"""Weights read as tokens, against dense matrices written out in full."""

import pytest
import torch
from hypothesis import given, settings

from pellucid import LayerNorm, RMSNorm, Rotary
from pellucid.analysis import copying_score, ov_tokens, qk_tokens, svd_tokens, weights
from pellucid.base.errors import ArgumentError, TokenError, UnknownNameError
from pellucid.pretrained.processing import Processing, process
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import CONFIGS, config_of, configs, model_of


def normed(config, norm, x, *, scale=True):
    """Rows through a norm without its bias, written out; with a scale of 1 if asked."""
    if config is None:
        return x
    x = x - x.mean(-1, keepdim=True) if isinstance(config, LayerNorm) else x
    x = x / (x.square().mean(-1, keepdim=True) + config.eps).sqrt() if scale else x
    return x if norm.w is None else x * norm.w


def embedded(model, *, extended):
    E = model.W_E.detach()
    block = model.blocks[0]
    return E + block.mlp(block.ln2(E[None]))[0] if extended else E


def dense_ov(model, layer, head, *, extended=False):
    """`[d_vocab d_vocab]`: the row of each token attended to."""
    config = model.config
    read = normed(config.norm, model.blocks[layer].ln1, embedded(model, extended=extended and layer > 0))
    written = read @ model.W_V[layer, head] @ model.W_O[layer, head]
    return (normed(config.norm, model.ln_final, written, scale=False) @ model.W_U).detach()


def dense_qk(model, layer, head, distance=None):
    """`[d_vocab d_vocab]`: the row of each token that attends."""
    x = normed(model.config.norm, model.blocks[layer].ln1, model.W_E)
    q, key = x @ model.W_Q[layer, head], x @ model.W_K[layer, head]
    if distance is not None:
        half = (model.config.positions.dim or q.shape[-1]) // 2
        frequencies = 1.0 / model.config.positions.base ** (torch.arange(half).float() / half)
        angles = distance * frequencies.double()
        a, b = q[:, :half].clone(), q[:, half : 2 * half].clone()
        q = torch.cat(
            [a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin(), q[:, 2 * half :]], dim=1
        )
    return (q @ key.T * model.config.attention.factor).detach()


def assert_table(found, dense, *, k, largest=True):
    best = dense.topk(k, dim=-1, largest=largest)
    torch.testing.assert_close(found.scores, best.values, rtol=0, atol=1e-10)
    assert torch.equal(found.ids, best.indices)


@settings(max_examples=20, deadline=None)
@given(configs())
def test_tables_are_those_of_the_dense_matrices(config):
    model = model_of(config, dtype=torch.float64)
    distance = 3 if isinstance(config.positions, Rotary) else None
    for layer in range(config.n_layers):
        found, dense = ov_tokens(model, layer, 2, k=3), dense_ov(model, layer, 2)
        assert_table(found, dense, k=3)
        assert found.own_rank.tolist() == [int((row > row[i]).sum()) for i, row in enumerate(dense)]
        assert_table(ov_tokens(model, layer, 2, [5, 1], k=4, largest=False), dense[[5, 1]], k=4, largest=False)
        assert_table(qk_tokens(model, layer, 3, k=3, distance=distance), dense_qk(model, layer, 3, distance), k=3)
        if config.mlp is not None:
            found = ov_tokens(model, layer, 1, k=2, embedding="extended")
            assert_table(found, dense_ov(model, layer, 1, extended=True), k=2)


@settings(max_examples=20, deadline=None)
@given(configs())
def test_copying_is_told_by_the_eigenvalues_of_the_dense_matrix(config):
    model = model_of(config, dtype=torch.float64)
    found = copying_score(model)
    for layer in range(config.n_layers):
        for head in range(config.attention.n_heads):
            E = normed(config.norm, model.blocks[layer].ln1, model.W_E, scale=False)
            written = E @ model.W_V[layer, head] @ model.W_O[layer, head]
            dense = normed(config.norm, model.ln_final, written, scale=False) @ model.W_U
            values = torch.linalg.eigvals(dense.detach())
            expected = (values.real.sum() / values.abs().sum()).item()
            assert found.sel(layer=layer, head=head).item() == pytest.approx(expected, abs=1e-6)


def test_extended_copying_reads_the_first_mlp_too():
    model = model_of("gpt2", dtype=torch.float64)
    raw, extended = copying_score(model), copying_score(model, embedding="extended")
    assert raw.values[0].tolist() == extended.values[0].tolist()
    assert raw.values[1].tolist() != extended.values[1].tolist()


def test_a_head_that_copies_is_known_and_its_control_is_not():
    config = config_of(d_vocab=200, d_model=64, norm=None, mlp=None)
    model = model_of(config, dtype=torch.float64)
    with torch.no_grad():
        model.unembed.W_U.copy_(model.W_E.T)
        attn = model.blocks[1].attn
        attn.W_O.copy_(attn.W_V.mT)
        attn.W_O[1].neg_()
        attn.W_O[2].zero_()
    found = copying_score(model)
    assert found.values[1, 0] == pytest.approx(1) and found.values[1, 1] == pytest.approx(-1)
    assert torch.tensor(found.values[1, 2]).isnan()
    assert abs(found.dataset["control"].values[1, :2]).max() < 0.7
    assert found.dims == ("layer", "head") and found.unit == "fraction"
    other = copying_score(model, seed=1)
    assert other.values[1, 0] == found.values[1, 0]
    assert other.dataset["control"].values[1, 0] != found.dataset["control"].values[1, 0]


@pytest.mark.parametrize("norm", [LayerNorm(), RMSNorm()])
def test_processing_changes_nothing(norm):
    model = model_of(config_of(norm=norm), dtype=torch.float64)

    def told():
        tables = [ov_tokens(model, 1, 2, k=4).scores, qk_tokens(model, 1, 2, k=4).scores]
        tables += [ov_tokens(model, 1, 2, k=4, embedding="extended").scores]
        for which, head in (("OV", 1), ("QK", 1), ("MLP", None)):
            found = svd_tokens(model, 1, head, which=which, k=4, directions=3)
            tables += [found.strength, found.writes.scores]
        return [*tables, torch.tensor(copying_score(model).values)]

    before = told()
    process(model, Processing(center_unembed=False))
    for was, now in zip(before, told(), strict=True):
        torch.testing.assert_close(now, was, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", CONFIGS)
def test_directions_are_those_of_the_dense_matrices(kind):
    model = model_of(kind, dtype=torch.float64)
    norm, centred = model.config.norm, isinstance(model.config.norm, LayerNorm)

    def through(part, W):
        """The matrix behind a norm: what it makes of each basis vector, times the matrix."""
        return normed(norm, part, torch.eye(10, dtype=torch.float64), scale=False) @ W

    ln1, W_O = model.blocks[1].ln1, model.W_O[1, 3]
    W_O = W_O - W_O.mean(-1, keepdim=True) if centred else W_O
    read = {"OV": through(ln1, model.W_V[1, 3]) @ W_O, "QK": None}
    read["QK"] = through(ln1, model.W_Q[1, 3]) @ through(ln1, model.W_K[1, 3]).T
    for which, dense in read.items():
        found = svd_tokens(model, 1, 3, which=which, k=2, directions=3)
        U, S, Vh = torch.linalg.svd(dense)
        torch.testing.assert_close(found.strength, S[:3], rtol=0, atol=1e-10)
        out = model.W_E @ Vh[:3].T if which == "QK" else (through(model.ln_final, model.W_U).T @ Vh[:3].T)
        into = model.W_E @ U[:, :3]
        for i in range(3):
            sign = out[:, i][out[:, i].abs().argmax()].sign()
            assert torch.equal(found.writes.ids[i], (out[:, i] * sign).topk(2).indices)
            torch.testing.assert_close(found.reads.scores[i], (into[:, i] * sign).topk(2).values, rtol=0, atol=1e-9)
        assert found.reads.own_rank is None and len(found.reads) == 3


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bare"])
def test_an_mlp_has_directions_on_either_side(kind):
    model = model_of(kind, dtype=torch.float64)
    found = svd_tokens(model, 0, which="MLP", k=2, directions=2)
    W_out = model.blocks[0].mlp.W_out.detach()
    W_out = W_out - W_out.mean(-1, keepdim=True) if isinstance(model.config.norm, LayerNorm) else W_out
    torch.testing.assert_close(found.strength, torch.linalg.svdvals(W_out)[:2], rtol=0, atol=1e-10)
    assert found.writes.title == "MLP of layer 0: tokens that each direction writes"
    assert (found.writes.scores[:, 0] > 0).all() and (found.reads.scores[:, 0] > 0).all()


def test_few_rows_at_a_time_give_the_same(monkeypatch):
    model = model_of("gpt2", dtype=torch.float64)
    whole = ov_tokens(model, 1, 0, embedding="extended")
    for module in ("token_tables", "token_circuits"):
        monkeypatch.setattr(f"pellucid.analysis.{module}.PART", 1)
    parts = ov_tokens(model, 1, 0, embedding="extended")
    torch.testing.assert_close(parts.scores, whole.scores, rtol=0, atol=1e-12)
    assert torch.equal(parts.own_rank, whole.own_rank) and parts.words == whole.words
    assert weights.PART > 1


def test_a_table_prints_its_tokens():
    model = model_of("gpt2")
    table = ov_tokens(model, 1, 2, [3, 4], k=2)
    first = " ".join(map(repr, map(str, table.ids[0].tolist()))).replace(" ", "  ")
    assert repr(table).splitlines()[:2] == [
        "OV of head 1.2: tokens written for, for each attended to",
        f"  '3'  {first}",
    ]
    assert len(table) == 2
    assert "<table>" in table._repr_html_() and table.__rich__().row_count == 2
    assert table.record.settings["embedding"] == "raw"
    assert "and 7 more" in ov_tokens(model_of(config_of(d_vocab=27)), 0, 0)._repr_html_()


def test_tokens_may_be_texts(make_model):
    model = make_model(d_vocab=20, tokenizer=True)
    texts = ["3", "7"]
    assert isinstance(model.tokenizer, type(integer_vocabulary(20, bos=0)))
    found = ov_tokens(model, 0, 1, texts, k=2)
    ids = [model.to_single_token(text) for text in texts]
    assert torch.equal(found.ids, ov_tokens(model, 0, 1, torch.tensor(ids), k=2).ids)
    assert torch.equal(found.ids[:1], ov_tokens(model, 0, 1, "3", k=2).ids)
    assert found.labels == ["'3'", "'7'"]
    with pytest.raises(TokenError):
        ov_tokens(model, 0, 1, "3 7")


def test_what_there_is_not_is_refused():
    model = model_of("gpt2")
    with pytest.raises(ArgumentError, match=r"layer must lie in 0\.\.1, got 2"):
        ov_tokens(model, 2, 0)
    with pytest.raises(ArgumentError, match=r"head must lie in 0\.\.3, got 4"):
        qk_tokens(model, 0, 4)
    with pytest.raises(ArgumentError, match="k must be 1 or more, got 0"):
        ov_tokens(model, 0, 0, k=0)
    with pytest.raises(ArgumentError, match=r"tokens must be one or more, ids in 0\.\.16 or texts, got \[17\]"):
        ov_tokens(model, 0, 0, 17)
    with pytest.raises(UnknownNameError, match="embedding must be a known one, got 'extnded'; nearest: extended"):
        copying_score(model, embedding="extnded")
    with pytest.raises(ArgumentError, match="distance makes no difference in a model whose positions are not rotary"):
        qk_tokens(model, 0, 0, distance=3)
    for distance in (None, 16):
        with pytest.raises(ArgumentError, match=r"distance from key to query: distance must lie in 0\.\.15, got"):
            qk_tokens(model_of("llama"), 0, 0, distance=distance)
    with pytest.raises(ArgumentError, match="the extended embedding needs the first block's MLP"):
        ov_tokens(model_of("attention only"), 0, 0, embedding="extended")
    with pytest.raises(ArgumentError, match="got d_vocab=17 and d_vocab_out=5"):
        copying_score(model_of(config_of(d_vocab_out=5)))
    with pytest.raises(UnknownNameError, match="which must be OV, QK or MLP, got 'VO'"):
        svd_tokens(model, 0, 0, which="VO")
    for wrong in ({"which": "MLP"}, {"directions": 0}):
        with pytest.raises(ArgumentError, match="an OV or QK needs a head and an MLP none, and directions must be 1"):
            svd_tokens(model, 0, 0, **wrong)
    with pytest.raises(ArgumentError, match="which='MLP' needs a model with MLPs, and this model has attention only"):
        svd_tokens(model_of("attention only"), 0, which="MLP")


def test_a_smaller_vocabulary_may_come_out():
    model = model_of(config_of(d_vocab_out=5), dtype=torch.float64)
    found = ov_tokens(model, 0, 1, k=10)
    assert found.ids.shape == (17, 5) and found.own_rank is None
