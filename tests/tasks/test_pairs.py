"""Pairs of prompts: padded alike, aligned, with answers and positions by name; what cannot be is said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid import patching
from pellucid.base.errors import ArgumentError, TokenError
from pellucid.tasks.pairs import Pairs
from pellucid.tasks.task import Task
from pellucid.text.read import read_tokenizer
from pellucid.text.vocabulary import integer_vocabulary
from tests.models import model_of

LISTS = [[5, 6, 7], [8, 9]]
OTHERS = [[5, 1, 7], [2, 9]]


def of_tokens(**more) -> Pairs:
    return Pairs.from_tokens(LISTS, OTHERS, **more)


def test_rows_are_padded_on_the_right_and_masked():
    pairs = of_tokens()
    assert pairs.clean.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert pairs.corrupted.tolist() == [[5, 1, 7], [2, 9, 0]]
    assert pairs.mask.tolist() == [[True, True, True], [True, True, False]]
    assert pairs.lengths.tolist() == [3, 2] and len(pairs) == 2


@pytest.mark.parametrize("given_as", [list, np.array, torch.tensor, lambda rows: [torch.tensor(row) for row in rows]])
def test_tokens_come_in_every_form(given_as):
    rows = [[5, 6, 7], [8, 9, 1]]
    assert Pairs.from_tokens(given_as(rows), given_as(rows)).clean.tolist() == rows
    assert Pairs.from_tokens(given_as(rows)[0], given_as(rows)[0]).clean.tolist() == rows[:1]


@pytest.mark.parametrize(
    ("told", "held"),
    [(3, [[3], [3]]), ([3, 4], [[3], [4]]), ([[3, 1], [4, 2]], [[3, 1], [4, 2]]), ([[3], [4, 2]], [[3, -1], [4, 2]])],
)
def test_answers_are_one_for_all_one_each_or_several(told, held):
    pairs = of_tokens(answer=told, wrong=told)
    assert pairs.answer.tolist() == held and pairs.wrong.tolist() == held
    assert of_tokens().answer is None


def test_positions_count_from_either_end_and_the_end_is_each_prompts_own():
    pairs = of_tokens(positions={"first": 0, "odd": [1, -1]})
    assert {name: places.tolist() for name, places in pairs.positions.items()} == {
        **{"first": [0, 0], "odd": [1, 1], "end": [2, 1]}
    }
    assert of_tokens(positions={"end": -1}).positions["end"].tolist() == [2, 1]


@given(st.lists(st.integers(0, 1), min_size=1, max_size=5))
def test_some_of_the_pairs_are_pairs(rows):
    pairs = of_tokens(answer=[3, 4], wrong=[1, 2], positions={"odd": [1, 0]}, group=["a", "b"])
    some = pairs[rows]
    assert some.clean.tolist() == pairs.clean[rows].tolist()
    assert some.answer[:, 0].tolist() == [[3, 4][i] for i in rows]
    assert some.positions["odd"].tolist() == [[1, 0][i] for i in rows]
    assert some.group == tuple("ab"[i] for i in rows)
    assert pairs[1].clean.tolist() == pairs[1:].clean.tolist()


def test_pairs_move_to_a_device():
    moved = of_tokens(answer=3).to("meta")
    assert {moved.clean.device.type, moved.answer.device.type, moved.positions["end"].device.type} == {"meta"}


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Pairs.from_tokens([[1, 2]], [[1, 2, 3]]), ArgumentError, "got 2 and 3 in prompt 0"),
        (lambda: Pairs.from_tokens([[1]], [[1], [2]]), ArgumentError, "as many prompts, one at least, got 1 and 2"),
        (lambda: Pairs.from_tokens([], []), ArgumentError, "one at least, got 0 and 0"),
        (lambda: Pairs.from_tokens([[1], []], [[1], []]), ArgumentError, "prompt 1 of clean has none"),
        (lambda: Pairs.from_tokens([[1, -2]], [[1, 2]]), TokenError, "token ids of clean must be 0 or more, got -2"),
        (lambda: Pairs.from_tokens([[1, 2.5]], [[1, 2]]), ArgumentError, "token ids of clean must be a whole number"),
        (lambda: of_tokens(answer=[1, 2, 3]), ArgumentError, "answer must be one for all.* got 3"),
        (lambda: of_tokens(wrong=[[1], []]), ArgumentError, "wrong must be one token at least for each prompt"),
        (lambda: of_tokens(positions={"odd": 2}), ArgumentError, "'odd' must lie in 0..1 in prompt 1, .* got 2"),
        (lambda: of_tokens(positions={"odd": [True, 1]}), ArgumentError, "the boolean True"),
        (lambda: of_tokens(positions={"odd": [1]}), ArgumentError, "one place for all or each of 2 prompts"),
        (lambda: of_tokens(positions={"end": 0}), ArgumentError, "end is each prompt's own last token"),
        (lambda: of_tokens(group=["a"]), ArgumentError, "group must be one name, or one for each of 2 pairs"),
    ],
)
def test_what_cannot_be_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


class TestText:
    def test_bos_stands_in_front_and_named_positions_are_found(self):
        pairs = Pairs.from_text(
            integer_vocabulary(30), ["5 [odd: 7] 9", "[odd: 12] 3"], ["5 [odd: 8] 9", "[odd: 2] 3"], answer=["3", "4"]
        )
        assert pairs.clean.tolist() == [[0, 5, 7, 9], [0, 12, 3, 0]]
        assert pairs.positions["odd"].tolist() == [2, 1]
        assert pairs.answer.tolist() == [[3], [4]]
        assert pairs.text == (("5 7 9", "5 8 9"), ("12 3", "2 3"))

    def test_the_pair_of_the_introduction_is_aligned_with_the_real_tokenizer(self, shared):
        tokenizer = read_tokenizer(shared / "data" / "gpt2-tokenizer")
        text = "After John and Mary went to the store, [S2: {}] gave a bottle of milk to"
        pairs = Pairs.from_text(
            tokenizer, text.format("Mary"), text.format("John"), answer=" John", wrong=" Mary", group="ioi"
        )
        tokens = tokenizer.strings(pairs.clean[0])
        assert len(tokens) == 17 and tokens[int(pairs.positions["S2"][0])] == " Mary"
        assert pairs.answer.tolist() == [[tokenizer.single(" John")]] and pairs.group == ("ioi",)
        assert (pairs.clean != pairs.corrupted).nonzero().tolist() == [[0, int(pairs.positions["S2"][0])]]

    def test_a_name_of_several_tokens_is_at_its_last_one(self, shared):
        tokenizer = read_tokenizer(shared / "data" / "gpt2-tokenizer")
        pairs = Pairs.from_text(tokenizer, "The [who: interpretability] grew", "The [who: interpretability] fell")
        tokens = tokenizer.strings(pairs.clean[0])
        assert tokens[int(pairs.positions["who"][0]) + 1] == " grew"

    @pytest.mark.parametrize(
        ("clean", "corrupted", "more", "error", "message"),
        [
            ("5 7", "5 7 9", {}, TokenError, r"got 3 and 4: \['<bos>', '5', '7'\] and .*choose words"),
            ("5 7", "5 8", {"answer": "1 2"}, TokenError, "answer must be one token: .*'1 2' is 2"),
            ("[a: 5] 7", "5 [a: 7]", {}, TokenError, "'a' must be the same in clean and corrupted, got 1 and 2"),
            ("[a: 5] 7", "[b: 5] 7", {}, ArgumentError, r"must name the same positions, got \['a'\] and \['b'\]"),
            (["5", "[a: 7]"], ["6", "[a: 8]"], {}, ArgumentError, "must name the same positions, got .* prompt 1"),
            (["5"], ["6", "7"], {}, ArgumentError, "must be as many texts, got 1 and 2"),
            ("[a: 5] [a: 7]", "[a: 5] [a: 7]", {}, ArgumentError, "named once, got 'a' twice"),
            ("5 [7", "5 [7", {}, ArgumentError, r"a bracket must name a position, as in .*got '\[7'.*write \[\["),
            ("5 [: 7]", "5 [: 7]", {}, ArgumentError, "a bracket must name a position"),
        ],
    )
    def test_text_that_cannot_be_paired_is_refused(self, clean, corrupted, more, error, message):
        with pytest.raises(error, match=message):
            Pairs.from_text(integer_vocabulary(30), clean, corrupted, **more)


def test_what_makes_pairs_is_a_task():
    class Mine(Task):
        metric = patching.Logit()

        def pairs(self, tokenizer, *, n=None, seed=0, group=None):
            return of_tokens(answer=1)[:n]

    effect = patching.sweep(model_of("gpt2"), Mine(), site="resid_pre", over="layer", n=1)
    assert effect.shape == (1, 2) and effect.record.settings["metric"] == "Logit(at='end')"
