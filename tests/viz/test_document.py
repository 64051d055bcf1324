"""A page holds all it needs and lets nothing else in."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import plotly.graph_objects
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.viz.document import Document, json_in_html


class Reader(HTMLParser):
    """Elements with their attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.scripts: list[tuple[dict, str]] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)


def chart(document: Document) -> str:
    return document.chart(plotly.graph_objects.Figure(plotly.graph_objects.Scatter(y=[1.0, 2.0])))


def test_the_policy_names_the_hash_of_each_script_that_runs():
    document = Document("Title")
    page = Reader(document.page(document.view("hello.js", {"name": "Ada"}) + chart(document)))
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    assert len(running) == 2
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    for text in running:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy and "'unsafe-inline'" not in policy.split("style-src")[0]


def test_nothing_is_loaded_from_anywhere():
    document = Document("Title")
    page = Reader(document.page(document.view("hello.js", {"name": "Ada"}) + chart(document)))
    assert [a for _, a in page.elements if {"src", "href", "srcset", "action"} & a.keys()] == []


def test_plotly_comes_once_and_only_where_it_is_needed():
    document = Document("Title")
    assert len(document.page(document.view("hello.js", {"name": "Ada"}))) < 100_000
    document = Document("Title")
    page = document.page(chart(document) + chart(document))
    assert page.count("plotly.js v") == 1
    assert 'id="data-2"' in page


def test_a_module_comes_once_however_many_views_it_draws():
    document = Document("Title")
    page = document.page("".join(document.view("hello.js", {"name": name}) for name in "ab"))
    modules = json.loads(re.search('id="modules">(.*?)</script>', page)[1])
    assert list(modules) == ["hello.js"]


def test_a_title_is_text():
    assert "<title>&lt;/title&gt;&lt;script&gt;</title>" in Document("</title><script>").page("")


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda part: st.lists(part) | st.dictionaries(st.text(), part))
)
def test_json_stays_inside_its_element_and_comes_back(value):
    text = json_in_html(value)
    assert not {"<", ">", "&"} & set(text)
    assert json.loads(text) == value
    assert text.isascii()


def test_numbers_that_json_does_not_know_are_refused():
    with pytest.raises(ValueError, match="Out of range float"):
        json_in_html(float("nan"))
