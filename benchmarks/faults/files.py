"""Files that are damaged: emptied, cut in half, filled with noise, or there though nobody wrote them."""

import contextlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.fault import fault
from benchmarks.faults.study import PATIENCE, Study

CLASS = "files"


WAYS = ("empty", "half", "noise", "gone")


def damage(study: Study, path: Path) -> bool:
    """Damage a file in one of the ways in which disks, editors and copies do."""
    way = study.chance.choice(WAYS)
    try:
        if way == "gone":
            path.unlink()
            return True
        data = path.read_bytes()
        noise = bytes(study.chance.randrange(256) for _ in range(max(20, len(data))))
        hurt = {"empty": b"", "half": data[: len(data) // 2], "noise": noise}[way]
        beside = path.with_name(f".{path.name}.damage")
        beside.write_bytes(hurt)
        beside.replace(path)
    except OSError:
        return False
    return True


def _any(study: Study, files: Sequence[Path]) -> bool:
    return bool(files) and damage(study, study.chance.choice(files))


@fault(CLASS)
def trial_json_of_a_running_trial(study: Study) -> bool:
    return _trial_json(study, study.running())


@fault(CLASS, between=True)
def trial_json(study: Study) -> bool:
    return _trial_json(study, study.trials())


def _trial_json(study: Study, trials: Sequence[Path]) -> bool:
    files = [trial / "trial.json" for trial in trials if (trial / "trial.json").exists()]
    struck = bool(files) and damage(study, study.chance.choice(files))
    study.records_damaged = study.records_damaged or struck
    return struck


@fault(CLASS)
def claim(study: Study) -> bool:
    return _claim(study, study.running())


@fault(CLASS, between=True)
def claim_between(study: Study) -> bool:
    return _claim(study, study.trials())


def _claim(study: Study, trials: Sequence[Path]) -> bool:
    """Not where trials were exchanged: the claims alone can tell then whose work it is."""
    claims = [claim for trial in trials for claim in trial.glob("runs/*/claim")]
    return not study.exchanged and bool(claims) and damage(study, study.chance.choice(claims))


@fault(CLASS)
def result_json_before_it_is_told(study: Study) -> bool:
    """The driver is killed; the next result that comes is damaged before another driver sees it."""
    if study.driver is None or study.driver.poll() is not None or not study.running():
        return False
    before = {trial for trial in study.trials() if (trial / "result.json").exists()}
    study.driver.send(signal.SIGKILL)
    study.driver.wait(PATIENCE)

    def come() -> list[Path]:
        return [trial for trial in study.trials() if (trial / "result.json").exists() and trial not in before]

    return study.wait_for(come, 5.0) and damage(study, come()[0] / "result.json")


@fault(CLASS, between=True)
def result_json_of_a_told_trial(study: Study) -> bool:
    return _any(study, [trial / "result.json" for trial in study.trials() if (trial / "result.json").exists()])


@fault(CLASS)
def result_json_of_another_trial(study: Study) -> bool:
    """A result that was made for another trial, or for another study, lies in the folder of one that runs."""
    running, ended = study.running(), [trial for trial in study.trials() if (trial / "result.json").exists()]
    if not running or not ended:
        return False
    with contextlib.suppress(OSError, ValueError):
        own = json.loads((study.chance.choice(running) / "trial.json").read_text())
        record = json.loads((study.chance.choice(ended) / "result.json").read_text())
        target = study.folder / "trials" / f"{own['number']:05d}"
        if study.chance.random() < 0.5:
            claims = list(target.glob("runs/*/claim"))
            record |= {"study": "0" * 32, "params": json.loads(claims[0].read_text())["params"] if claims else ""}
        beside = target / ".result.json.foreign"
        beside.write_text(json.dumps(record))
        beside.rename(target / "result.json")
        return True
    return False


@fault(CLASS)
def verdict_json(study: Study) -> bool:
    """A verdict that is none: it must not prune a healthy trial."""
    running = study.running()
    if not running:
        return False
    noise = [b"", b"{", b"null", b'{"format": 2}', b"\xff\x00", b"[]"]
    (study.chance.choice(running) / "verdict.json").write_bytes(study.chance.choice(noise))
    return True


@fault(CLASS, between=True)
def budget_json(study: Study) -> bool:
    return damage(study, study.folder / "budget.json")


@fault(CLASS)
def lease_of_a_driver(study: Study) -> bool:
    return _any(study, sorted((study.folder / "driver.lock").glob("*.json")))


@fault(CLASS, between=True)
def lease_between(study: Study) -> bool:
    return _any(study, sorted((study.folder / "driver.lock").glob("*.json")))


@fault(CLASS)
def foreign_names(study: Study) -> bool:
    """What people, editors and file managers leave behind."""
    trials = study.trials()
    if not trials:
        return False
    trial = study.chance.choice(trials)
    name = study.chance.choice([".DS_Store", "notes.txt", "1", "copy of 1.0", "1.0.bak", "x.y", "9"])
    for folder in (trial / "runs", study.folder / "trials", study.folder / "driver.lock"):
        with contextlib.suppress(OSError):
            if study.chance.random() < 0.5:
                (folder / name).mkdir()
            else:
                (folder / name).write_text("something")
    return True


@fault(CLASS)
def junk_in_metrics(study: Study) -> bool:
    """A line that is no report, among those of a run."""
    files = [file for trial in study.running() for file in trial.glob("runs/*/metrics.jsonl")]
    if not files:
        return False
    junk = study.chance.choice(
        [b"\n", b"{}\n", b'{"step": "x"}\n', b"\xff\xfe\n", b"[" * 5000 + b"\n", b'{"step": 1}\n']
    )
    descriptor = os.open(study.chance.choice(files), os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, junk)
    os.close(descriptor)
    return True


@fault(CLASS)
def trial_json_of_another_trial(study: Study) -> bool:
    """The files of two trials are exchanged: neither may take the other's work for its own."""
    running = study.running()
    if len(running) < 2 or study.driver is None:
        return False
    study.stop()
    one, other = study.chance.sample(running, 2)
    with contextlib.suppress(OSError, ValueError):
        records = [json.loads((trial / "trial.json").read_text()) for trial in (one, other)]
        for trial, own, foreign in zip((one, other), records, reversed(records), strict=True):
            record = own | {key: foreign[key] for key in ("params", "overrides")}
            (trial / "trial.json").write_text(json.dumps(record))
        study.may_rebuild = study.exchanged = True
        return True
    return False
