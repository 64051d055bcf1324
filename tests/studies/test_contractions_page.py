"""The report on contractions: exact sentences, no empty pictures, no negative nothing, and reasons told once."""

import html
import re
from dataclasses import replace

import numpy as np
import pytest

from pellucid import HookedTransformer
from pellucid.hooked_transformer import record_of
from pellucid.measurement import Measurement
from pellucid.studies.contractions import contractions
from pellucid.studies.contractions_page import contractions_page
from pellucid.studies.contractions_pictures import bars, fractions, group_map, rounded
from pellucid.studies.report_cells import interval, number
from pellucid.studies.result import Figure
from tests.studies.test_contractions import prompts_of, speaking, wired


def words_of(page) -> str:
    """The text of a page, without tags and data."""
    text = re.sub(r"<(script|style)[\s\S]*?</\1>", "", page.html())
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


@pytest.fixture(scope="module")
def found():
    return contractions(wired(), prompts_of())


@pytest.fixture(scope="module")
def page(found):
    return contractions_page(found)


@pytest.fixture(scope="module")
def spoken(shared):
    return words_of(contractions_page(contractions(speaking(shared))))


class TestSentences:
    def test_the_lead_says_what_was_found(self, page):
        lead = "A contraction before raises the contraction, against the full verb, by 18.02 [18.02, 18.02] logits. "
        lead += "Most matters: head 0.0 brings back +18.00. Groups share 2 parts, differ in 1, and 0 are undecided."
        assert lead in words_of(page)

    def test_that_it_adds_up_is_no_default(self, page, found):
        told = "What both bring beyond the sum: 18.02 [18.02, 18.02] logits: does not add up ."
        assert told in words_of(page)
        beyond = Figure(
            unit="logits", value=0.1, low=-0.3, high=0.5, label="undecided", reason="about 31 frames would decide"
        )
        undecided = replace(found, figures=found.figures | {"interaction": beyond})
        told = "beyond the sum: 0.10 [-0.30, 0.50] logits: undecided ; about 31 frames would decide."
        assert told in words_of(contractions_page(undecided))

    def test_the_head_is_told_with_its_tests(self, page):
        text = words_of(page)
        assert (
            "Head 0.0 brings back 18.00 [18.00, 18.00] logits; its pattern alone 0.00 [0.00, 0.00], its values" in text
        )
        assert "what matters of it is neither alone . From the end it attends to the contraction by 1.00" in text
        assert "What 0.0 and 0.1 write at the end of a contraction has a cosine of 0.71" in text
        assert "first 1.000, second —" in text

    def test_a_habit_that_is_sure_but_small_is_told_to_be_small(self, found):
        small = replace(found.figures["habit"], value=0.1, low=0.05, high=0.15)
        told = words_of(contractions_page(replace(found, figures=found.figures | {"habit": small})))
        assert "by 0.10 [0.05, 0.15] logits. That is less than the 0.2 that were declared to matter." in told

    def test_a_habit_without_a_head_does_not_end_the_study(self, found):
        none = Figure(unit="logits", reason="no head changes anything")
        exploratory = replace(found.record, settings={**found.record.settings, "exploratory": "few frames"})
        alone = replace(found, figures=found.figures | {"head": none}, record=exploratory)
        told = words_of(contractions_page(alone))
        assert "The study ends there" not in told and "No single head or neuron matters for sure." in told
        assert "All that follows is exploratory: few frames." in told

    def test_intervals_that_are_too_narrow_are_told_so(self, found, page):
        told = "the t intervals of differences are too narrow"
        assert told not in words_of(page)
        apart = found.measurements["groups_compared"]
        assert apart.record.settings["skewed"] is None
        skewed = Measurement(
            apart.dataset["value"].values,
            apart.dims,
            unit="logits",
            record=replace(apart.record, settings={"skewed": "the effects of 2 of 3 cells are so skewed"}),
        )
        other = replace(found, measurements=found.measurements | {"groups_compared": skewed})
        assert words_of(contractions_page(other)).count(told) == 1

    def test_what_changes_nothing_has_a_row(self, page):
        assert "queries none changes anything — —" in words_of(page)

    def test_copying_is_told_over_the_same_pronouns(self, page, spoken):
        assert (
            "copied: missing, no two contractions are both seen and predicted, behind the same last words."
            in words_of(page)
        )
        assert "is the one that was seen the habit is stronger by 1.00 [1.00, 1.00] logits: matters ." in spoken

    def test_contrasts_and_verdicts_are_read(self, spoken):
        assert (
            "part farthest from the others 're minus 's predicted 're minus 's seen predicted as seen, minus" in spoken
        )
        assert re.search(
            r"attn 0 0\.\d\d \[.*?\] different 0\.00 \[.*?\] shared 0\.00 \[.*?\] shared 1\.00 \[.*?\] different",
            spoken,
        )


class TestFaults:
    def test_no_number_is_a_negative_nothing(self, page):
        assert not re.search(r"-0\.0+\b(?!\d)", words_of(page))
        assert (rounded(-1e-9, 3), rounded(None, 2), rounded(-0.5, 1)) == ("0.000", "—", "-0.5")
        figure = Figure(unit="logits", value=-1e-9, low=-2e-9, high=1e-9)
        assert (number(figure), interval(figure)) == ("0.000", "0.000 … 0.000")

    def test_parts_and_heads_are_shown_in_each_group(self, page):
        text = words_of(page)
        for caption in (
            "The same in each group, in logits",
            "The same heads in each group.",
            "Each part patched alone",
        ):
            assert caption in text

    def test_names_and_settings_are_for_people(self, page):
        text = words_of(page)
        assert "model None" not in text and "model a model of no name" in text
        assert "groups first, second" in text and "['" not in text and "kv_head" not in text

    def test_what_cannot_be_made_is_told_once_and_without_tables(self):
        found = contractions(HookedTransformer.from_pretrained("prose-2l-mixed"))
        page = contractions_page(found)
        assert words_of(page).count("the prompts cannot be made for this model") == 1
        assert "<table" not in page.html()
        assert "Nothing can be said of the habit" in words_of(page)

    def test_it_is_written_beside_the_numbers(self, found, page, tmp_path):
        path = found.save(tmp_path / "out", page=page)
        assert "What do groups share?" in path.with_name("report.html").read_text()


class TestPictures:
    def test_one_layer_is_a_bar_with_its_interval(self, found):
        means = fractions({"a": found.measurements["attn_out"], "b": found.measurements["attn_out_from_noise"]})
        picture = bars(means, title="layers")
        assert [trace.type for trace in picture.data] == ["bar", "bar"]
        assert picture.data[0].x == ("0",) and picture.data[0].y[0] == pytest.approx(1)
        assert picture.data[0].error_y.array[0] == pytest.approx(0, abs=1e-6)
        assert picture.layout.yaxis.title.text == "fraction"

    def test_runs_that_do_not_surely_differ_make_no_fractions(self, found):
        data, swept = found.measurements["attn_out"].dataset, {}
        for name, clean in (("sure", data["clean"].values), ("not", data["clean"].values * np.resize([1, -1.1], 24))):
            swept[name] = Measurement(
                data["value"].values,
                ("prompt", "layer"),
                unit="logits",
                record=record_of(wired(), task="x", settings={"direction": "denoise"}),
                variables={"clean": ("prompt", clean), "corrupted": ("prompt", data["corrupted"].values)},
            )
        assert fractions({"sure": swept["sure"]})["sure"].unit == "fraction"
        assert {mean.unit for mean in fractions(swept).values()} == {"logits"}

    def test_the_map_has_a_row_for_each_part_with_its_intervals(self, found):
        own = found.measurements["parts_by_group"]
        picture = group_map(own, title="parts", labels=["= attn 0", "= head 0.0", "≠ head 0.1"], places=[0, 2])
        (trace,) = picture.data
        assert list(trace.x) == ["first", "second"] and list(trace.y) == ["= attn 0", "≠ head 0.1"]
        np.testing.assert_allclose(trace.z[1], own.values[:, 2])
        np.testing.assert_allclose(trace.customdata[1][0], [own.dataset[end].values[0, 2] for end in ("low", "high")])
        assert trace.texttemplate == "%{z:.2f}"
