"""Prose is text, whatever it holds."""

import html
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.report.prose import code, phrase, prose
from pellucid.viz.visible import visible

ALLOWED = {"p", "ul", "ol", "li", "em", "strong", "code", "a", "br"}


class Reader(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_little_markdown_is_read():
    assert prose("One *two* **three**.\n\nNew `x`.") == (
        "<p>One <em>two</em> <strong>three</strong>.</p>\n<p>New <code>x</code>.</p>\n"
    )
    assert "<li>a</li>" in prose("- a\n- b")
    assert phrase("[paper](https://example.org/)") == '<a href="https://example.org/">paper</a>'


@pytest.mark.parametrize(
    "text", ["<b>x</b>", "![x](http://example.org/x.png)", "# x", "> x", "<!-- x -->", "---", "    x"]
)
def test_all_else_is_text(text):
    assert {tag for tag, _ in Reader(prose(text)).elements} <= {"p", "a"}
    assert "<img" not in prose(text)


def test_a_link_cannot_run():
    assert "href" not in prose("[x](javascript:alert(1))")


@given(st.text())
def test_no_text_brings_in_other_elements(text):
    for tag, attributes in Reader(prose(text)).elements:
        assert tag in ALLOWED
        assert attributes.keys() <= {"href", "title", "start"}
        assert not str(attributes.get("href", "")).lower().startswith(("javascript:", "vbscript:", "data:text"))


@given(st.text(st.characters(codec="utf-8")))
def test_a_token_in_prose_is_shown_as_it_is(token):
    (_, (tag, _)) = Reader(prose(f"a {code(token)} b")).elements
    assert tag == "code"
    assert Reader(prose(f"a {code(token)} b")).text.strip() == f"a {visible(token)} b"
    assert html.escape(visible(token), quote=False).replace('"', "&quot;") in prose(f"a {code(token)} b")
