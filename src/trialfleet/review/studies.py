"""A study as its folder says: its trials, how it stands, what is best. Opens no storage, and changes nothing."""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet.errors import UserError, nearest
from trialfleet.sweep.study import command, constraints, index, lease, requests, study_record
from trialfleet.sweep.study.command import Command
from trialfleet.sweep.study.index import ENDED, RUNNING, WAITING, TrialRow
from trialfleet.sweep.study.lease import Present
from trialfleet.sweep.study.progress import Finished, StudyProgress
from trialfleet.sweep.study.study_record import METRICS, SPACE, StudyRecord
from trialfleet.trial import records
from trialfleet.trial.records import Damaged

if TYPE_CHECKING:
    import pandas

SWEEPS = "sweeps"  # where studies lie, as seen from where commands are typed
DEEPEST = 4  # levels below it at which studies are looked for: a study's name may have slashes
ASIDE = ".before-"  # in the name of a study that a fresh one of the same name has put aside


class Study:
    """One study, as it was when its parts were first asked for; `study(…)` again reads it anew.

    Attributes:
        folder: the study's.
        record: study.yaml.
        command: what its last driver was told; None of a study that an earlier version ran.
    """

    def __init__(self, folder: Path, record: StudyRecord) -> None:
        self.folder = folder
        self.record = record
        self.command: Command | None = command.read(folder)

    def __repr__(self) -> str:
        return f"Study({self.name!r}: {self.state}, {self.finished} of {self.total or '?'} trials ended)"

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives."""
        named = self.record.identity.get(METRICS)
        if isinstance(named, list):
            return [str(name) for name in named]
        return ["objective"] if len(self.directions) == 1 else [f"objective_{i}" for i in range(len(self.directions))]

    @property
    def directions(self) -> list[str]:
        """minimize or maximize, for each of them."""
        return str(self.record.identity.get("direction", "minimize")).split(",")

    @property
    def space(self) -> dict[str, str]:
        """What is searched over, each parameter's distribution in Optuna's JSON."""
        identity = self.record.identity
        return {key.removeprefix(SPACE): str(text) for key, text in identity.items() if key.startswith(SPACE)}

    @cached_property
    def driver(self) -> Present | None:
        """The driver that is at work; None if there is none."""
        return lease.present(self.folder / "driver.lock")

    @cached_property
    def rows(self) -> list[TrialRow]:
        """All trials, by number."""
        bounds = [] if self.command is None else list(self.command.constraints)
        found, anew = index.rows(self.folder, self.record.uids, bounds)
        if anew and self.driver is None:  # else it is the driver's to write
            with contextlib.suppress(OSError):
                index.write(self.folder, self.record.uid, found)
        return found

    @cached_property
    def counts(self) -> "Counter[str]":
        """Trials by state."""
        return Counter(row.state for row in self.rows)

    @property
    def finished(self) -> int:
        """Trials that have ended."""
        return sum(self.counts[state] for state in ENDED)

    @property
    def total(self) -> int | None:
        """Trials that the study is to have, those that people asked to try again included; None if nobody knows."""
        if self.command is None:
            return None
        return self.command.n_trials + len(requests.accepted(self.folder, (requests.RETRY,)))

    @property
    def state(self) -> str:
        """running: a driver is at work; finished: all trials have ended; stopped: neither."""
        if self.driver is not None:
            return "running"
        return "finished" if self.total is not None and self.finished >= self.total else "stopped"

    @cached_property
    def front(self) -> list[TrialRow]:
        """The best trial, or the Pareto front of several objectives, by number; empty while there is none."""
        progress = StudyProgress(self.directions)
        for row in self.rows:
            if row.state == "COMPLETE" and row.values is not None and len(row.values) == len(self.directions):
                progress.add(Finished(row.number, row.state, row.values, row.params, feasible=self.keeps_bounds(row)))
        return sorted((self.rows_by_number[one.number] for one in progress.front), key=lambda row: row.number)

    @cached_property
    def best_numbers(self) -> frozenset[int]:
        """The numbers of `front`."""
        return frozenset(row.number for row in self.front)

    @cached_property
    def rows_by_number(self) -> dict[int, TrialRow]:
        return {row.number: row for row in self.rows}

    def keeps_bounds(self, row: TrialRow) -> bool:
        """Whether a trial's last metrics keep the bounds that the last command set."""
        return all(bound.violation(row.metrics) <= 0 for bound in self._bounds)

    @cached_property
    def _bounds(self) -> Sequence[constraints.Constraint]:
        try:
            return constraints.parse(None if self.command is None else self.command.constraints)
        except UserError:
            return []

    def ranked(self) -> list[TrialRow]:
        """Complete trials that keep all bounds, the best first by the first objective."""
        sign = 1.0 if self.directions[0] == "minimize" else -1.0
        known = [row for row in self.rows if row.state == "COMPLETE" and row.values and self.keeps_bounds(row)]
        return sorted(known, key=lambda row: (sign * (row.values or [0.0])[0], row.number))

    @cached_property
    def used(self) -> dict[str, float]:
        """Hours of drivers at work, and hours of devices in trials that have ended."""
        try:
            account = records.read(self.folder / "budget.json")
            if account is None:
                return {}
            return {
                "wall_hours": records.number(account.get("wall_seconds", 0.0)) / 3600,
                "device_hours": records.number(account.get("device_seconds", 0.0)) / 3600,
            }
        except (Damaged, TypeError, ValueError):
            return {}

    def trial(self, number: int) -> TrialRow:
        """Raises:
        UserError: the study has no trial of this number.
        """
        if number not in self.rows_by_number:
            last = f"0 to {self.rows[-1].number}" if self.rows else "none yet"
            raise UserError(f"study {self.name!r} has no trial {number}", f"it has {last}")
        return self.rows_by_number[number]

    def trials(self) -> "pandas.DataFrame":
        """All trials as a frame, one row a trial, with the columns of `trialfleet study trials --csv`.

        Times are UTC; what a trial does not have is missing.
        """
        from trialfleet.review.frame import frame

        return frame(self)

    def best(self) -> list[dict[str, Any]]:
        """The best trial, or the Pareto front of several objectives, each as `trialfleet study best --json` has it."""
        from trialfleet.review.fields import trial_fields

        return [trial_fields(self, row) for row in self.front]


def load(folder: Path) -> Study:
    """The study in a folder.

    Raises:
        UserError: there is none, or its record cannot be read.
    """
    record = study_record.read(folder / "study.yaml")
    if record is None:
        raise UserError(f"{folder}: holds no study: it has no study.yaml", "give the folder of a study, or its name")
    return Study(folder.absolute(), record)


def find(name: str, place: Path | None = None) -> Study:
    """The study of a name, or in a folder.

    Args:
        name: a study's name, its folder's below `place`, or the path of its folder.
        place: where studies lie; `sweeps` in the present folder by default.

    Raises:
        UserError: there is none; it says which there are.
    """
    base = Path(SWEEPS) if place is None else place
    for folder in (base / name, Path(name).expanduser()):
        if name and (folder / "study.yaml").is_file():
            return load(folder)
    known: dict[str, Path] = {}
    for folder in folders(base):
        known.setdefault(str(folder.relative_to(base)), folder)
        with contextlib.suppress(UserError):
            known.setdefault(load(folder).name, folder)
    if name in known:
        return load(known[name])
    shown = sorted(other for other in known if ASIDE not in other)
    raise UserError(
        f"there is no study {name!r} in {base.absolute()}{nearest(name, known)}",
        f"the studies there: {', '.join(shown[:12])}{', …' if len(shown) > 12 else ''}"
        if shown
        else "type it where the studies were started, or say where they lie: --dir FOLDER",
    )


def folders(base: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The folders of all studies below one, in the order of their names. What is in a study's is not looked at."""
    try:
        inside = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return
    for path in inside:
        if (path / "study.yaml").is_file():
            yield path
        elif depth > 1:
            yield from folders(path, depth - 1)


def under_way(study: Study) -> list[TrialRow]:
    """The trials that have begun and not ended, by number."""
    return [row for row in study.rows if row.state in (RUNNING, WAITING)]
