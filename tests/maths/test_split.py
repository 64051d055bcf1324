"""Choosing on one half and measuring on the other is fair only if no frame is in both."""

import numpy as np

from pellucid import Measurement
from pellucid.base.record import Record
from pellucid.maths.statistics import split


def test_whole_frames_go_to_one_side():
    frames = [f"frame {i % 5}" for i in range(20)]
    choosing, reporting = split(20, frames)
    assert not {frames[i] for i in choosing} & {frames[i] for i in reporting}
    assert sorted([*choosing, *reporting]) == list(range(20)) and len(choosing) == 8
    assert split(4, ["one"] * 4) == ([0, 1, 2, 3], [0, 1, 2, 3])


def test_the_best_of_many_cells_is_not_flattered_where_prompts_share_frames():
    """Null cells whose noise is the frames': by halves of prompts the best would look real."""
    draws, means = np.random.default_rng(0), []
    frames = [f"frame {i % 12}" for i in range(48)]
    for _ in range(60):
        by_frame = draws.normal(0, 1, (12, 100))
        values = by_frame[np.arange(48) % 12] + draws.normal(0, 0.3, (48, 100))
        dims = ("prompt", "neuron")
        told = Measurement(values, dims, unit="logits", record=Record(), coords={"frame": ("prompt", frames)})
        means.append(float(told.best(1).values[0]))
    assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(60) + 0.02


def test_a_fraction_weighs_each_frame_alike():
    values, clean = np.array([[1.0], [1.0], [1.0], [5.0]]), np.array([2.0, 2.0, 2.0, 6.0])
    told = Measurement(
        values,
        ("prompt", "layer"),
        unit="logits",
        record=Record(),
        coords={"frame": ("prompt", ["a", "a", "a", "b"])},
        variables={"clean": ("prompt", clean), "corrupted": ("prompt", np.zeros(4))},
    )
    assert told.normalised().mean("prompt").values == (1.0 + 5.0) / (2.0 + 6.0)
