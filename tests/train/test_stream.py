import numpy as np
import torch

from pellucid.train.sequences import IGNORED, PeriodicSequences
from pellucid.train.stream import Drawn, Shuffled

ROWS = np.arange(21, dtype=np.uint8).reshape(7, 3)


def test_every_row_is_read_once_before_any_is_read_again_in_another_order():
    stream = Shuffled(ROWS, batch=7, seed=0)
    first, second = (next(stream).tokens[:, 0].tolist() for _ in range(2))
    assert sorted(first) == sorted(second) == [0, 3, 6, 9, 12, 15, 18]
    assert first != second


def test_a_batch_may_reach_into_the_next_time():
    stream = Shuffled(ROWS, batch=5, seed=0)
    read = torch.cat([next(stream).tokens[:, 0] for _ in range(7)]).tolist()
    assert all(sorted(read[at : at + 7]) == [0, 3, 6, 9, 12, 15, 18] for at in range(0, 35, 7))


def test_every_token_but_the_first_is_a_target():
    tokens, targets, source = next(Shuffled(ROWS, batch=2, seed=0))
    assert tokens.dtype == torch.int64 and source is None
    assert torch.equal(targets[:, :-1], tokens[:, 1:]) and (targets[:, -1] == IGNORED).all()


def test_a_stream_goes_on_from_its_place():
    sequences = PeriodicSequences(d_vocab=12, length=12, shortest=2, longest=4)
    for make in (lambda seed: Shuffled(ROWS, batch=5, seed=3), lambda seed: Drawn(sequences, batch=5, seed=seed)):
        stream, other = make(0), make(1)
        for _ in range(3):
            next(stream)
        other.place = stream.place.clone()
        for _ in range(3):
            assert torch.equal(next(stream).tokens, next(other).tokens)
