"""A page of HTML that needs nothing but itself: pictures, their data and what draws them, in one file.

In: views (the name of a module and its data), figures of plotly, a body that says where they stand. Out: the page. Its
policy allows no request to any place, and no script but those whose hash it names: whatever a token or a model's name
may hold, it cannot run.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from typing import Any

from pellucid.viz.modules import source, text
from pellucid.viz.packing import packed


class Document:
    """One page in the making: gives places for its body, and remembers what is to be drawn there.

    Example:
        >>> document = Document("One number")
        >>> document.page("<p>42</p>").startswith("<!doctype html>")
        True
    """

    def __init__(self, title: str, *, style: str = "") -> None:
        self.title = title
        self._style = style
        self._modules: set[str] = set()
        self._places = 0
        self._plotly = False

    def view(self, module: str, data: Mapping[str, Any]) -> str:
        """The place of a view: HTML for the body."""
        self._modules.add(module)
        return self._place("view", {"module": module, "data": packed(data, base64_text)})

    def chart(self, figure: Any) -> str:
        """The place of a figure of plotly: HTML for the body."""
        self._plotly = True
        return self._place("chart", json.loads(figure.to_json()))

    def page(self, body: str) -> str:
        """The whole page around a body of HTML."""
        scripts = [text("page/adapter.js")]
        if self._plotly:
            from plotly.offline import get_plotlyjs

            scripts.insert(0, get_plotlyjs())
        scripts = [
            part.replace("\r\n", "\n") for part in scripts
        ]  # as a browser reads them, before it takes their hash
        hashes = " ".join(f"'sha256-{_sha256(part)}'" for part in scripts)
        policy = (
            f"default-src 'none'; script-src {hashes} blob:; style-src 'unsafe-inline'; img-src data: blob:; "
            "font-src data:; base-uri 'none'; form-action 'none'"
        )
        modules = {name: source(name) for name in sorted(self._modules)}
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en"><head><meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<meta name="color-scheme" content="light dark">',
                f"<title>{html.escape(self.title)}</title>",
                f"<style>\n{text('page/page.css')}\n{self._style}</style></head>",
                "<body>",
                body,
                "<noscript><p>The pictures of this page need JavaScript.</p></noscript>",
                f'<script type="application/json" id="modules">{json_in_html(modules)}</script>',
                *(f"<script>{part}</script>" for part in scripts),
                "</body></html>\n",
            ]
        )

    def _place(self, kind: str, content: Any) -> str:
        self._places += 1
        number = self._places
        return (
            f'<div class="picture" data-{kind}="data-{number}"></div>'
            f'<script type="application/json" id="data-{number}">{json_in_html(content)}</script>'
        )


def json_in_html(value: Any) -> str:
    r"""JSON that can stand inside an element of HTML: nothing in it ends that element or opens another.

    Example:
        >>> json_in_html("</script>")
        '"\\u003c/script\\u003e"'
    """
    made = json.dumps(value, allow_nan=False)
    return made.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def base64_text(content: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(content).decode("ascii")


def _sha256(script: str) -> str:
    return base64_text(hashlib.sha256(script.encode("utf-8")).digest())
