"""Errors are Pellucid's own and the built-in that fits; names that are not there come with the nearest."""

import pickle

import pytest

from pellucid.base import errors
from pellucid.base.errors import PellucidError, nearest

KINDS = {
    "ConfigError": ValueError,
    "ArgumentError": ValueError,
    "UnknownNameError": KeyError,
    "HookError": ValueError,
    "TokenError": ValueError,
    "CheckpointError": ValueError,
    "OutputError": OSError,
    "TrainingError": ArithmeticError,
    "TooLargeError": MemoryError,
    "MissingExtraError": ImportError,
}


@pytest.mark.parametrize(("name", "builtin"), KINDS.items())
def test_each_error_is_ours_and_the_builtin_that_fits(name, builtin):
    kind = getattr(errors, name)
    assert issubclass(kind, PellucidError)
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("name", KINDS)
def test_a_message_is_shown_as_it_was_written(name):
    assert str(getattr(errors, name)("n_heads must be 'right'")) == "n_heads must be 'right'"
    assert str(getattr(errors, name)()) == ""


@pytest.mark.parametrize("name", KINDS)
def test_an_error_survives_the_way_to_another_process(name):
    error = pickle.loads(pickle.dumps(getattr(errors, name)("what must hold")))
    assert type(error) is getattr(errors, name)
    assert str(error) == "what must hold"


def test_every_error_of_the_file_is_tested_here():
    found = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, PellucidError) and kind is not PellucidError
    }
    assert found == KINDS.keys()


def test_a_misreading_is_a_warning_and_no_error():
    with pytest.warns(UserWarning, match="rests on BOS"):
        raise_as_warning()
    assert not issubclass(errors.MisreadWarning, PellucidError)


def raise_as_warning():
    import warnings

    warnings.warn("attention rests on BOS", errors.MisreadWarning, stacklevel=2)


def test_the_nearest_names_come_first():
    known = [f"blocks.{layer}.hook_resid_pre" for layer in range(20)] + ["ln_final.hook_scale"]
    assert nearest("block.3.hook_resid_pre", known, count=1) == "; nearest: blocks.3.hook_resid_pre"
    assert nearest("block.3.hook_resid_pre", known).count("hook_resid_pre") == 3


def test_of_a_few_names_that_are_all_far_off_all_are_shown():
    assert nearest("xyz", ["layer", "head"]) == "; there is: layer, head"
    assert nearest("xyz", (name for name in ["layer"])) == "; there is: layer"


def test_of_many_names_that_are_all_far_off_or_of_none_nothing_is_shown():
    assert nearest("xyz", [f"name {number}" for number in range(13)]) == ""
    assert nearest("xyz", []) == ""
