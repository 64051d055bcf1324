import json
import math

import numpy as np
import pytest

from pellucid.base.errors import ArgumentError, OutputError
from pellucid.base.record import Record
from pellucid.measurement import Measurement
from pellucid.studies.result import Figure, StudyResult, check_vacant


def measured(values) -> Measurement:
    return Measurement(values, ("prompt",), unit="nats", record=Record(seed=1))


def result(number=1.0) -> StudyResult:
    loss = measured([number, 2.0, 4.0])
    return StudyResult(
        study="example",
        model="a model",
        record=Record(model="a model", seed=1),
        figures={"loss": Figure.of(loss.mean("prompt")), "head": Figure(unit="nats", reason="it has none")},
        measurements={"loss": loss, "more": measured([0.0])},
    )


def test_a_figure_is_the_mean_with_its_interval():
    mean = measured([1.0, 2.0, 4.0]).mean("prompt")
    figure = Figure.of(mean, label="5.1")
    assert (figure.value, figure.unit, figure.label, figure.reason) == (mean.item(), "nats", "5.1", None)
    assert figure.low == pytest.approx(mean.dataset["low"].item())
    assert figure.high == pytest.approx(mean.dataset["high"].item())


def test_one_prompt_has_a_value_and_the_reason_why_no_interval():
    figure = Figure.of(measured([3.0]).mean("prompt"))
    assert (figure.value, figure.low, figure.high) == (3.0, None, None)
    assert figure.reason == "one prompt has no interval"


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_null_with_its_reason(number):
    figure = Figure.of(measured([1.0, number]).mean("prompt"))
    assert (figure.value, figure.low, figure.high) == (None, None, None)
    assert figure.reason == f"the model's answers make it {number}"


@pytest.mark.parametrize("name", ["value", "low", "high", "published"])
def test_a_figure_that_is_not_finite_is_refused(name):
    with pytest.raises(ArgumentError, match=f"{name} of a figure must be finite or None, got nan"):
        Figure(unit="nats", **{"value": 1.0, name: math.nan})


def test_a_figure_without_value_and_reason_is_refused():
    with pytest.raises(ArgumentError, match="without a value must have a reason"):
        Figure(unit="nats")


def test_the_folder_holds_what_the_schema_says(tmp_path):
    path = result().save(tmp_path / "out")
    assert path == tmp_path / "out" / "result.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    assert list(saved) == ["schema", "study", "model", "record", "figures", "measurements", "files"]
    assert (saved["schema"], saved["study"], saved["model"], saved["record"]["seed"]) == (1, "example", "a model", 1)
    keys = {"value", "low", "high", "unit", "label", "published", "reason"}
    assert all(set(figure) == keys for figure in saved["figures"].values())
    assert saved["figures"]["head"]["value"] is None
    found = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    assert found == set(saved["files"]) == {"result.json", *saved["measurements"].values()}


def test_the_measurements_are_read_again_as_they_were(tmp_path):
    made = result()
    path = made.save(tmp_path / "out")
    for name, place in json.loads(path.read_text(encoding="utf-8"))["measurements"].items():
        again = Measurement.load(path.parent / place)
        np.testing.assert_array_equal(again.values, made.measurements[name].values)
        assert again.record == made.measurements[name].record


def test_results_are_replaced_only_when_asked(tmp_path):
    result().save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"must not hold results already, it has result\.json; add --overwrite"):
        result(7.0).save(tmp_path)
    path = result(7.0).save(tmp_path, overwrite=True)
    assert json.loads(path.read_text(encoding="utf-8"))["figures"]["loss"]["value"] == pytest.approx(13 / 3)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="must be a folder for the results, it is a file"):
        result().save(tmp_path / "out", overwrite=True)


def test_an_empty_or_missing_folder_is_vacant(tmp_path):
    check_vacant(tmp_path, overwrite=False)
    check_vacant(tmp_path / "missing", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_an_interrupted_save_leaves_the_old_result_whole(tmp_path, monkeypatch, interruption):
    path = result().save(tmp_path / "out")
    before = path.read_text(encoding="utf-8")

    def interrupted(self, place):
        raise interruption

    monkeypatch.setattr(Measurement, "save", interrupted)
    with pytest.raises(interruption):
        result(7.0).save(tmp_path / "out", overwrite=True)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_first_save_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(self, place):
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        result().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
