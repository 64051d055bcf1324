"""A record is a value: copied, merged, and given back by a file exactly."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.base.errors import ArgumentError
from pellucid.base.record import VERSION, Record

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4), st.lists(st.text(), max_size=3), st.none() | st.integers())
def test_a_record_goes_through_json_and_back(settings, processing, seed):
    record = Record(model="toy", processing=tuple(processing), seed=seed, settings=settings)
    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_a_record_knows_its_version():
    assert Record().version == VERSION
    assert Record.from_dict({"version": "0.0.1"}).version == "0.0.1"


def test_add_changes_a_copy_and_merges_settings():
    record = Record(model="toy", settings={"rule": "article", "S": 50})
    added = record.add(seed=3, settings={"S": 20, "offset": 1})
    assert record == Record(model="toy", settings={"rule": "article", "S": 50})
    assert (added.model, added.seed) == ("toy", 3)
    assert added.settings == {"rule": "article", "S": 20, "offset": 1}


def test_add_without_settings_keeps_them():
    assert Record(settings={"a": 1}).add(task="induction").settings == {"a": 1}


def test_a_record_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Record().seed = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_later_changes_of_the_settings_given_change_nothing():
    settings = {"heads": [1, 2]}
    record = Record(settings=settings)
    settings["heads"].append(3)
    record.to_dict()["settings"]["heads"].append(4)
    assert record.settings == {"heads": [1, 2]}


def test_tuples_in_settings_become_lists_at_once():
    assert Record(settings={"heads": (1, 2)}).settings == {"heads": [1, 2]}


@pytest.mark.parametrize("value", [np.float32(1), {1, 2}, object, b"bytes"])
def test_settings_that_json_cannot_hold_are_refused_at_once(value):
    with pytest.raises(ArgumentError, match="settings of a record must be JSON values, got .*; give numbers"):
        Record(settings={"value": value})


def test_a_field_of_a_later_version_is_refused_with_both_versions():
    values = Record().to_dict() | {"modell": "toy", "version": "9.0"}
    with pytest.raises(ArgumentError, match=f"got 'modell'; nearest: model.* version 9.0, this is {VERSION}"):
        Record.from_dict(values)


def test_a_record_of_an_earlier_version_has_defaults_for_what_it_did_not_know():
    assert Record.from_dict({"model": "toy"}) == Record(model="toy")
