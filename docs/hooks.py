"""What the documentation does beside being text: its blocks of code are run, and what they give stands beneath them.

A block is run whose fence says so: ```` ```python run ````, or ```` ```sh run ```` for lines that begin with
`pellucid`. Further words of the fence: `raises`: the block must end in an error, which is shown; `hidden`: the code is
left out; `markdown`: what is printed is Markdown. The blocks of a page share their names, as the cells of a notebook
do; a notebook becomes a page whose cells are such blocks. Pictures are written as a script's are, through
PELLUCID_PICTURES, and framed.

mkdocs calls the functions `on_…`; the tests call `rendered`.
"""

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BLOCK = re.compile(r"^```(?P<language>python|sh) run(?P<words>[a-z ]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((\w+)\.ipynb\)")
"""To another notebook, which is a page here."""
RESULTS = HERE / "results"
COLUMNS = "78"

_kept_here = tempfile.TemporaryDirectory(prefix="pellucid-docs-")  # removed when the process ends
pictures = Path(_kept_here.name)
"""Where the pictures of all pages are kept until the site is written."""


class Page:
    """The names that the blocks of one page share, and the folder that they work in."""

    def __init__(self, name: str) -> None:
        self.name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.names: dict[str, Any] = {"__name__": "__main__", "kept": kept}
        self.pictures = pictures / self.name

    def rendered(self, markdown: str) -> str:
        """The page with the output of each block beneath it."""
        with _working(self.pictures):
            return BLOCK.sub(self._block, markdown)

    def _block(self, found: re.Match[str]) -> str:
        language, words, code = found["language"], found["words"].split(), found["code"]
        before = self._drawn()
        run = self._python if language == "python" else _commands
        try:
            said = run(code, raises="raises" in words)
        except Exception as error:
            error.add_note(f"in a block of {self.name}:\n{code}")
            raise
        parts = [] if "hidden" in words else [f"```{language}\n{code}```"]
        if said.strip():
            said = said.strip("\n")
            parts.append(said if "markdown" in words else f"``` {{.text .output}}\n{said}\n```")
        parts += [_framed(self.name, name) for name in sorted(self._drawn() - before)]
        return "\n\n".join(parts)

    def _drawn(self) -> set[str]:
        return {path.name for path in self.pictures.glob("*.html")}

    def _python(self, code: str, *, raises: bool) -> str:
        """What the block prints, and the value of its last line if that is an expression."""
        body = ast.parse(code).body
        last = body.pop() if body and isinstance(body[-1], ast.Expr) and not code.rstrip().endswith(";") else None
        with _listening() as heard:
            try:
                exec(compile(ast.Module(body, []), self.name, "exec"), self.names)
                if last is not None:
                    value = eval(compile(ast.Expression(last.value), self.name, "eval"), self.names)
                    if value is not None and not _is_picture(value):
                        print(repr(value))
            except Exception as error:
                if not raises:
                    raise
                print(f"{type(error).__name__}: {error}")
            else:
                if raises:
                    raise AssertionError("the block must end in an error, and does not")
        return heard.getvalue()


def rendered(markdown: str, name: str) -> str:
    """A page with its blocks run."""
    return Page(name).rendered(markdown)


def kept(name: str) -> None:
    """Prints what a study found that takes minutes: its `result.json`, kept in `results/NAME.json`, told anew.

    To make one again: `pellucid study NAME --out DIR`, and copy the file.
    """
    from pellucid.base.record import Record
    from pellucid.cli.attention_only import print_attention_only
    from pellucid.cli.emergence import print_emergence
    from pellucid.studies.result import Figure, StudyResult

    command, file = f"pellucid study {name} --out out/{name}", RESULTS / f"{name}.json"
    if not file.is_file():
        print(f"No result is kept with these pages. This makes one: `{command} --quick`.")
        return
    told = json.loads(file.read_text(encoding="utf-8"))
    record = Record.from_dict(told["record"])
    found = StudyResult(
        study=told["study"],
        model=told["model"],
        record=record,
        figures={key: Figure(**figure) for key, figure in told["figures"].items()},
        measurements={},
    )
    quick = " --quick" if record.settings["quick"] else ""
    print(f"From a run of `{command}{quick}` by version {record.version}, kept with these pages:\n\n```text")
    {"emergence": print_emergence, "attention-only": print_attention_only}[name](found)
    print("```")


def notebook_page(notebook: Path) -> str:
    """A notebook as a page: its text, and its cells as blocks that are run."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python run\n{text}\n```")
    heading, rest = parts[0].split("\n", 1) if "\n" in parts[0] else (parts[0], "")
    rest, parts = (LINK.sub(r"](\1.md)", text) for text in (rest, "\n\n".join(parts[1:])))
    note = f"This page is a notebook, run when the page was made: [{notebook.name}]({notebook.name})."
    return "\n\n".join([heading, note, rest, parts]) + "\n"


def _commands(code: str, *, raises: bool) -> str:
    """What some command lines of pellucid print."""
    from pellucid.cli.main import run

    with _listening() as heard:
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if not words:
                continue
            if words[0] != "pellucid":
                raise AssertionError(f"only pellucid is run here, got: {line}")
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors):
                status = run(words[1:])
            if bool(status) != raises:
                raise AssertionError(f"exit status {status} of: {line}\n{errors.getvalue()}")
            if raises:
                print(errors.getvalue().strip().splitlines()[-1])
    return heard.getvalue()


@contextlib.contextmanager
def _working(shown_in: Path) -> Iterator[None]:
    """In an empty folder, offline, with pictures written to a folder of the page."""
    wanted = {"PELLUCID_PICTURES": str(shown_in), "HF_HUB_OFFLINE": "1", "COLUMNS": COLUMNS, "NO_COLOR": "1"}
    before, here = {name: os.environ.get(name) for name in wanted}, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(wanted)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(here)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _listening() -> Iterator[io.StringIO]:
    """What is printed; progress on stderr is left out, a warning that a result may be misread is not."""
    from pellucid.base.errors import MisreadWarning

    heard = io.StringIO()
    with (
        contextlib.redirect_stdout(heard),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("error")
        warnings.simplefilter("always", MisreadWarning)
        yield heard
    for warning in warned:
        heard.write(f"{warning.category.__name__}: {warning.message}\n")


def _is_picture(value: Any) -> bool:
    from plotly.graph_objects import Figure

    from pellucid.viz.view import View

    return isinstance(value, Figure | View)


def _framed(page: str, name: str) -> str:
    title = name.removesuffix(".html").split("-", 1)[-1].replace("-", " ")
    return f'<iframe class="picture" src="ROOT/pictures/{page}/{name}" title="{title}" loading="lazy"></iframe>'


def _shared_script(page: str) -> str:
    """A picture's page, with plotly's script taken from one file for the whole site instead of from itself."""
    from plotly.offline import get_plotlyjs

    found = page.replace(f"<script>{get_plotlyjs()}</script>", '<script src="../plotly.js"></script>')
    # The page allows only scripts whose hash it tells; the one that is shared now is of this site.
    found = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", found, count=1)
    return found.replace("</body>", f"<script>{TELL_HEIGHT}</script></body>", 1)


TELL_HEIGHT = """
new ResizeObserver(() => parent.postMessage({ pictureHeight: document.documentElement.offsetHeight }, "*"))
  .observe(document.documentElement);
"""


def on_config(config: Any) -> Any:
    """One thread, so that a build leaves the machine to others; no pictures of an earlier build."""
    import torch

    torch.set_num_threads(1)
    for folder in pictures.iterdir():
        shutil.rmtree(folder)
    return config


def on_files(files: Any, config: Any) -> Any:
    """Each notebook is a page too, and stays a file to be fetched."""
    from mkdocs.structure.files import File

    for notebook in sorted((HERE / "notebooks").glob("*.ipynb")):
        page = File.generated(config, f"notebooks/{notebook.stem}.md", content=notebook_page(notebook))
        files.append(page)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Blocks are run."""
    if not BLOCK.search(markdown):
        return markdown
    root = "../" * page.url.count("/") or "./"
    return rendered(markdown, page.file.src_uri.removesuffix(".md")).replace("ROOT/", root)


def on_post_build(config: Any) -> None:
    """The pictures, and plotly's script once, beside the pages."""
    from plotly.offline import get_plotlyjs

    site = Path(config["site_dir"]) / "pictures"
    site.mkdir(parents=True, exist_ok=True)
    (site / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    for picture in sorted(pictures.rglob("*.html")):
        target = site / picture.relative_to(pictures)
        target.parent.mkdir(exist_ok=True)
        target.write_text(_shared_script(picture.read_text(encoding="utf-8")), encoding="utf-8")
