"""Jobs that another process can import."""

import os
import signal
import time
from pathlib import Path

import torch


def where(job):
    return {
        "job": torch.tensor(job),
        "process": torch.tensor(os.getpid()),
        "threads": torch.tensor(torch.get_num_threads()),
    }


def failing(job):
    return {"inverse": torch.tensor(1 / job)}


def killed(job):
    os.kill(os.getpid(), signal.SIGKILL)


def mistaken(job):
    return job


def lasting(job):
    Path(job).write_text(str(os.getpid()))
    time.sleep(600)
