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


def hungry(job):
    return {"taken": torch.ones(job, dtype=torch.uint8)[:1]}


def mortal(job):
    """Kills its process where the job is negative, while others run beside it."""
    time.sleep(1)
    return killed(job) if job < 0 else where(job)


def gone(job, how):
    return {"job": torch.tensor(job), "lost": torch.tensor(len(how))}
