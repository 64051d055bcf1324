import pytest
import torch

from pellucid.base.errors import ArgumentError
from pellucid.text.batch import BatchEncoding, batch_encoding, padded

ROWS = [[5, 6, 7], [8]]


def test_short_rows_are_filled_on_the_right():
    batch = padded(ROWS, pad_id=9, side="right")
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.mask.int().tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.tokens.dtype == torch.int64


def test_short_rows_are_filled_on_the_left():
    batch = padded(ROWS, pad_id=9, side="left")
    assert batch.tokens.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert batch.mask.int().tolist() == [[1, 1, 1], [0, 0, 1]]


def test_without_a_pad_the_filling_is_id_zero_and_the_mask_tells_it_apart():
    batch = padded([[0, 0], [0]], pad_id=None, side="right")
    assert batch.tokens.tolist() == [[0, 0], [0, 0]]
    assert batch.mask.int().tolist() == [[1, 1], [1, 0]]


def test_a_batch_can_be_wider_than_its_rows():
    assert padded(ROWS, pad_id=9, side="left", length=5).tokens.tolist() == [[9, 9, 5, 6, 7], [9, 9, 9, 9, 8]]


def test_a_batch_goes_on_one_of_two_sides():
    with pytest.raises(ArgumentError, match="got 'up'"):
        padded(ROWS, pad_id=9, side="up")


def test_rows_of_different_length_are_no_tensor():
    with pytest.raises(ArgumentError, match=r"one length, got lengths \[1, 3\]; pass padding=True"):
        batch_encoding(ROWS, None, alone=False, return_tensors="pt")


def test_one_text_keeps_the_outer_level_of_a_tensor_but_not_of_a_list():
    assert batch_encoding([[5, 6]], None, alone=True, return_tensors=None).input_ids == [5, 6]
    assert batch_encoding([[5, 6]], None, alone=True, return_tensors="pt").input_ids.shape == (1, 2)
    assert batch_encoding([[5, 6]], None, alone=True, return_tensors="np").attention_mask.tolist() == [[1, 1]]


def test_an_encoding_moves_its_tensors_and_opens_as_keywords():
    encoding = BatchEncoding(input_ids=torch.tensor([[1]]), attention_mask=torch.tensor([[1]]), name="kept")
    moved = encoding.to("meta")
    assert moved.input_ids.device.type == moved.attention_mask.device.type == "meta"
    assert {**moved}["name"] == "kept"
    assert encoding.input_ids.device.type == "cpu"
