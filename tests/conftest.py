"""What holds in every test: no network, few threads, known randomness; and the folder of real input, `shared`.

The shape checks (jaxtyping + beartype over the whole package) are set up in pyproject.toml, since they must come before
anything of Pellucid is imported.
"""

import ipaddress
import os
import random
import socket
from pathlib import Path
from typing import Any

# Before anything imports huggingface_hub or starts a thread pool; the processes that tests start inherit both.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

IN_CI = bool(os.environ.get("CI"))
ROOT = Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile("here", deadline=None, database=None)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("here"), derandomize=True)
hypothesis.settings.load_profile("ci" if IN_CI else "here")


def pytest_configure() -> None:
    """For the whole run, so that the examples in docstrings are held to it too."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, _only_on_loopback(getattr(socket.socket, name)))
    socket.getaddrinfo = _only_on_loopback(socket.getaddrinfo)


def _only_on_loopback(function: Any) -> Any:
    def refusing(*args: Any, **options: Any) -> Any:
        address = args[-1] if isinstance(args[0], socket.socket) else args[:1]
        if isinstance(address, tuple) and not _is_loopback(address[0]):
            # Not an Exception: code that falls back when there is no network must not swallow it.
            pytest.fail(f"A test must not use the network, and this one asked for {address[0]!r}.")
        return function(*args, **options)

    return refusing


def _is_loopback(host: Any) -> bool:
    if host in (None, "", b"", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _known_randomness() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the checkout: real models, tokenizers and texts that are too large for it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        missing = f"needs the folder of real models and texts, {folder}, which is not there"
        pytest.fail(missing) if IN_CI else pytest.skip(missing)
    return folder
