"""The greeting in a browser."""

import pytest

from pellucid import viz


def test_it_greets_by_name_and_draws(shown, pixels):
    with shown(viz.hello("Ada <b>Lovelace</b>")) as page:
        assert page.locator(".hello p").inner_text() == "Hello, Ada <b>Lovelace</b>. Pictures show here."
        (strip,) = pixels(page.locator("canvas"))
        assert (strip[0], strip[16], strip[32]) == ((122, 18, 8), (255, 255, 255), (8, 48, 107))


def test_the_mouse_and_the_keyboard_reach_it(shown):
    with shown(viz.hello("Ada")) as page:
        tip = page.locator(".tip")
        assert tip.is_hidden()
        page.locator("canvas").hover()
        tip.wait_for()
        assert tip.inner_text() == "Hovering works too."
        page.mouse.move(500, 500)
        tip.wait_for(state="hidden")
        page.keyboard.press("Tab")
        assert tip.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_can_be_read(shown, contrast, scheme):
    with shown(viz.hello("Ada"), scheme=scheme) as page:
        page.locator("canvas").hover()
        assert contrast(page)[0] >= 4.5
