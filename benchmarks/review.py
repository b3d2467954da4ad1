"""What it takes to look at a study of thousands of trials: `python -m benchmarks.review [--trials 10000]`.

The study's files are written as jobs would leave them, then each command runs in a process of its own, the first one
without the index, as after its loss, the others with it. Wall and CPU seconds are from Python's start to its end.
"""

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from optuna.distributions import FloatDistribution, distribution_to_json

from trialfleet.sweep.study import command, index, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir, trial_dir
from trialfleet.trial.process import Process
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import JobRef, TrialRecord

NAMES = ("optimizer.learning_rate", "optimizer.weight_decay", "model.dropout", "training.warmup")
REPORTS = 20
COMMANDS = (
    ("list",),
    ("show", "large"),
    ("trials", "large", "--sort", "val/loss"),
    ("best", "large", "--top", "5"),
    ("trials", "large", "--csv"),
    ("trials", "large", "--json"),
    ("compare", "large", "large"),
)
FRAME = "import trialfleet; print(len(trialfleet.study('large').trials()))"


def make(folder: Path, trials: int) -> str:
    """The folder of a finished study; its uid. A tenth of its trials failed, a fifth was pruned."""
    space = {name: distribution_to_json(FloatDistribution(0.0, 1.0)) for name in NAMES}
    identity = {**{f"space.{name}": text for name, text in space.items()}, "direction": "minimize"}
    identity[study_record.METRICS] = ["val/loss"]  # type: ignore[assignment]  # a list among texts
    folder.mkdir(parents=True)
    record = study_record.create(folder.name, folder, 1, "optuna.samplers.TPESampler", "null", identity, {})
    study_record.write(folder / "study.yaml", record)
    command.write(folder, Command("python train.py -m", trials, 64, ["val/loss"], ["minimize"]))
    chance, process = random.Random(1), Process.own()
    for number in range(trials):
        params = {name: chance.random() for name in NAMES}
        made = TrialRecord(number, [], params, space, record.uid, job=JobRef("slurm", f"100_{number}"))
        write_trial(trial_dir(folder, number), made, process, chance)
    return record.uid


def write_trial(directory: TrialDir, record: TrialRecord, process: Process, chance: random.Random) -> None:
    """The files of one trial that has ended."""
    record.write(directory.trial_json, synced=False)
    claim: dict[str, object] = {"study": record.study, "params": record.identity.params, "attempt": 1, "restart": 0}
    claim |= {"job": f"slurm:{record.number}", "process": process.to_json(), "node": f"n{record.number % 64}"}
    records.write(directory.run_dir("1.0") / "claim", claim, synced=False)
    lines = [
        {"step": step, "time": 1.0 * step, "values": {"val/loss": chance.random(), "train/loss": chance.random()}}
        for step in range(REPORTS)
    ]
    (directory.run_dir("1.0") / "metrics.jsonl").write_text("".join(f"{records.dumps(line)}\n" for line in lines))
    state = chance.choices([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL], [7, 2, 1])[0]
    values = [chance.random()] if state is TrialState.COMPLETE else None
    error = {"type": "ValueError", "message": "too large", "traceback": ""} if state is TrialState.FAIL else None
    result = Result(state, values, error, {"total": 60.0}, "1.0", {}, record.identity)
    records.write(directory.result_json, result.to_json(), synced=False)


def took(place: Path, words: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command, which must succeed."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run([sys.executable, *words], cwd=place, stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, default=Path(), help="where the study's files go, for the time being")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix=".review-", dir=options.folder.absolute()) as name:
        place = Path(name)
        folder = place / "sweeps" / "large"
        make(folder, options.trials)
        print(f"{options.trials} trials, {os.cpu_count()} cores\n{'wall s':>8} {'CPU s':>8}")
        for words in (COMMANDS[0], *COMMANDS):
            without = "" if (folder / index.NAME).exists() else ", without the index"
            wall, cpu = took(place, ["-m", "trialfleet.commands", "study", *words])
            print(f"{wall:>8.2f} {cpu:>8.2f}  study {' '.join(words)}{without}", flush=True)
        wall, cpu = took(place, ["-c", FRAME])
        print(f"{wall:>8.2f} {cpu:>8.2f}  trialfleet.study('large').trials()")


if __name__ == "__main__":
    main()
