"""Coloured tokens in a browser."""

import pytest

from pellucid import viz

TOKENS = ["<s>", "The", " cat", "\n", "</script>", "\u202e"]
VALUES = [float("nan"), 1.23456, -2.0, 0.0, 2.0, 4.0]


@pytest.fixture
def view():
    return viz.colored_tokens(TOKENS, VALUES, name="loss (nats)")


def test_each_token_has_the_colour_of_its_number(shown, view):
    with shown(view) as page:
        words = page.locator(".text .token")
        assert words.all_inner_texts() == ["<s>", "The", "·cat", "↵", "</script>", "⟨U+202E⟩"]
        grounds = words.evaluate_all("all => all.map(word => getComputedStyle(word).backgroundColor)")
        plain = "rgba(0, 0, 0, 0)"
        assert (grounds[0], grounds[3], grounds[5]) == (plain, plain, "rgb(8, 48, 107)")
        assert len(set(grounds)) == 5
        assert words.nth(4).bounding_box()["y"] > words.nth(3).bounding_box()["y"]
        assert "loss (nats)" in page.locator(".about").inner_text()
        assert "-2" in page.locator(".about").inner_text()


@pytest.mark.parametrize(("place", "number"), [(0, "—"), (1, "1.235"), (2, "-2"), (4, "2")])
def test_the_mouse_tells_the_number(shown, view, place, number):
    with shown(view) as page:
        page.locator(".text .token").nth(place).hover()
        assert page.locator(".tip .value").inner_text() == number
        assert page.locator(".tip .token").inner_text() == page.locator(".text .token").nth(place).inner_text()


def test_the_keyboard_reaches_each_token(shown, view):
    with shown(view) as page:
        page.keyboard.press("Tab")
        assert page.locator(".tip .value").inner_text() == "—"
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip .value").inner_text() == "1.235"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("End")
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip .value").inner_text() == "4"
        page.keyboard.press("Home")
        assert page.evaluate("document.activeElement.innerText") == "<s>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read_on_every_colour(shown, contrast, scheme):
    steps = [step / 50 for step in range(-50, 51)]
    with shown(viz.colored_tokens([f" {step}" for step in steps], steps), scheme=scheme) as page:
        page.locator(".text .token").first.hover()
        assert contrast(page)[0] >= 4.5
