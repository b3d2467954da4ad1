"""Studies in files alone, as a driver and its jobs would leave them: with pruning, failures, lost runs, and nodes."""

import heapq
import json
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from trialfleet.sweep.study import command, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.trial import records
from trialfleet.trial.directory import TrialDir, trial_dir
from trialfleet.trial.process import Process
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import JobRef, TrialRecord

SPACE: dict[str, BaseDistribution] = {
    "optimizer.learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
    "optimizer.name": CategoricalDistribution(["adam", "lion", "sgd"]),
    "optimizer.momentum": FloatDistribution(0.5, 0.99),  # of sgd alone
    "model.layers": IntDistribution(1, 8),
    "model.dropout": FloatDistribution(0.0, 0.5),
    "optimizer.weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
}
METRIC, SECOND = "val/loss", "model/megabytes"
EPOCH = 1795000000.0  # Unix seconds at which the first job starts
DEVICES = 4  # of a trial
NO_MEMORY = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate {} bytes."


@dataclass(frozen=True)
class Shape:
    """What is simulated.

    Attributes:
        slots: trials at a time, two on each node.
        steps: of a trial that is not pruned; it reports 20 times.
        seconds: mean length of such a trial.
        pruned, failed, lost: parts of all trials; of those that fail most diverge, the others run out of memory.
        objectives: 1, or 2: the size of the model besides.
        seed: of everything that is drawn; with another one the same study comes out differently.
        careful: whether proposals get better, as a sampler's do that learns.
    """

    trials: int
    slots: int = 16
    steps: int = 2000
    seconds: float = 3600.0
    pruned: float = 0.35
    failed: float = 0.04
    lost: float = 0.03
    objectives: int = 1
    seed: int = 1
    careful: bool = True


def make(folder: Path, shape: Shape) -> str:
    """The folder of a finished study; its uid."""
    chance = random.Random(shape.seed)
    metrics = [METRIC, SECOND][: shape.objectives]
    texts = {name: distribution_to_json(one) for name, one in SPACE.items()}
    identity: dict[str, Any] = {f"space.{name}": text for name, text in texts.items()}
    identity |= {"direction": ",".join(["minimize"] * shape.objectives), study_record.METRICS: metrics}
    folder.mkdir(parents=True)
    code = {
        "commit": "8c1f6e0d5b7a",
        "digest": "2f0c9a71b3d4e586",
        "lock": "requirements.lock 6b1d0f",
        "script": "train.py",
    }
    record = study_record.create(folder.name, folder, 1, "optuna.samplers.TPESampler", "null", identity, code)
    study_record.write(folder / "study.yaml", record)
    words = "hydra/sweeper=trialfleet hydra/launcher=submitit_slurm"
    resume = f"python train.py -m {words} hydra.sweeper.n_trials={shape.trials}"
    ways = ["minimize"] * shape.objectives
    told = Command(resume, shape.trials, shape.slots, metrics, ways, reports=METRIC, launcher="SlurmLauncher")
    command.write(folder, told)
    free = [(0.0, slot) for slot in range(shape.slots)]
    heapq.heapify(free)
    used, process = 0.0, Process.own().to_json()
    for number in range(shape.trials):
        start, slot = heapq.heappop(free)
        trial = _Trial(folder, number, record.uid, f"n{slot // 2 + 1}", EPOCH + start, texts, process)
        took = trial.live(shape, chance)
        used += took
        heapq.heappush(free, (start + took + chance.expovariate(1 / 30), slot))
    wall = max(at for at, _ in free)
    records.write(folder / "budget.json", {"wall_seconds": wall, "device_seconds": used * DEVICES}, synced=False)
    return record.uid


def proposed(shape: Shape, number: int, chance: random.Random) -> dict[str, Any]:
    """Parameters; from a third of the study on half of them are near what is good."""
    params: dict[str, Any] = {}
    learned = shape.careful and number > shape.trials / 3 and chance.random() < 0.5
    for name, one in SPACE.items():
        if isinstance(one, CategoricalDistribution):
            params[name] = chance.choice(["adam", "adam", "lion"] if learned else list(one.choices))
        elif isinstance(one, IntDistribution):
            params[name] = chance.randint(one.low, one.high)
        elif isinstance(one, FloatDistribution) and one.log:
            middle = -3.0 if name.endswith("rate") else -3.5
            low, high = math.log10(one.low), math.log10(one.high)
            place = chance.gauss(middle, 0.5) if learned else chance.uniform(low, high)
            params[name] = 10.0 ** min(high, max(low, place))
        elif isinstance(one, FloatDistribution):
            params[name] = chance.uniform(one.low, one.high)
    if params["optimizer.name"] != "sgd":
        del params["optimizer.momentum"]
    return params


def loss(params: dict[str, Any], chance: random.Random) -> float:
    """What a trial with these parameters ends with."""
    rate = math.log10(params["optimizer.learning_rate"])
    kind = {"adam": 0.0, "lion": 0.05, "sgd": 0.35 * (1.2 - params.get("optimizer.momentum", 0.0))}
    value = 0.6 + 0.25 * (rate + 3.0) ** 2 + kind[params["optimizer.name"]] + 0.4 / params["model.layers"]
    value += (
        0.3 * (params["model.dropout"] - 0.15) ** 2 + 0.01 * (math.log10(params["optimizer.weight_decay"]) + 4) ** 2
    )
    return value * math.exp(chance.gauss(0.0, 0.03))


@dataclass
class _Trial:
    """One trial, whose files `live` writes."""

    folder: Path
    number: int
    study: str
    node: str
    start: float  # Unix seconds
    distributions: dict[str, str]
    process: dict[str, Any]

    def live(self, shape: Shape, chance: random.Random) -> float:
        """Seconds that it was in its slot, lost runs included."""
        params = proposed(shape, self.number, chance)
        directory = trial_dir(self.folder, self.number)
        fate = chance.random()
        lost = chance.random() < shape.lost
        distributions = {name: self.distributions[name] for name in params}
        attempt = 2 if lost else 1
        record = TrialRecord(
            self.number, [], params, distributions, self.study, attempt, job=JobRef("slurm", f"4711_{self.number}")
        )
        record.write(directory.trial_json, synced=False)
        _at(directory.trial_json, self.start - chance.expovariate(1 / 90))
        whole = shape.seconds * (0.5 + 0.1 * params["model.layers"]) * chance.uniform(0.9, 1.1)
        final, took = loss(params, chance), 0.0
        if lost:
            took = self._run(directory, record, "1.0", whole, 0.3, final, shape, chance, self.start)
        state = TrialState.COMPLETE
        part = 1.0
        if fate < shape.failed:
            state, part = TrialState.FAIL, chance.uniform(0.02, 0.6)
        elif self.number > shape.trials / 50 and fate < shape.failed + shape.pruned * (2.0 if final > 1.3 else 0.3):
            state, part = TrialState.PRUNED, chance.choice([0.1, 0.2, 0.3, 0.5])
        label = f"{attempt}.0"
        begun = self.start + took
        seconds = self._run(directory, record, label, whole, part, final, shape, chance, begun)
        self._end(directory, record, state, label, seconds, params, final, shape, chance, begun + seconds)
        return took + seconds

    def _run(
        self,
        directory: TrialDir,
        record: TrialRecord,
        label: str,
        whole: float,
        part: float,
        final: float,
        shape: Shape,
        chance: random.Random,
        start: float,
    ) -> float:
        run = directory.run_dir(label)
        run.mkdir(parents=True)
        claim: dict[str, Any] = {"study": record.study, "params": record.identity.params, "attempt": int(label[0])}
        claim |= {"restart": 0, "job": f"slurm:4711_{self.number}", "process": self.process, "node": self.node}
        (run / "claim").write_text(f"{json.dumps({'format': records.FORMAT, **claim})}\n")
        _at(run / "claim", start)
        reports = max(1, round(20 * part))
        lines = []
        for report in range(1, reports + 1):
            done = report / 20
            value = final + (4.0 - final) * math.exp(-5 * done) + chance.gauss(0.0, 0.02)
            at = start + 40 + (whole - 40) * part * report / reports
            values = {METRIC: value, "train/loss": value * 0.9}
            lines.append(json.dumps({"step": round(shape.steps * done), "time": at, "values": values}))
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        _at(run / "metrics.jsonl", start + whole * part)
        return whole * part

    def _end(
        self,
        directory: TrialDir,
        record: TrialRecord,
        state: TrialState,
        label: str,
        seconds: float,
        params: dict[str, Any],
        final: float,
        shape: Shape,
        chance: random.Random,
        at: float,
    ) -> None:
        values = [final, 4.0 * params["model.layers"] * (2 - params["model.dropout"])][: shape.objectives]
        error = None
        if state is TrialState.FAIL:
            diverged = ("FloatingPointError", f"the loss is nan at step {chance.randrange(shape.steps)}")
            kind, said = (
                diverged if chance.random() < 0.7 else ("XlaRuntimeError", NO_MEMORY.format(chance.randrange(10**10)))
            )
            error = {"type": kind, "message": said, "traceback": ""}
            (directory.run_dir(label) / "log").write_text(
                f"step 100: {METRIC} 3.81\nTraceback (most recent call last):\n"
                '  File "train.py", line 88, in main\n    '
                f"state = step(state, batch)\n{kind}: {said}\n"
            )
        parts = {
            "compile": 25.0,
            "start": 12.0,
            "train": seconds * 0.88,
            "evaluate": seconds * 0.04,
            "save": seconds * 0.02,
        }
        result = Result(
            state,
            values if state is TrialState.COMPLETE else None,
            error,
            {"total": seconds, **parts},
            label,
            {},
            record.identity,
        )
        records.write(directory.result_json, result.to_json(), synced=False)
        _at(directory.result_json, at)


def _at(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))
