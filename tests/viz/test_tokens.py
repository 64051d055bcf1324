"""What coloured tokens take and refuse."""

import numpy as np
import pytest
import torch

from pellucid import viz
from pellucid.base.errors import ArgumentError

NAN = float("nan")


def test_each_token_gets_its_number_and_some_may_have_none():
    data = viz.colored_tokens(["a", " b\n"], torch.tensor([NAN, -2.5], dtype=torch.bfloat16), name="loss (nats)").data()
    assert (data["tokens"], data["breaks"]) == (["a", "·b↵"], [False, True])
    assert np.isnan(data["values"][0]) and data["values"][1] == -2.5
    assert (data["name"], data["least"], data["most"]) == ("loss (nats)", -2.5, 0.0)


def test_tokens_without_any_number_are_plain():
    data = viz.colored_tokens(["a"], [NAN]).data()
    assert (data["least"], data["most"]) == (0.0, 0.0)
    assert viz.colored_tokens([], []).data()["tokens"] == []


@pytest.mark.parametrize(
    ("tokens", "values", "said"),
    [
        ("ab", [1.0, 2.0], "tokens must be a list with the text of each token; model.to_str_tokens.* got str"),
        (
            ["a", "b"],
            [1.0],
            r"one number for each of the 2 tokens, got shape \[1\]; a loss per token has none for the first",
        ),
        (["a"], torch.ones(1, 1), r"one number for each of the 1 tokens, got shape \[1, 1\]"),
        (["a", "b"], [1.0, float("inf")], "must be finite, or NaN for none, got inf for token 1"),
        (["a"], torch.tensor([1j]), "must be real numbers, got complex64"),
    ],
)
def test_what_cannot_be_is_refused(tokens, values, said):
    with pytest.raises(ArgumentError, match=said):
        viz.colored_tokens(tokens, values)
