"""`pellucid lens`: a table that fits a terminal, a page, JSON; a tuned lens trained and used."""

import json

import pytest

from pellucid import HookedTransformer
from pellucid.analysis.lens import logit_lens
from pellucid.studies.lens_page import lens_page

TEXT = "5 9 7 3 5 9"
LENS = ("lens", TEXT, "--model", "toy-induction")


@pytest.fixture(scope="module")
def found():
    return logit_lens(HookedTransformer.from_pretrained("toy-induction"), TEXT, answer="7")


def test_each_cell_shows_its_top_token_and_its_probability(pellucid, found):
    done = pellucid(*LENS, "--answer", "7")
    assert done.status == 0
    rows = {
        line.split()[0]: line.split()[1:] for line in done.out.split("At the end")[0].splitlines() if line[:2].strip()
    }
    for layer in found.layers:
        cells = [part for pos in range(2, 7) for part in found.top(layer, pos)[:1]]
        assert rows[str(layer)] == [part for word, share in cells for part in (word, f"{share:.0%}")]
    assert "The last 5 of 7 positions" in done.out and "At the end, of '7':" in done.out
    end = done.out.split("At the end")[1].splitlines()
    rank = [line.split()[2] for line in end if line[:1].isdigit()]
    assert rank == [f"{found.rank.sel(prompt=0, layer=layer, pos=6).item():.0f}" for layer in found.layers]
    told = json.loads(pellucid(*LENS, "--answer", "7", "--json").out)  # one number everywhere, 0 on top
    assert rank == [f"{row[6]:.0f}" for row in told["rank"]] and rank[-1] == "0"
    by_id = pellucid(*LENS, "--answer-id", str(found.targets[0, 0].item()))
    assert by_id.out == done.out


@pytest.mark.parametrize(
    "more", [(), ("--last", "7"), ("--site", "head", "--top", "9"), ("--site", "attn_out"), ("--head", "1.1")]
)
def test_no_line_is_wider_than_80_columns(pellucid, more):
    for text, model in ((TEXT, "toy-induction"), ("Extraordinarily, [bold] they 日本\n said:", "prose-2l-mixed")):
        done = pellucid("lens", text, "--model", model, *more)
        assert done.status == 0 and max(map(len, done.out.splitlines())) <= 80
        assert not any(line.endswith(" ") for line in done.out.splitlines())


def test_heads_are_told_at_the_end(pellucid):
    out = pellucid(*LENS, "--site", "head", "--top", "2").out
    (line,) = (line.split() for line in out.splitlines() if line.startswith("1.0"))
    assert line[2] == "0" and line[4] == "7" and len(line) == 8
    assert "At the end, of '7', which the model says:" in out
    answered = pellucid(*LENS, "--site", "head", "--answer", "9", "--top", "5").out
    lines = [line.split() for line in answered.splitlines() if line.startswith("1.0")]
    assert int(lines[0][2]) > 0 and len(lines) == 2 and len(lines[1]) == 1 + 2 * 2


def test_one_head_is_looked_through(pellucid, tmp_path):
    done = pellucid(*LENS, "--head", "1.0", "--out", "head.html")
    rows = [line.split() for line in done.out.splitlines() if line[:1].isdigit()]
    assert [row[1] for row in rows] == ["<bos>", "5", "9", "7", "3", "5", "9"]
    assert all(row[4] == "0" and row[5] == row[1] for row in rows[1:]) and float(rows[3][2]) > 0.9
    assert "of the source token itself, 0 is on top" in done.out and "Written to head.html" in done.out
    page = (tmp_path / "head.html").read_text()
    assert "Attention lens of head 1.0 of toy-induction" in page and "What would it say of each place?" in page
    told = json.loads(pellucid(*LENS, "--head", "1.0", "--answer", "7", "--json").out)
    assert told["rank"][3] == 0 and told["record"]["settings"]["target"] == "answer" and told["top"][4][0] == "3"


def test_json_has_all_of_it(pellucid, found):
    done = pellucid(*LENS, "--json", "--answer", "7", "--top", "3")
    told = json.loads(done.out)
    assert told["layers"] == [0, 1, 2] and told["tokens"] == found.tokens[0] and told["target"] == "answer"
    assert told["top"][2][6][0] == "7" and len(told["shares"][0][0]) == 3 and told["asked"] == ["7"] * 7
    assert told["kl"][2] == [0.0] * 7 and told["record"]["task"] == "logit lens"
    heads = json.loads(pellucid(*LENS, "--json", "--site", "head").out)
    assert len(heads["probability"][1][6]) == 4 and heads["top"][1][6][0][0] == "7"


def test_the_page_needs_no_network_and_is_not_replaced_unasked(pellucid, tmp_path):
    done = pellucid(*LENS, "--out", "lens.html")
    page = (tmp_path / "lens.html").read_text()
    assert done.status == 0 and "Written to lens.html" in done.out
    assert "What does each layer say?" in page and "All numbers" in page and 'src="http' not in page
    again = pellucid(*LENS, "--out", "lens.html")
    assert again.status == 1 and "lens.html is there already; choose another file, or add --overwrite" in again.err
    assert pellucid(*LENS, "--out", "lens.html", "--overwrite", "--site", "head").status == 0
    assert "What does each head say?" in (tmp_path / "lens.html").read_text()


def test_a_page_tells_every_cells_tokens(found):
    from pellucid.studies.lens_page import _map, _shown

    figure = _map(found, _shown(found, found.probability, 0), 0)
    assert "layer 2 pos 6 9" in lens_page(found).html() and "prompt 0" not in lens_page(found).html()
    assert figure.data[0].text[2][6] == "7" and "<br>7 100.0%" in figure.data[0].hovertext[2][6]
    assert figure.data[0].z.shape == (3, 7)
    from pellucid.base.errors import ArgumentError

    with pytest.raises(ArgumentError, match=r"prompt must lie in 0\.\.0, got 1"):
        lens_page(found, prompt=1)


def test_a_tuned_lens_is_trained_and_looked_through(pellucid, tmp_path):
    rows = (" ".join(str(1 + (i * j) % 40) for j in range(1, 60)) for i in range(1, 80))
    (tmp_path / "rows.csv").write_text("\n".join(["text", *rows]))
    train = ("lens", "--model", "toy-induction", "--train", "rows.csv", "--out", "tuned", "--steps", "5")
    done = pellucid(*train)
    assert done.status == 0 and "layer  tuned lens" in done.out and "Written to tuned" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    assert pellucid(*LENS, "--tuned", "tuned").status == 0
    told = json.loads(pellucid(*LENS, "--tuned", "tuned", "--json").out)
    assert told["record"]["task"] == "tuned lens" and told["record"]["settings"]["lens"]["steps"] == 5
    again = pellucid(*train)
    assert again.status == 1 and "tuned holds a tuned lens already" in again.err
    held_out = json.loads(pellucid(*train, "--overwrite", "--json").out)["held_out"]
    assert [row["layer"] for row in held_out] == [0, 1]
    assert all(row["tuned"]["value"] < row["logit"]["value"] for row in held_out)
    other = pellucid("lens", "a", "--model", "prose-2l-mixed", "--tuned", "tuned")
    assert other.status == 1 and "trained on (toy-induction, d_model=" in other.err and other.err.count("Error") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "toy-induction"), "either a TEXT to look at or --train CORPUS must be given, got none"),
        ((TEXT, "--model", "toy-induction", "--train", "x"), "must be given, got both"),
        (
            ("--model", "toy-induction", "--train", "x"),
            "--train needs a place for the lens, got none; add --out FOLDER",
        ),
        (
            (TEXT, "--model", "toy-induction", "--site", "z"),
            "--site must be a known one, got 'z'; there is: resid",
        ),
        ((TEXT, "--model", "toy-induction", "--answer", "five"), "five"),
        ((TEXT, "--model", "toy-induction", "--answer", "5", "--answer-id", "5"), "both name a token, got '5' and 5"),
        ((TEXT, "--model", "toy-induction", "--answer-id", "99"), "ids of answers must lie in 0..63"),
        ((TEXT, "--model", "toy-induction", "--steps", "3"), "--steps means nothing without --train"),
        ((TEXT, "--model", "toy-induction", "--site", "head", "--last", "3"), "--last means nothing to --site head"),
        ((TEXT, "--model", "toy-induction", "--json", "--last", "3"), "--last means nothing to --json"),
        ((TEXT, "--model", "toy-induction", "--head", "1"), "--head must be a layer and a head, such as 1.0, got '1'"),
        ((TEXT, "--model", "toy-induction", "--head", "1.0", "--site", "resid"), "--site means nothing to --head"),
        (
            ("--model", "toy-induction", "--train", "x", "--out", "t", "--answer", "5", "--top", "3"),
            "--answer, --top mean nothing to --train",
        ),
        ((TEXT, "--model", "toy-induction", "--out", "page.pdf"), "--out must name a page, such as page.html"),
        ((TEXT, "--model", "toy-induction", "--tuned", "none"), "none must be a folder with a tuned lens, got none"),
    ],
)
def test_what_cannot_be_is_one_line(pellucid, arguments, said):
    done = pellucid("lens", *arguments)
    assert done.status == 1 and said in done.err.splitlines()[-1] and not done.out


def test_the_place_is_looked_at_before_the_work(pellucid, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    train = ("lens", "--model", "toy-induction", "--train", "x", "--overwrite")
    for arguments, said in (
        ((*train, "--out", "file"), "file must be a folder, got a file of that name"),
        ((*train, "--out", "file/tuned"), "file/tuned must be writable, got: Not a directory"),
        ((*LENS, "--overwrite", "--out", "folder.html"), "folder.html must be a file, got a folder of that name"),
        ((*LENS, "--out", "file/page.html"), "file/page.html must be writable, got: Not a directory"),
    ):
        done = pellucid(*arguments)
        assert done.status == 1 and said in done.err and "loading" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]
