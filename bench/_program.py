"""A script beside this file in another process, which answers lines of JSON by lines of JSON."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Program:
    """One that runs until `end`.

    Args:
        python: The interpreter.
        script: The script's name.
        arguments: Of it.
        environment: Variables that it has besides ours.
    """

    def __init__(self, python: str, script: str, *arguments: str, **environment: str) -> None:
        command = [python, str(Path(__file__).with_name(script)), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )

    def ask(self, **what: Any) -> dict[str, Any]:
        """What it answers."""
        assert self.process.stdin is not None
        print(json.dumps(what), file=self.process.stdin, flush=True)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The next line of JSON; libraries may talk between them."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"{self.process.args} ended with status {self.process.wait()}")

    def end(self) -> None:
        """Lets the process end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
