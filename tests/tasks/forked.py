"""Whole commands in half a second: `python -m tests.tasks.forked` has everything imported and forks each driver.

The driver is the real one, from the command line on, and so are its jobs, which are forks of it. Reads one JSON
line for each command, {"place": folder, "overrides": […], "first": code that the driver runs before anything else},
and answers with its exit code; its output is appended to driver.log in that folder.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tasks.commands import get_ready
from tests.tasks.studies import PROJECT, Study

OVERRIDES = ("steps=4", "seconds=0.005", "hydra.sweeper.watch={files:0.02,jobs:0.1}", "hydra.sweeper.lease.beat=0.1")


class QuickStudy(Study):
    """A study whose commands are forked from a host."""

    host: "subprocess.Popen[str]"

    def order(self, *overrides: str, first: str = "") -> int:
        """Run the command to its end; its exit code."""
        request = {"place": str(self.place), "overrides": [*OVERRIDES, *self.overrides, *overrides], "first": first}
        assert self.host.stdin is not None
        assert self.host.stdout is not None
        self.host.stdin.write(json.dumps(request) + "\n")
        self.host.stdin.flush()
        return int(self.host.stdout.readline())

    def run(self, *more: str, code: int = 0, first: str = "") -> str:
        before = len(self.said())
        found = self.order(*more, first=first)
        assert found == code, f"exit code {found}, not {code}:\n{self.report()}"
        return self.said()[before:]


@contextmanager
def host() -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.tasks.forked"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=environment,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    from tests.tasks import dying

    get_ready(*dying.LATE)
    for line in sys.stdin:
        request = json.loads(line)
        place = Path(request["place"])
        place.mkdir(parents=True, exist_ok=True)
        print(dying.live(place, "driver", None, request["overrides"], request["first"]), flush=True)


if __name__ == "__main__":
    main()
