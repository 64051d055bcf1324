"""Where a picture appears: in the notebook there is, at once; in a script nowhere, unless a folder was named.

Nothing here opens a browser or starts a server.
"""

import html
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = "PELLUCID_PICTURES"
"""The variable of the environment that names a folder for the pictures of a script."""

_numbers: dict[str, int] = {}
_told: set[str] = set()
_here = threading.local()


def notebook() -> Any | None:
    """IPython's shell, if it belongs to a notebook; None in a script, a plain shell or IPython's terminal."""
    ipython = sys.modules.get("IPython")  # whoever runs in a notebook has it imported
    shell = ipython.get_ipython() if ipython else None
    return shell if getattr(shell, "kernel", None) is not None else None


def cell() -> tuple[int, int] | None:
    """The cell that runs, as shell and number; None where no notebook is."""
    shell = notebook()
    return shell and (id(shell), shell.execution_count)


def switch_on_widgets() -> None:
    """In Colab: lets widgets of others than Google show, which its user would have to ask for."""
    colab = sys.modules.get("google.colab")  # there from the start, where it is
    if colab is not None:
        import_module("google.colab.output").enable_custom_widget_manager()


def framed(page: str, title: str) -> str:
    """A whole page as a piece of another, as high as it needs."""
    high = "const root = this.contentDocument.documentElement; new ResizeObserver(() => "
    high += "{ this.style.height = root.offsetHeight + 'px' }).observe(root)"
    style = "width: 100%; height: 300px; border: 0"
    told = f'title="{html.escape(title)}" style="{style}" onload="{html.escape(high)}"'
    return f'<iframe {told} srcdoc="{html.escape(page)}"></iframe>'


@contextmanager
def unshown() -> Iterator[None]:
    """Pictures made inside the block, by this thread, appear nowhere by themselves: they are meant for a page."""
    before = is_unshown()
    _here.unshown = True
    try:
        yield
    finally:
        _here.unshown = before


def is_unshown() -> bool:
    """Whether a block of `unshown` runs."""
    return getattr(_here, "unshown", False)


def keep(name: str, save: Callable[[Path], Any]) -> None:
    """In a script: save a picture in the folder that `FOLDER` names, or tell once that there is none."""
    folder = os.environ.get(FOLDER)
    if folder:
        _numbers[folder] = _numbers.get(folder, 0) + 1
        words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60].strip("-") or "picture"
        path = Path(folder) / f"{_numbers[folder]:03d}-{words}.html"
        save(path)
        _tell(f"Picture: {path}")
    elif FOLDER not in _told:
        _told.add(FOLDER)
        _tell(
            "Pictures show in a notebook, and there is none here: keep what is returned, or run again with "
            f"{FOLDER}=FOLDER to have each picture written there as a page."
        )


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
