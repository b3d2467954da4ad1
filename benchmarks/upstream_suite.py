"""hydra-optuna-sweeper's own tests, on that sweeper and on ours: `python -m benchmarks.upstream_suite FOLDER`.

FOLDER is `plugins/hydra_optuna_sweeper` of a checkout of Hydra. Its tests are run as they are, twice; for ours each
command that they type, and each sweep that they start, gets one override more.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

OURS = "hydra.sweeper._target_=trialfleet.sweep.sweeper.OptunaSweeper"
PROJECT = Path(__file__).resolve().parents[1]


def pytest_configure() -> None:
    """As a plugin of pytest: the tests' commands and sweeps take our sweeper."""
    helpers: Any = importlib.import_module("hydra.test_utils.test_utils")
    run_process, enter = helpers.run_process, helpers.SweepTaskFunction.__enter__

    def run_ours(command: list[str], *more: Any, **options: Any) -> Any:
        return run_process([*command, OURS], *more, **options)

    def enter_ours(sweep: Any) -> Any:
        sweep.overrides = [*sweep.overrides, OURS]
        return enter(sweep)

    helpers.run_process, helpers.SweepTaskFunction.__enter__ = run_ours, enter_ours


def run(folder: Path, *options: str) -> str:
    """The closing lines of the suite."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-rf", *options, "tests"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if re.match(r"(FAILED|ERROR|\d+ (passed|failed))", line)]
    return "\n".join(f"  {line}" for line in lines) or done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    print(f"stock\n{run(folder)}")
    print(f"ours\n{run(folder, '-p', 'benchmarks.upstream_suite')}")


if __name__ == "__main__":
    main()
