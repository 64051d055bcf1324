"""The sortable table in a browser."""

import numpy as np
import pytest

from pellucid import Measurement, viz
from pellucid.base.record import Record

NAN = float("nan")


@pytest.fixture
def view():
    """Scores of four heads beside their control; one has no score."""
    spread = np.linspace(-0.01, 0.01, 5)[:, None, None]
    scores = Measurement(
        np.array([[0.123456, 0.9], [NAN, 0.5]]) + spread,
        ("prompt", "layer", "head"),
        unit="attention mass",
        record=Record(),
    )
    return viz.sortable_table(
        {"induction": scores.mean("prompt"), "control": [0.3, 0.2, 0.1, -0.4]}, rows_name="head", sort="induction"
    )


def heads(page) -> list[str]:
    return page.locator("tbody th").all_inner_texts()


def test_it_begins_as_asked_with_numbers_intervals_and_units(shown, view):
    with shown(view) as page:
        assert heads(page) == ["0.1", "1.1", "0.0", "1.0"]
        assert page.locator("tbody tr").nth(2).locator(".value").all_inner_texts() == ["0.1235", "0.3"]
        assert page.locator("tbody tr").nth(3).locator(".value").first.inner_text() == "—"
        low, high = page.locator("tbody tr").nth(0).locator(".interval").inner_text().strip("[]").split(", ")
        assert float(low) < 0.9 < float(high)
        assert page.locator("thead .unit").all_inner_texts() == ["attention mass"]
        assert page.locator("th[aria-sort=descending]").inner_text().startswith("induction")


def test_the_mouse_tells_all_digits(shown, view):
    with shown(view) as page:
        cell = page.locator("tbody tr").nth(2).locator("td").first
        cell.hover()
        assert float(cell.get_attribute("title")) == pytest.approx(0.123456, abs=1e-12)


def test_each_column_sorts_both_ways_and_what_has_no_number_stays_last(shown, view):
    with shown(view) as page:
        page.get_by_role("button", name="induction").click()
        assert heads(page) == ["0.0", "1.1", "0.1", "1.0"]
        page.get_by_role("button", name="control").click()
        assert heads(page) == ["0.0", "0.1", "1.0", "1.1"]
        page.get_by_role("button", name="control").click()
        assert heads(page) == ["1.1", "1.0", "0.1", "0.0"]
        page.get_by_role("button", name="head").click()
        assert heads(page) == ["0.0", "0.1", "1.0", "1.1"]
        page.get_by_role("button", name="head").click()
        assert heads(page) == ["1.1", "1.0", "0.1", "0.0"]
        assert page.locator("th[aria-sort=descending]").count() == 1


def test_names_sort_as_people_count(shown):
    view = viz.sortable_table({"x": [1, 2, 3]}, rows=["10.1", "<b>9.2</b>", "9.11"])
    with shown(view) as page:
        assert heads(page) == ["10.1", "<b>9.2</b>", "9.11"]
        page.get_by_role("button", name="name").click()
        assert heads(page)[1:] == ["9.11", "10.1"]


def test_the_keyboard_sorts(shown, view):
    with shown(view) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "scroll"
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.innerText").startswith("induction")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert heads(page) == ["0.0", "1.1", "0.1", "1.0"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(shown, view, contrast, scheme):
    with shown(view, scheme=scheme) as page:
        page.locator("tbody tr").first.hover()
        assert contrast(page)[0] >= 4.5
