import io
import os
import subprocess
import sys
import warnings

import pytest

from pellucid.base.errors import ArgumentError, MisreadWarning
from pellucid.base.record import VERSION

STUDY = ("study", "induction", "--model", "toy-induction")


@pytest.fixture
def failing(monkeypatch):
    """Makes the study of every command raise what is given."""

    def fail(error):
        def raising(*args, **kwargs):
            raise error

        monkeypatch.setattr("pellucid.studies.induction.induction", raising)

    return fail


def test_help_lists_the_commands_and_how_to_begin(pellucid):
    done = pellucid("--help")
    assert done.status == 0
    assert {"models", "study", "heads"} <= set(done.out.split())
    assert "    pellucid study induction --model toy-induction\n" in done.out


@pytest.mark.parametrize("command", [("models",), ("heads",), ("study", "induction")])
def test_the_help_of_each_command_has_an_example(pellucid, command):
    done = pellucid(*command, "--help")
    assert done.status == 0
    assert f"  Example:\n      pellucid {' '.join(command)}" in done.out


def test_the_version_is_printed(pellucid):
    assert pellucid("--version") == (0, f"pellucid {VERSION}\n", "")


@pytest.mark.parametrize("arguments", [(), ("study",)])
def test_nothing_asked_for_is_wrong_usage_and_shows_the_help(pellucid, arguments):
    done = pellucid(*arguments)
    assert done.status == 2
    assert "Commands:" in done.out + done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("haeds",), "No such command 'haeds'"),
        (("study", "inductoin", "--model", "x"), "No such command 'inductoin'"),
        (("heads",), "Missing option '--model'"),
        ((*STUDY, "--sede", "3"), "No such option"),
        ((*STUDY, "--seed", "three"), "Invalid value for '--seed'"),
        ((*STUDY, "--batch", "0"), "Invalid value for '--batch'"),
        (("heads", "--model", "toy-induction", "--seq-len", "1"), "Invalid value for '--seq-len'"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_wrong(pellucid, arguments, said):
    done = pellucid(*arguments)
    assert done.status == 2
    assert said in done.err
    assert done.out == ""


def test_an_unknown_model_offers_the_nearest(pellucid):
    done = pellucid("heads", "--model", "toy-inducton")
    assert done.status == 1
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith("Error: 'toy-inducton'") and "nearest: toy-induction" in last


def test_an_empty_name_of_a_model_is_refused(pellucid):
    done = pellucid("heads", "--model", "")
    assert (done.status, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert last.startswith("Error: ") and "a folder" in last and "`pellucid models` lists" in last


def test_our_own_error_is_one_line_on_stderr(pellucid, failing):
    failing(ArgumentError("n must be 1,\n  got 2"))
    done = pellucid(*STUDY)
    assert done.status == 1
    assert done.err.splitlines()[-1] == "Error: n must be 1, got 2"
    assert "Traceback" not in done.err


def test_an_unexpected_error_is_one_line_that_names_it(pellucid, failing):
    failing(ZeroDivisionError("oh"))
    done = pellucid(*STUDY)
    assert done.status == 1
    assert done.err.splitlines()[-1] == "Error: ZeroDivisionError: oh (unexpected; --debug shows where)"


@pytest.mark.parametrize("error", [ArgumentError("no"), ZeroDivisionError("oh")])
def test_debug_shows_the_traceback(pellucid, failing, error):
    failing(error)
    done = pellucid(*STUDY, "--debug")
    assert done.status == 1
    assert "Traceback" in done.err
    assert done.err.splitlines()[-1].endswith(str(error))


def test_an_interrupted_command_ends_with_130_and_writes_nothing(pellucid, failing, tmp_path):
    failing(KeyboardInterrupt())
    done = pellucid(*STUDY, "--out", "out")
    assert done.status == 130
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_warning_is_one_line_on_stderr(pellucid, monkeypatch):
    def warning(name):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("look twice", MisreadWarning, stacklevel=2)
        raise ArgumentError("enough")

    monkeypatch.setattr("pellucid.cli.heads.loaded", warning)
    assert pellucid("heads", "--model", "x").err == "Warning: look twice\nError: enough\n"


def test_a_stream_that_lacks_a_sign_gets_another(pellucid, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert pellucid("heads", "--model", "toy-induction", "--batch", "2").status == 0
    stream.flush()
    assert b"0.97 ?0." in stream.buffer.getvalue()


def test_python_m_pellucid_is_the_command(tmp_path):
    done = subprocess.run([sys.executable, "-m", "pellucid", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"pellucid {VERSION}\n", "")


def test_help_imports_nothing_heavy(tmp_path):
    code = "import sys; from pellucid.cli.main import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "Commands:" in done.stdout
    assert not {"torch", "numpy", "xarray", "scipy"} & set(done.stdout.split())


def test_a_reader_that_stops_reading_is_no_error(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pellucid", "models"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert "Traceback" not in done.stderr and "Error" not in done.stderr
