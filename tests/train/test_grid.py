"""Grids: combinations of settings become runs, and runs one Measurement, a table and a page."""

import csv
import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid import Measurement
from pellucid.base.errors import ConfigError, OutputError
from pellucid.base.record import Record
from pellucid.distributed.local import Local
from pellucid.distributed.processes import Processes
from pellucid.train import train
from pellucid.train.effects import effects
from pellucid.train.grid import Grid, Member, Sampling, grid_of, read_grid
from pellucid.train.grid_page import grid_page
from pellucid.train.grid_run import GridResult, Ran, lost, train_grid
from pellucid.train.loop import Training
from pellucid.train.recipe import toml
from pellucid.train.summary import figures
from tests.train.recipes import TINY

FEW = {**TINY, "steps": 6, "checkpoints": {"every": 3, "log_spaced": False}, "probes": {**TINY["probes"], "every": 3}}


def with_(**changes):
    """The table of a tiny recipe, with some keys changed: ``with_(**{"optimiser.lr": [1, 2]})``."""
    values = {key: dict(part) if isinstance(part, dict) else part for key, part in FEW.items()}
    values["model"]["attention"] = dict(FEW["model"]["attention"])
    for key, value in changes.items():
        *outer, last = key.split(".")
        part = values
        for name in outer:
            part = part[name]
        part[last] = value
    return values


# Which runs


def test_all_combinations_are_run_the_last_key_varying_fastest():
    grid = grid_of(with_(**{"optimiser.lr": [1e-3, 1e-2], "model.n_layers": [1, 2], "seed": [0, 5, 7]}))
    assert list(grid.varied.items()) == [
        ("seed", (0, 5, 7)),
        ("model.n_layers", (1, 2)),
        ("optimiser.lr", ("0.001", "0.01")),
    ]
    expected = list(itertools.product((0, 5, 7), (1, 2), (1e-3, 1e-2)))
    found = [(m.recipe.seed, m.recipe.model.config.n_layers, m.recipe.optimiser.lr) for m in grid.members]
    assert found == expected
    assert [m.name for m in grid.members] == [f"{i:02d}" for i in range(12)]
    assert grid.members[5].labels == {"seed": 5, "model.n_layers": 1, "optimiser.lr": "0.01"}


def test_a_key_whose_values_are_lists_varies_where_it_holds_a_list_of_lists(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(toml(with_(**{"optimiser.betas": [0.9, 0.95], "log": [], "model.frozen": ["embed"]})))
    assert read_grid(path) is None
    grid = grid_of(with_(**{"optimiser.betas": [[0.9, 0.95], [0.8, 0.9]], "model.frozen": [[], ["embed"]]}))
    assert grid.varied == {"model.frozen": ("none", "embed"), "optimiser.betas": ("0.9+0.95", "0.8+0.9")}
    assert grid.members[-1].recipe.optimiser.betas == (0.8, 0.9)


def test_a_section_may_be_one_of_several():
    attentions = [{"n_heads": 1, "d_head": 16}, {"n_heads": 4, "d_head": 4}]
    grid = grid_of(with_(**{"model.attention": attentions, "optimiser.clip": ["none", 1.0]}))
    assert grid.varied["model.attention"] == ("n_heads=1 d_head=16", "n_heads=4 d_head=4")
    assert grid.varied["optimiser.clip"] == ("none", "1.0") and grid.members[0].recipe.optimiser.clip is None
    assert grid.members[2].recipe.model.config.attention.n_heads == 4


def test_a_sample_is_of_the_whole_and_the_same_for_the_same_seed():
    values = with_(**{"seed": list(range(10)), "steps": list(range(5, 15))})
    whole = {m.name: m.labels for m in grid_of(values).members}
    sampled = [grid_of({**values, "grid": {"sample": 12, "seed": seed}}) for seed in (0, 0, 1)]
    names = [[m.name for m in grid.members] for grid in sampled]
    assert names[0] == names[1] != names[2] and len(set(names[0])) == 12 and names[0] == sorted(names[0])
    assert all(whole[m.name] == m.labels for m in sampled[2].members)
    assert len(grid_of({**values, "grid": {"sample": 1000}}).members) == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": []}, "seed must have a value, got an empty list"),
        ({"seed": [1, 2, 1]}, "the values of seed must differ, got 1 twice"),
        ({"seed": list(range(200)), "steps": list(range(5, 205))}, "at most 10000 runs, got 40000 combinations"),
        (
            {"optimiser.lr": [0, -1]},
            "a combination that can be run, but in the first of 2: .*lr must be above 0, got 0",
        ),
        ({"grid": {"sample": 0}}, "sample must be 1 or more, got 0"),
        ({"grid": {"smaple": 3}, "seed": [1, 2]}, "grid has no field 'smaple'"),
    ],
)
def test_what_cannot_be_is_one_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid_of(with_(**changes))


def test_a_bad_key_in_one_combination_is_that_ones_alone():
    data = [FEW["data"], {**FEW["data"], "shortets": 2}]
    grid = grid_of(with_(data=data))
    assert [m.recipe is None for m in grid.members] == [False, True]
    assert "data has no field 'shortets'" in grid.members[1].reason


def test_a_grid_goes_through_a_file(tmp_path):
    data = [FEW["data"], {**FEW["data"], "noise": 0.25}]
    values = with_(**{"data": data, "optimiser.lr": [1e-3, 1e-2], "log": [[], ["tensorboard"]]})
    path = tmp_path / "grid.toml"
    path.write_text(toml(values))
    assert [m.recipe for m in read_grid(path).members] == [m.recipe for m in grid_of(values).members]
    assert len(read_grid(path, ["seed=[1,2]"]).members) == 2 * len(grid_of(values).members)


# What they say


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A grid of four runs in a folder."""
    out = tmp_path_factory.mktemp("grid") / "out"
    values = with_(**{"optimiser.lr": [1e-3, 1e-2], "seed": [0, 1]})
    return train_grid(values, out=out, device="cpu", executor=Local())


def test_the_measurement_lies_on_the_keys_that_vary(ran):
    found = ran.results
    assert found.dims == ("seed", "optimiser.lr") and found.shape == (2, 2) and found.name == "loss"
    for lr, seed in itertools.product((1e-3, 1e-2), (0, 1)):
        alone = figures(train(grid_of(with_(**{"optimiser.lr": [lr], "seed": [seed]})).members[0].recipe, device="cpu"))
        cell = found.sel(**{"optimiser.lr": str(lr), "seed": seed})
        assert cell.item() == alone["loss"]
        for name in ("training_loss", "induction", "tokens", "parameters"):
            assert cell.dataset[name].item() == alone[name], name
    again = Measurement.load(ran.folder / "results.nc")
    assert again.dims == found.dims and np.array_equal(again.values, found.values)
    assert again.dataset["optimiser.lr"].values.tolist() == ["0.001", "0.01"]
    assert again.top(1).label in [f"seed {s} optimiser.lr {lr}" for s in (0, 1) for lr in ("0.001", "0.01")]
    assert again.record.settings["grid"]["optimiser"]["lr"] == [1e-3, 1e-2]


def test_the_table_and_the_folders_say_the_same(ran):
    with (ran.folder / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["0", "1", "2", "3"]
    for row, run in zip(rows, ran.runs, strict=True):
        assert float(row["loss"]) == run.figures["loss"] and row["reason"] == ""
        assert row["optimiser.lr"] == run.member.labels["optimiser.lr"]
        folder = ran.folder / "runs" / row["run"]
        assert (folder / "model.safetensors").is_file() and not (folder / "report.html").exists()
    html = (ran.folder / "report.html").read_text()
    assert "Which setting matters how much?" in html and "Curves side by side" in html


def test_a_grid_that_has_ended_is_read_again(ran, monkeypatch):
    def never(*_, **__):
        raise AssertionError("nothing is run again")

    monkeypatch.setattr("pellucid.train.grid_run.train", never)
    before = (ran.folder / "runs.csv").read_bytes()
    again = train_grid(ran.grid, out=ran.folder, resume=True, device="cpu", executor=Local())
    assert np.array_equal(again.results.values, ran.results.values)
    assert (ran.folder / "runs.csv").read_bytes() == before
    with pytest.raises(OutputError, match="must not hold results already, it has grid.toml; add --resume"):
        train_grid(ran.grid, out=ran.folder, device="cpu")
    with pytest.raises(OutputError, match="must be the journal of the same work"):
        train_grid(with_(seed=[0, 1]), out=ran.folder, resume=True, device="cpu", executor=Local())
    with pytest.raises(OutputError, match="one of --resume and --overwrite must be chosen"):
        train_grid(ran.grid, out=ran.folder, resume=True, overwrite=True)
    with pytest.raises(OutputError, match="must hold a grid to go on with"):
        train_grid(ran.grid, out=ran.folder / "runs", resume=True)


def made(varied, numbers):
    """A result whose runs have these losses; None: it failed."""
    members = [
        Member(name=str(i), labels=dict(zip(varied, labels, strict=True)), recipe=None)
        for i, labels in enumerate(itertools.product(*varied.values()))
    ]
    runs = tuple(
        Ran(
            member=member,
            figures={} if number is None else {"loss": number},
            losses=np.empty(0),
            reason="it is so" if number is None else None,
        )
        for member, number in zip(members, numbers, strict=True)
    )
    grid = Grid(values={}, varied=varied, members=tuple(members), sampling=Sampling())
    results = Measurement(0.0, (), unit="nats", record=Record())
    return GridResult(grid=grid, results=results, figure="loss", runs=runs, folder=None)


@given(st.lists(st.none() | st.floats(-5, 5), min_size=12, max_size=12))
def test_an_effect_is_the_mean_of_pairs_that_differ_in_one_key(numbers):
    varied = {"a": (1, 2), "seed": (0, 1, 2), "b": ("x", "y")}
    result = made(varied, numbers)
    known = {tuple(run.member.labels.values()): run.figures.get("loss") for run in result.runs}
    found = {(one.key, one.value): one for one in effects(result)}
    for key, value, first, place in (("a", 2, 1, 0), ("b", "y", "x", 2)):
        by_seed = []
        for seed in (0, 1, 2):
            pairs = []
            for labels, number in known.items():
                other = list(labels)
                other[place] = first
                if labels[1] == seed and labels[place] == value and None not in (number, known[tuple(other)]):
                    pairs.append(number - known[tuple(other)])
            by_seed += [np.mean(pairs)] if pairs else []
        if not by_seed:
            assert (key, value) not in found
            continue
        one = found[key, value]
        assert one.difference == pytest.approx(np.mean(by_seed)) and one.seeds == len(by_seed)
        assert (one.low is None) == (len(by_seed) < 2)
        assert one.low is None or one.low <= one.difference <= one.high
    assert not any(key == "seed" for key, _ in found)


def test_the_key_that_matters_most_stands_first_and_one_seed_has_no_interval():
    found = effects(made({"a": (1, 2), "b": ("x", "y", "z")}, [0, 1, 5, 0.5, 1.5, 5.5]))
    assert [(one.key, one.value) for one in found] == [("b", "y"), ("b", "z"), ("a", 2)]
    assert [one.difference for one in found] == [1, 5, 0.5] and all(one.low is None for one in found)


# What fails


def test_a_bound_on_memory_is_not_silently_ignored_elsewhere():
    with pytest.raises(ConfigError, match="grid.max_memory bounds memory of the CPU, and the runs are on cuda"):
        train_grid({**with_(seed=[0, 1]), "grid": {"max_memory": 10**9}}, device="cuda")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the bound on memory is Linux's")
def test_fifty_runs_five_of_which_must_fail_end_with_forty_five_results_and_five_reasons(tmp_path):
    small = {"n_layers": 1, "d_model": 8, "d_vocab": 12, "n_ctx": 16, "attention": {"n_heads": 1, "d_head": 4}}
    good = [{**small, "init_range": round(0.001 * i, 3)} for i in range(1, 46)]
    large = {**small, "mlp": {"d_mlp": 10**9}}  # 32 GB at once
    bad = [large, {**large, "tied": True}, {**small, "n_layer": 2}, *({**small, "init_range": x} for x in (1e25, 1e26))]
    models = [*good[:40], *bad, *good[40:]]
    values = {**with_(steps=4, model=models), "probes": {"batch": 0, "held_out": 4}, "schedule": {"warmup": 0}}
    values["checkpoints"] = {"every": 0, "log_spaced": False}
    executor = Processes(2, threads=1, max_memory=3 * 10**9, lost=lost)
    result = train_grid(values, out=tmp_path / "out", device="cpu", executor=executor)
    assert result.results.shape == (50,) and np.isfinite(result.results.values).sum() == 45
    assert [run.member.name for run in result.failed] == ["40", "41", "42", "43", "44"]
    reasons = [run.reason for run in result.failed]
    assert all("it needs more memory than there is" in reason and "\n" not in reason for reason in reasons[:2]), reasons
    assert reasons[2] == "model has no field 'n_layer'; nearest: n_layers"
    assert all("the loss must be a finite number" in reason for reason in reasons[3:]), reasons
    assert np.flatnonzero(result.results.dataset["failed"].values).tolist() == [40, 41, 42, 43, 44]
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50 and [row["reason"] for row in rows if row["reason"]] == reasons
    html = (tmp_path / "out" / "report.html").read_text()
    for words, n in (("more memory than there is", 2), ("model has no field", 1), ("loss must be a finite number", 2)):
        assert html.count(words) == n and html.index(words) > html.index("What failed")
    assert not list((tmp_path / "out").rglob(".*")), "nothing half-written is left"


def ends(job):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_whose_process_is_killed_has_a_reason():
    """What runs beside it: see the tests of `Processes`."""
    found = Processes(1, threads=1, lost=lost).map(ends, [{"run": "0"}])
    assert bytes(found[0]["failed"].tolist()) == b"its process was killed, as a system does that is out of memory"


# Bits per byte


def test_bits_per_byte_are_those_of_the_held_out_text(tmp_path):
    values = {
        **with_(steps=4),
        "model": {**FEW["model"], "n_ctx": 32, "tokenizer": {"size": 300}},
        "data": {"kind": "Text", "source": "made:60", "length": 32, "held_out": 0.2},
    }
    del values["model"]["d_vocab"]
    values["probes"] = {"held_out": 10_000, "batch": 0}
    values["model"]["tokenizer"] = [{"size": 300}, {"size": 400, "kind": "WordPiece"}]
    result = train_grid(values, device="cpu", executor=Local())
    assert result.figure == "bits_per_byte" and result.results.unit == "bits per byte"
    for run in result.runs:
        trained = train(run.member.recipe, device="cpu")
        packed = trained.recipe.data.packed(trained.model.tokenizer)
        per_token = packed.n_held_out_bytes / packed.n_held_out_tokens
        assert run.figures["bits_per_byte"] == pytest.approx(run.figures["loss"] / np.log(2) / per_token)
        assert len(trained.model.tokenizer) <= trained.model.config.d_vocab
    html = grid_page(result).html()
    assert "bits per byte (bits per byte)" in html and "loss (nats)" in html  # the axis of the curves alone
    table = html[html.index("The runs") : html.index("The best first")]
    assert "(nats)" not in table, "what different tokenizers call a token is not compared"


@pytest.mark.parametrize(
    ("key", "options", "differ"), [("model.tokenizer.size", [290, 330], True), ("seed", [0, 1], False)]
)
def test_nats_per_token_are_shown_where_a_token_is_the_same_for_all(key, options, differ):
    values = with_(**{"steps": 2, "model.n_ctx": 32, "model.tokenizer": {"size": 300}, "schedule.warmup": 0})
    values |= {"data": {"kind": "Text", "source": "made:40", "length": 32, "held_out": 0.2}, "probes": {"batch": 0}}
    del values["model"]["d_vocab"]
    *outer, last = key.split(".")
    (values["model"]["tokenizer"] if outer else values)[last] = options
    result = train_grid(values, device="cpu", executor=Local())
    html = grid_page(result).html()
    table = html[html.index("The runs") : html.index("The best first")]
    assert result.figure == "bits_per_byte" and "bits per byte" in table and ("(nats)" in table) == (not differ)


# More of what varies


def test_a_name_with_a_dot_in_it_varies_like_any_other():
    grid = grid_of(with_(**{"model.take": {"blocks.0": ["gpt2", "pythia-70m"]}}))
    assert grid.varied == {"model.take.blocks.0": ("gpt2", "pythia-70m")}
    assert [member.recipe.model.take for member in grid.members] == [{"blocks.0": "gpt2"}, {"blocks.0": "pythia-70m"}]


def test_a_tokenizer_that_is_not_there_is_the_matter_of_one_combination(tmp_path):
    values = with_(**{"model.tokenizer": ["integers", str(tmp_path / "nowhere")]})
    del values["model"]["d_vocab"]
    good, bad = grid_of(values).members
    assert good.recipe.model.config.d_vocab == 12 and bad.recipe is None and "it does not exist" in bad.reason


def test_more_combinations_than_results_can_hold_are_refused_also_for_a_sample():
    values = with_(seed=list(range(2000)), steps=list(range(5, 1005)))
    with pytest.raises(ConfigError, match="at most 1000000 combinations, got 2000000"):
        grid_of({**values, "grid": {"sample": 5}})


def test_a_sample_has_results_where_it_was_run(tmp_path):
    values = {**with_(seed=[0, 1, 2], steps=[4, 5]), "grid": {"sample": 2, "seed": 3}, "probes": {"batch": 0}}
    result = train_grid(values, out=tmp_path / "out", device="cpu", executor=Local())
    assert result.results.dims == ("steps", "seed") and np.isfinite(result.results.values).sum() == 2
    assert not result.failed and result.results.dataset["failed"].values.sum() == 0
    for run in result.runs:
        assert result.results.sel(**run.member.labels).item() == run.figures["loss"]
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == [m.name for m in result.grid.members]


def test_a_grid_may_be_of_one_run():
    result = train_grid({**with_(steps=3), "grid": {}}, device="cpu", executor=Local())
    assert result.results.dims == () and result.results.item() == result.runs[0].figures["loss"]
    assert "1 runs" in grid_page(result).html() and effects(result) == []


# Begun before


class Stopped(BaseException):
    """As if the process had ended."""


def test_a_grid_that_is_stopped_at_any_step_ends_as_if_it_never_was(tmp_path, monkeypatch):
    values = with_(**{"optimiser.lr": [5e-3, 1e30], "seed": [0, 1], "schedule.warmup": 0})
    (tmp_path / "whole").mkdir()
    (tmp_path / "stopped").mkdir()
    advance, left = Training.advance, 0

    def stopping(self):
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        advance(self)

    monkeypatch.chdir(tmp_path / "whole")  # reasons tell where the last good checkpoint lies
    whole = train_grid(values, out="out", device="cpu", executor=Local())
    monkeypatch.chdir(tmp_path / "stopped")
    monkeypatch.setattr(Training, "advance", stopping)
    for steps in (0, 2, 4, 4, 5):
        left = steps
        with pytest.raises(Stopped):
            train_grid(values, out="out", resume=Path("out").exists(), device="cpu", executor=Local())
        assert not Path("out/results.nc").exists()
    monkeypatch.setattr(Training, "advance", advance)
    told = []
    result = train_grid(values, out="out", resume=True, device="cpu", executor=Local(), advance=told.append)
    assert result.results.dataset.identical(whole.results.dataset) and len(result.failed) == 2 and 0 < len(told) < 4
    names, theirs = (
        {path.relative_to(tmp_path / folder) for path in (tmp_path / folder).rglob("*") if path.is_file()}
        for folder in ("stopped", "whole")
    )
    assert names == theirs and len([name for name in names if name.name == "model.safetensors"]) > 6
    for name in names:
        if name.suffix in (".csv", ".safetensors", ".toml"):
            assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_run_that_was_killed_before_it_had_its_recipe_begins_again(tmp_path):
    grid = grid_of(with_(seed=[0, 1], steps=3))
    out = tmp_path / "out"
    (out / "runs" / "0").mkdir(parents=True)
    (out / "runs" / "0" / "made_with.json").write_text("{}\n")
    (out / "grid.toml").write_text(toml(grid.values))
    result = train_grid(grid, out=out, resume=True, device="cpu", executor=Local())
    assert np.isfinite(result.results.values).all()


def test_a_grid_takes_the_place_of_a_run_and_of_a_grid(tmp_path):
    train(grid_of(with_(seed=[0], steps=3)).members[0].recipe, out=tmp_path, device="cpu")
    (tmp_path / "mine.txt").write_text("stays")
    grid = with_(seed=[0, 1], steps=3)
    with pytest.raises(OutputError, match="must not hold results already"):
        train_grid(grid, out=tmp_path, device="cpu", executor=Local())
    ours = {"grid.toml", "journal", "runs", "results.nc", "runs.csv", "report.html", "mine.txt"}
    for values in (grid, with_(seed=[2, 3], steps=3)):
        train_grid(values, out=tmp_path, overwrite=True, device="cpu", executor=Local())
        assert {path.name for path in tmp_path.iterdir()} == ours
    lines = (tmp_path / "runs.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:2] for line in lines] == [["0", "2"], ["1", "3"]]
