"""`python -m benchmarks.toy stock|ours overrides`: a sweep of the task by the stock Optuna sweeper, or by ours."""

import sys
from pathlib import Path

import hydra

from benchmarks.toy.task import task

SWEEPERS = {"stock": "optuna", "ours": "trialfleet"}

if __name__ == "__main__":
    sys.argv.append(f"hydra/sweeper={SWEEPERS[sys.argv.pop(1)]}")
    hydra.main(config_path=str(Path(__file__).parent / "conf"), config_name="toy")(task)()
