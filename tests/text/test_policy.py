from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError, TokenError
from pellucid.text.policy import TextPolicy, checked_side, padding_mask

PAD, BOS, EOS = 9, 1, 2


def test_bos_before_every_text_and_eos_as_padding_are_the_defaults():
    policy = TextPolicy.of(bos_id=1, eos_id=2, unk_id=3)
    assert policy.prepend_bos
    assert policy.pad_id == 2
    assert policy.padding_side == "right"


@pytest.mark.parametrize(
    ("ids", "pad_id"),
    [
        ({"pad_id": 9, "eos_id": 2, "bos_id": 1}, 9),
        ({"eos_id": 2, "bos_id": 1}, 2),
        ({"bos_id": 1}, 1),
        ({}, None),
    ],
)
def test_padding_is_pad_else_eos_else_bos_else_nothing(ids, pad_id):
    assert TextPolicy.of(**ids).pad_id == pad_id


def test_no_bos_means_none_is_prepended():
    assert not TextPolicy.of(eos_id=2).prepend_bos


def test_special_ids_hold_bos_eos_and_pad_but_not_an_ordinary_unknown_token():
    policy = TextPolicy(bos_id=1, eos_id=2, pad_id=9, unk_id=5, prepend_bos=True, special_ids=frozenset({7}))
    assert policy.special_ids == {1, 2, 9, 7}


def test_a_policy_does_not_change():
    with pytest.raises(FrozenInstanceError):
        TextPolicy.of(bos_id=1).bos_id = 2


def test_prepending_a_bos_that_is_not_there_is_refused():
    with pytest.raises(TokenError, match="prepend_bos needs a BOS token, and this policy has bos_id=None"):
        TextPolicy(prepend_bos=True)
    with pytest.raises(TokenError, match="prepend_bos needs a BOS"):
        replace(TextPolicy.of(bos_id=1), bos_id=None)


def test_a_side_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="""padding_side must be "left" or "right", got 'middle'"""):
        checked_side("middle")
    with pytest.raises(ArgumentError, match="got 'top'"):
        padding_mask(torch.zeros(1, 2, dtype=torch.int64), TextPolicy.of(), "top")


def test_an_id_below_zero_is_refused():
    with pytest.raises(ArgumentError, match="pad_id must be a token id or None, got -1"):
        TextPolicy.of(pad_id=-1)


def mask(rows, policy, side=None):
    return padding_mask(torch.tensor(rows), policy, side).int().tolist()


def test_the_trailing_run_of_a_dedicated_pad_is_padding():
    policy = TextPolicy.of(pad_id=PAD, bos_id=BOS, eos_id=EOS)
    rows = [[1, 5, 9, 6, 9, 9], [1, 5, 5, 5, 5, 5], [9, 9, 9, 9, 9, 9]]
    assert mask(rows, policy) == [[1, 1, 1, 1, 0, 0], [1] * 6, [0] * 6]


@pytest.mark.parametrize("policy", [TextPolicy.of(bos_id=BOS, eos_id=EOS), TextPolicy.of(bos_id=BOS)])
def test_on_the_right_nothing_is_inferred_from_a_pad_that_is_eos_or_bos(policy):
    assert mask([[BOS, 5, EOS, EOS], [5, 5, BOS, BOS]], policy, "right") == [[1] * 4] * 2


def test_the_leading_run_is_padding_on_the_left():
    policy = TextPolicy.of(pad_id=PAD, bos_id=BOS)
    assert mask([[9, 9, 1, 5], [1, 9, 5, 5], [9, 9, 9, 9]], policy, "left") == [
        [0, 0, 1, 1],
        [1] * 4,
        [0] * 4,
    ]


def test_the_last_of_a_leading_run_is_the_bos_where_pad_is_bos():
    policy = replace(TextPolicy.of(bos_id=BOS), padding_side="left")
    rows = [[1, 1, 1, 5], [1, 5, 1, 5], [5, 5, 5, 1], [1, 1, 1, 1]]
    assert mask(rows, policy) == [[0, 0, 1, 1], [1] * 4, [1] * 4, [0, 0, 0, 1]]


def test_the_whole_leading_run_is_padding_where_bos_is_not_prepended():
    policy = replace(TextPolicy.of(bos_id=BOS), prepend_bos=False)
    assert mask([[1, 1, 1, 5], [5, 1, 6, 7]], policy, "left") == [[0, 0, 0, 1], [1] * 4]


def test_rows_that_all_begin_with_pad_begin_with_bos_though_the_policy_puts_none():
    policy = replace(TextPolicy.of(bos_id=BOS), prepend_bos=False)
    assert mask([[BOS, 5, 6, 7, 8, 5, 6]], policy, "left") == [[1] * 7]
    assert mask([[1, 1, 1, 5], [1, 5, 1, 6]], policy, "left") == [[0, 0, 1, 1], [1] * 4]


def test_the_call_may_say_whether_bos_stands_in_front():
    policy, rows = TextPolicy.of(bos_id=BOS), torch.tensor([[1, 1, 5], [5, 6, 7]])
    for front, expected in ((True, [0, 1, 1]), (False, [0, 0, 1]), (None, [0, 1, 1])):
        assert padding_mask(rows, policy, "left", prepend_bos=front).int().tolist() == [expected, [1, 1, 1]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_without_a_pad_everything_is_real(side):
    assert mask([[0, 0, 3, 0]], TextPolicy.of(), side) == [[1, 1, 1, 1]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_an_empty_batch_has_an_empty_mask(shape, side):
    policy = TextPolicy.of(bos_id=BOS, pad_id=BOS if side == "left" else PAD)
    found = padding_mask(torch.zeros(shape, dtype=torch.int64), policy, side)
    assert found.shape == shape
    assert found.dtype == torch.bool


rows_of_text = st.lists(st.lists(st.integers(3, 8), min_size=1, max_size=6), min_size=1, max_size=4)


@given(rows_of_text, st.sampled_from(["left", "right"]), st.sampled_from(["dedicated", "bos"]))
def test_the_mask_of_a_padded_batch_is_found_again(rows, side, pad):
    if pad == "bos" and side == "right":
        return
    policy = TextPolicy.of(bos_id=BOS, pad_id=PAD if pad == "dedicated" else BOS)
    rows = [[BOS, *row] for row in rows]
    width = max(map(len, rows))
    fill = [[policy.pad_id] * (width - len(row)) for row in rows]
    tokens = [f + r if side == "left" else r + f for f, r in zip(fill, rows, strict=True)]
    real = [
        [0] * len(f) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * len(f)
        for f, r in zip(fill, rows, strict=True)
    ]
    assert mask(tokens, policy, side) == real
