import numpy as np
import pytest

from pellucid import HookedTransformer, Measurement
from pellucid.analysis.heads import PREVIOUS, head_scores
from pellucid.analysis.repeated import repeated_tokens
from pellucid.analysis.steps import over_checkpoints
from pellucid.base.errors import ArgumentError, CheckpointError
from pellucid.train import train
from tests.train.recipes import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(steps=10, probes={"batch": 0, "held_out": 0}), out=out, device="cpu")
    return out


def previous(model) -> Measurement:
    return head_scores(model, repeated_tokens(model, seq_len=6, batch=3), PREVIOUS)


def test_each_step_has_what_the_function_says_of_its_model(folder):
    found = over_checkpoints(folder, previous, device="cpu")
    assert found.dims == ("step", "prompt", "layer", "head")
    assert found.dataset["step"].values.tolist() == [0, 5, 10]
    for step in (0, 5, 10):
        model = HookedTransformer.from_pretrained(folder, checkpoint_value=step, device="cpu")
        assert np.array_equal(found.sel(step=step).values, previous(model).values)
    assert not np.array_equal(found.sel(step=0).values, found.sel(step=10).values)
    mean = found.mean("prompt")
    assert {"low", "high"} <= set(mean.dataset) and mean.dims == ("step", "layer", "head")


def test_some_steps_and_another_way_of_loading_can_be_asked_for(folder):
    norms = []

    def norm(model) -> Measurement:
        norms.append(model.config.norm)
        return previous(model).mean("prompt")

    found = over_checkpoints(folder, norm, steps=[10, 0], fold_ln=False, device="cpu")
    assert found.dataset["step"].values.tolist() == [10, 0] and norms[0].affine


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": [3]}, r"among those that were kept, 0, 5, 10, got \[3\]"),
        ({"steps": []}, "got none"),
        ({"function": lambda model: 3}, "the function must give a Measurement, got int"),
    ],
)
def test_what_cannot_be_is_told(folder, options, said):
    with pytest.raises(ArgumentError, match=said):
        over_checkpoints(folder, **{"function": previous} | options)


def test_a_folder_without_checkpoints_is_told(tmp_path):
    with pytest.raises(CheckpointError, match="must be the folder of a training run, it has no checkpoints/step-…"):
        over_checkpoints(tmp_path, previous)


def test_functions_that_speak_of_different_cells_are_refused(folder):
    sizes = iter((5, 6, 7))

    def changing(model) -> Measurement:
        return head_scores(model, repeated_tokens(model, seq_len=6, batch=next(sizes)), PREVIOUS)

    with pytest.raises(ArgumentError, match="cells|alike|prompt"):
        over_checkpoints(folder, changing)
