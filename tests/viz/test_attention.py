"""What attention patterns take, refuse, and hand to the browser."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import viz
from pellucid.base.errors import ArgumentError
from pellucid.viz import attention as module

TOKENS = ["<bos>", "The", " cat"]
UNIFORM = torch.ones(2, 3, 3).tril()


def test_everything_that_holds_numbers_is_taken():
    expected = UNIFORM.numpy().tolist()
    for attention in (
        UNIFORM,
        UNIFORM.bfloat16(),
        UNIFORM.clone().requires_grad_(),
        UNIFORM.numpy(),
        expected,
        UNIFORM.int(),
    ):
        view = viz.attention_patterns(TOKENS, attention)
        assert view.values.tolist() == expected
        assert view.values.dtype == np.float32


def test_later_changes_of_the_tensor_change_nothing():
    attention = UNIFORM.clone()
    view = viz.attention_patterns(TOKENS, attention)
    attention[:] = 0
    assert view.values.tolist() == UNIFORM.tolist()


def test_heads_have_names():
    assert viz.attention_patterns(TOKENS, UNIFORM).heads == ["Head 0", "Head 1"]
    view = viz.attention_patterns(tokens=TOKENS, attention=UNIFORM, attention_head_names=["4.11", "5.5"])
    assert view.heads == ["4.11", "5.5"]
    assert repr(view) == "<Attention patterns: 2 heads × 3 tokens; .save('page.html') writes a page>"
    assert viz.attention_patterns(TOKENS, UNIFORM[:1], ["5.5"]).title() == "Attention patterns: 5.5 × 3 tokens"


@given(n=st.integers(1, 12), n_heads=st.integers(1, 3), causal=st.booleans())
def test_a_browser_finds_each_weight(n, n_heads, causal):
    values = np.random.default_rng(n).random((n_heads, n, n), dtype=np.float32) + 0.1
    values = np.tril(values) if causal else values
    data = viz.attention_patterns(["x"] * n, values).data()
    assert data["causal"] is (causal or n == 1)
    rows = data["values"]
    for head in range(n_heads):
        for q in range(n):
            for k in range(n):
                place = q * (q + 1) // 2 + k if data["causal"] else q * n + k
                found = 0 if data["causal"] and k > q else rows[head, place]
                assert found == values[head, q, k]


@pytest.mark.parametrize(
    ("tokens", "attention", "said"),
    [
        ("The cat", UNIFORM, r"tokens must be a list with the text of each token, got 'The cat'; model.to_str_tokens"),
        (TOKENS, UNIFORM[0], r"\[head, q_pos, k_pos\], got shape \[3, 3\]; one head is pattern\[None\]"),
        (TOKENS, UNIFORM[None], r"got shape \[1, 2, 3, 3\]; one prompt is attention\[0\]"),
        (TOKENS, UNIFORM[0, 0], r"must have the axes \[head, q_pos, k_pos\], got shape \[3\]$"),
        (
            TOKENS[1:],
            UNIFORM,
            r"must be \[head, 2, 2\] for 2 tokens, got \[2, 3, 3\]; tokens must be those that the model saw",
        ),
        (TOKENS, UNIFORM[:, :2], r"must be \[head, 3, 3\] for 3 tokens, got \[2, 2, 3\]"),
        (TOKENS, UNIFORM[:0], r"one head or more and one token or more, got shape \[0, 3, 3\]"),
        ([], torch.zeros(2, 0, 0), r"one head or more and one token or more, got shape \[2, 0, 0\]"),
        (TOKENS, UNIFORM / UNIFORM, r"finite numbers, got nan for head 0 from destination 0 to source 1; of scores"),
        (TOKENS, -1 / UNIFORM, r"finite numbers, got -inf for head 0 from destination 0 to source 1"),
        (TOKENS, UNIFORM.to(torch.complex64), r"must hold real numbers, got complex64"),
    ],
)
def test_what_cannot_be_is_refused(tokens, attention, said):
    with pytest.raises(ArgumentError, match=said):
        viz.attention_patterns(tokens, attention)


def test_a_name_is_needed_for_each_head():
    with pytest.raises(ArgumentError, match="must name each of the 2 heads, got 1 names"):
        viz.attention_patterns(TOKENS, UNIFORM, ["5.5"])


def test_more_than_a_browser_holds_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MOST", 10)
    with pytest.raises(ArgumentError, match=r"may hold 10 weights, got 18; choose some heads, such as attention\[:1\]"):
        viz.attention_patterns(TOKENS, UNIFORM)


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    view = viz.attention_patterns(TOKENS, UNIFORM)
    view.save(tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    monkeypatch.setattr(type(view), "data", lambda view: {"values": object()})
    with pytest.raises(TypeError):
        view.save(tmp_path / "page.html")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
