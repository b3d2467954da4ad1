"""A study on its way into MLflow: the study's run, its trials, the marks of the best. No threads in here.

`round` does all there is to do, in the caller's thread, and says whether anything is left.

The cursor says what MLflow has, and is believed as long as the study's run is there, in the same SQLite file. When it
is not (the cursor is new or was lost, a person deleted the run, a file was moved away or an older one put back), what
is there is looked for by the study's uid: the trials' runs that are found go on to be theirs, under the study's run,
which is made anew if need be; whatever else had arrived is sent again. A trial's run that a person deleted singly
stays deleted.
"""

import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trialfleet.tracking import delivery_log as note
from trialfleet.tracking import views
from trialfleet.tracking.dedup import milliseconds
from trialfleet.tracking.delivery_log import DeliveryLog, Record, Trial
from trialfleet.tracking.mlflow_runs import Away, Damaged, Found, Refused, Runs, TrackingError, Unusable, clean
from trialfleet.tracking.trial_export import (
    BEST,
    KIND,
    PARENT,
    STATE,
    STUDY,
    TRIAL,
    UID,
    Place,
    StudyGone,
    TrialExport,
    remove_doubles,
    run_name,
)

log = logging.getLogger(__name__)

OBJECTIVE, DIRECTION, NOTE = "trialfleet.objective", "trialfleet.direction", "mlflow.note.content"
STUDY_STATUS = {"COMPLETE": "FINISHED", "STOPPED": "KILLED", "FAIL": "FAILED"}
STUDYS_OWN = -1  # stands for the study's run among the numbers of trials
LONGEST_WAIT = 30.0  # seconds between two tries


@dataclass(frozen=True)
class ExportedStudy:
    """The identity of what is forwarded.

    Attributes:
        name: the study's name, for people.
        uid: what its runs in MLflow are found by; letters, digits and dashes only.
        objectives: metric → 'minimize' or 'maximize'.
        tags: for every run: code version, user, …
        params: of the study's own run.
        single: one run that belongs to no study; it is trial 0, and there is no run above it.
    """

    name: str
    uid: str
    objectives: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    single: bool = False

    def common_tags(self) -> dict[str, str]:
        tags = {**self.tags, UID: self.uid}
        return tags if self.single else {**tags, STUDY: self.name}

    def parent_tags(self) -> dict[str, str]:
        aim = {OBJECTIVE: ",".join(self.objectives), DIRECTION: ",".join(self.objectives.values())}
        return {**self.common_tags(), KIND: "study", **aim}


class StudyExport:
    """Forwards a study. Calls other than `round` only take note (they write the cursor: OSError is possible).

    Args:
        cursor: what was forwarded before; unfinished trials in it go on by themselves.
        study: what it is.
        connect: makes a client; may take seconds and raise TrackingError.
        plainly_there: whether it is plain, without a client, that the study's run is where the cursor says.

    Attributes:
        on_lost: called when trials that had arrived completely are gone in MLflow, and are no longer among the
            cursor's finished ones: whoever knows of them must tell of them again.
        lost: whether that has happened.
    """

    def __init__(
        self,
        cursor: DeliveryLog,
        study: ExportedStudy,
        connect: Callable[[], Runs],
        plainly_there: Callable[[str, str | None], bool] = lambda _run_id, _database: True,
    ) -> None:
        self.cursor = cursor
        self.on_lost: Callable[[], None] = lambda: None
        self.lost = False
        self.study = study
        self.problems: dict[str, None] = {}  # what the user should know, in order, each once
        self.waiting: dict[int, str] = {}  # trials that are tried again later, and why
        self.where: Place | None = None
        self._connect = connect
        self._plainly_there = plainly_there
        self._runs: Runs | None = None
        self._looked = False  # whether it was seen to that the study's run is where the cursor says
        if cursor.damage is not None:
            self._complain(cursor.damage)
        self._trials = {n: TrialExport(t, cursor, False, self._complain) for n, t in cursor.trials.items()}
        self._param_names = dict.fromkeys(name for t in cursor.trials.values() for name in t.params)
        self._best: set[int] | None = None
        self._parent_tags: dict[str, str] = {}
        self._parent_asked = False
        self._parent_doubtful = False  # a request without an answer may bring another one into being
        self._end: tuple[str, float] | None = None

    def start_trial(self, number: int, at: float, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """There is a trial; said again of one that is known, only its tags count."""
        if number in self.cursor.finished:
            if not self.study.single:
                return
            # a training that is taken up again goes on in its run
            self.cursor.note(note.reopen(number, at, params, tags))
            self._trials[number] = TrialExport(self.cursor.trials[number], self.cursor, False, self._complain)
        if number in self._trials:
            self._trials[number].tag(tags)
            return
        self.cursor.note(note.create(number, at, params, tags))
        self._param_names.update(dict.fromkeys(params))
        # should the cursor have been lost, then `where.listing` tells of the run; a single run has no such list
        fresh, trial = not self.study.single, self.cursor.trials[number]
        self._trials[number] = TrialExport(trial, self.cursor, fresh, self._complain)

    def tag(self, number: int, tags: Mapping[str, str]) -> None:
        if number in self._trials:
            self._trials[number].tag(tags)

    def follow(self, number: int, run: str, directory: Path) -> None:
        """Forward `directory`/metrics.jsonl, too; run labels are those of the trial's folder."""
        trial = self.cursor.trials.get(number)
        if trial is not None and run not in trial.runs:
            self.cursor.note(note.follow(number, run, directory, self.cursor.path.parent))

    def end_trial(self, number: int, ended: Record) -> None:
        """The first outcome of a trial counts; it is sent when the lines before it have arrived."""
        trial = self.cursor.trials.get(number)
        if trial is not None and trial.ended is None:
            self.cursor.note({"event": "ended", "trial": number, **ended})

    def mark_best(self, numbers: Iterable[int]) -> None:
        self._best = set(numbers)

    def tag_study(self, tags: Mapping[str, str]) -> None:
        told = self.cursor.study_tags
        self._parent_tags.update({name: value for name, value in tags.items() if told.get(name) != value})

    def end_study(self, state: str, at: float) -> None:
        self._end = (state, at)
        self._looked = False

    def hurry(self) -> None:
        """Try at the next round what rests after an error."""
        for trial in self._trials.values():
            trial.not_before = 0.0

    def behind(self) -> int:
        """The number of trials of which something is still to be forwarded."""
        return sum(trial.behind() for trial in self._trials.values())

    def round(self) -> bool:
        """Forward what there is.

        Returns:
            whether nothing is left for now.

        Raises:
            Away: nobody could be served; call again later. Trouble with one trial only delays that trial.
        """
        if self._runs is not None and not self._runs.is_current():
            self._disconnect()
            self._looked = False
        if not self._anything_to_do():
            return self._looked or self._look()
        try:
            runs, place = self._settled()
            left = [trial for trial in list(self._trials.values()) if not self._advance(trial)]
            return self._per_study(runs, place.parent) and not left
        except StudyGone as error:
            log.info("MLflow: the study's runs are looked for anew: %s", error)
            self.where = None
            return False
        except Unusable:
            self._disconnect()
            raise

    def _settled(self) -> tuple[Runs, Place]:
        if self._runs is None:
            self._runs = self._connect()
        if self.where is None:
            self.where = self._settle(self._runs)
            self._looked = True
        return self._runs, self.where

    def _look(self) -> bool:
        """There is nothing to send. Still, a person may have deleted the study's run since it was last looked at."""
        parent = self.cursor.parent
        if parent is not None and not self._plainly_there(parent, self.cursor.database):
            self.where = None
            try:
                self._settled()
            except Damaged as error:
                self.waiting[STUDYS_OWN] = str(error)
                self._disconnect()
                return True  # nobody waits for it; it is looked at again all the same
            except TrackingError as error:
                log.info("MLflow can not be asked for the study's run: %s", error)
        self._looked = True
        self.waiting.pop(STUDYS_OWN, None)
        return not self._anything_to_do()

    def _disconnect(self) -> None:
        self._runs = self.where = None

    def _anything_to_do(self) -> bool:
        marks = self._best is not None and (self._best != self.cursor.best or self.cursor.maybe_best)
        end = self._end is not None and self._end[0] != self.cursor.study_state
        return bool(self._trials or marks or end or self._parent_tags)

    def _advance(self, trial: TrialExport) -> bool:
        if trial.not_before > time.monotonic():
            return False
        assert self._runs is not None
        assert self.where is not None
        try:
            idle = trial.advance(self._runs, self.where)
        except (Away, StudyGone):
            raise
        except (TrackingError, OSError) as error:
            trial.failures += 1
            trial.not_before = time.monotonic() + waiting_time(trial.failures)
            self.waiting[trial.trial.number] = f"trial {trial.trial.number} waits: {error}"
            return False
        trial.failures = 0
        self.waiting.pop(trial.trial.number, None)
        if trial.trial.number in self.cursor.finished:
            del self._trials[trial.trial.number]
        return idle

    def _settle(self, runs: Runs) -> Place:
        """Find or make the experiment and the study's run, and see whether the cursor is right about them."""
        experiment_id = runs.experiment()
        listing = None
        if self.study.single:
            self._start_over_if_gone(runs)
        elif not self._is_known(runs):
            listing = self._take_stock(runs, experiment_id)
        if self.cursor.parent is not None:
            with contextlib.suppress(Refused):
                runs.set_tags(self.cursor.parent, self.study.parent_tags())
        return Place(experiment_id, self.cursor.parent, self.study.name, self.study.common_tags(), listing)

    def _start_over_if_gone(self, runs: Runs) -> None:
        """A single run that MLflow has no more is made again."""
        for trial in list(self.cursor.trials.values()):
            if trial.run_id is not None and not runs.is_active(trial.run_id):
                self.cursor.note(*_retold(trial, self.cursor.path.parent))
                self._forward(trial.number)

    def _is_known(self, runs: Runs) -> bool:
        """Whether the study's run is where the cursor says, and not that of the study this one is a copy of."""
        parent, same_file = self.cursor.parent, self.cursor.database in (None, runs.database)
        return parent is not None and same_file and runs.is_active(parent, self.study.uid)

    def _take_stock(self, runs: Runs, experiment_id: str) -> dict[int, Found]:
        """Agree with MLflow on what is there. It is noted at the end: until then it is done again from the start."""
        listing = self._listing(runs, experiment_id)
        parent, state = self._parent(runs, experiment_id, [run.start / 1000 for run in listing.values()])
        for run in listing.values():
            if run.tags.get(PARENT) != parent:
                runs.set_tags(run.run_id, {PARENT: parent})
        there = {n: run.run_id for n, run in listing.items() if run.status != "RUNNING" and STATE in run.tags}
        lost = [
            n for n in self.cursor.finished if n not in there and not self._deleted_singly(runs, n, parent, listing)
        ]
        retold = [trial for trial in self.cursor.trials.values() if self._is_void(trial, runs, listing)]
        folder = self.cursor.path.parent
        events = [event for trial in retold if trial.number not in there for event in _retold(trial, folder)]
        self._keep_for_the_new_run()
        self.cursor.note(
            note.lost(lost),
            note.marking([], [n for n, run in listing.items() if BEST in run.tags]),
            *[note.done(number, run_id) for number, run_id in there.items()],
            *events,
            note.study(experiment_id, parent, runs.database, state),  # last: without it, all is done again
        )
        for number in [*there, *(trial.number for trial in retold)]:
            self._forward(number)
        if lost:
            log.warning("MLflow has lost %d of this study's trials: they are sent there anew", len(lost))
            self.lost = True
            self.on_lost()
        return listing

    def _parent(self, runs: Runs, experiment_id: str, starts: Iterable[float]) -> tuple[str, str | None]:
        """Adopt or create the study's run; how the study ended, by what an adopted one says."""
        found = runs.find(experiment_id, {UID: self.study.uid, KIND: "study"})
        state = None
        if found:
            run_id = found[0].run_id
            state = found[0].tags.get(STATE) if found[0].status != "RUNNING" else None
        else:
            at = min([time.time(), *starts, *(t.created_at for t in self.cursor.trials.values())])
            self._parent_doubtful, self._parent_asked = self._parent_asked, True
            self.cursor.sync()
            run_id = runs.create(experiment_id, milliseconds(at), self.study.name, self.study.parent_tags())
        with contextlib.suppress(Refused):  # an adopted run has other values already: they stand
            runs.set_params(run_id, self.study.params)
        return run_id, state

    def _listing(self, runs: Runs, experiment_id: str) -> dict[int, Found]:
        """The run of each trial that has one. Of several the complete one counts, or the oldest; others are deleted."""
        listing: dict[int, Found] = {}
        found = [run for run in runs.find(experiment_id, {UID: self.study.uid, KIND: "trial"}) if _number(run) >= 0]
        found.sort(key=lambda run: run.status == "RUNNING" or STATE not in run.tags)  # stable: else the oldest first
        for run in found:
            if listing.setdefault(_number(run), run) is not run:
                runs.delete(run.run_id)
        return listing

    def _deleted_singly(self, runs: Runs, number: int, parent: str, listing: Mapping[int, Found]) -> bool:
        """Whether a person deleted this trial's run alone, and wants to see it no more."""
        return parent == self.cursor.parent and number not in listing and runs.exists(self.cursor.finished[number])

    def _is_void(self, trial: Trial, runs: Runs, listing: Mapping[int, Found]) -> bool:
        """Whether what the cursor says of an unfinished trial's run no longer holds."""
        if trial.run_id is None:
            return False
        found = listing.get(trial.number)
        same_file = self.cursor.database in (None, runs.database)
        return found is None or found.run_id != trial.run_id or not same_file

    def _keep_for_the_new_run(self) -> None:
        """What was told of the study itself is to be told again."""
        self._parent_tags = {**self.cursor.study_tags, **self._parent_tags}
        self._param_names = dict.fromkeys([*self.cursor.columns, *self._param_names])

    def _forward(self, number: int) -> None:
        """Go on with a trial from what the cursor says."""
        self._trials.pop(number, None)
        if number in self.cursor.trials:
            self._trials[number] = TrialExport(self.cursor.trials[number], self.cursor, False, self._complain)

    def _reopen(self, runs: Runs, parent: str) -> None:
        """The study had ended, and there are trials again."""
        if self.cursor.study_state is not None and self._end is None and self._trials:
            runs.reopen(parent)
            runs.remove_tag(parent, STATE)
            self.cursor.note({"event": "study_state", "state": None})

    def _per_study(self, runs: Runs, parent: str | None) -> bool:
        if parent is None:  # a single run is nobody's best
            return True
        try:
            self._reopen(runs, parent)
            complete = self._move_marks(runs)
            self._show(runs, parent)
            if self._parent_tags:
                runs.set_tags(parent, self._parent_tags)
                told = {**self.cursor.study_tags, **self._parent_tags}
                self.cursor.note({"event": "study_tags", "tags": told})
                self._parent_tags = {}
            self._end_parent(runs, parent)
        except Away:
            raise
        except (TrackingError, OSError) as error:
            if isinstance(error, Refused) and not runs.is_active(parent):
                raise StudyGone(str(error)) from error
            self.waiting[STUDYS_OWN] = f"the study's run waits: {error}"
            return False
        self.waiting.pop(STUDYS_OWN, None)
        return complete

    def _show(self, runs: Runs, parent: str) -> None:
        """Give the study a saved view with the parameters that its trials have, as they become known."""
        columns = list(dict.fromkeys([*self.cursor.columns, *self._param_names]))
        if columns == self.cursor.columns or self.cursor.experiment_id is None:
            return
        experiment_id = self.cursor.experiment_id
        page = views.Page(self.study.name, self.study.uid, experiment_id, parent, self.study.objectives)
        value = views.view(page, columns, int(time.time() * 1000))
        try:
            runs.set_experiment_tag(experiment_id, views.tag_name(self.study.uid), value)
        except Refused as error:
            log.info("MLflow refuses the study's saved view: %s", error)
        self.cursor.note({"event": "view", "params": columns})

    def _move_marks(self, runs: Runs) -> bool:
        """Move the mark of the best: noted before, so that a mark is never left behind."""
        if self._best is None:
            return True
        held = self.cursor.best | self.cursor.maybe_best
        known = {n: run_id for n in self._best | held if (run_id := self._run_id(n)) is not None}
        add = [n for n in self._best - self.cursor.best if n in known]
        remove = [n for n in held - self._best if n in known]
        if add or remove:
            self.cursor.note(note.marking(self.cursor.best - set(remove), {*add, *remove}))
            for number in remove:
                self._mark(runs, known[number], number, best=False)
            for number in add:
                self._mark(runs, known[number], number, best=True)
            self.cursor.note(note.marking((self.cursor.best | set(add)), []))
        return self._best <= self.cursor.best

    def _mark(self, runs: Runs, run_id: str, number: int, best: bool) -> None:
        try:
            if best:
                runs.set_tags(run_id, {BEST: "true"})
            else:
                runs.remove_tag(run_id, BEST)
            runs.rename(run_id, run_name(number, best=best))
        except Refused as error:
            self._complain(f"trial {number}: its mark as the best is refused by MLflow ({error})")

    def _run_id(self, number: int) -> str | None:
        trial = self.cursor.trials.get(number)
        return trial.run_id if trial is not None else self.cursor.finished.get(number)

    def _end_parent(self, runs: Runs, parent: str) -> None:
        if self._end is None or self._end[0] == self.cursor.study_state:
            return
        state, at = self._end
        runs.set_tags(parent, {STATE: state})
        runs.end(parent, STUDY_STATUS[state], milliseconds(at))
        if self._parent_doubtful and self.where is not None:
            remove_doubles(runs, parent, self.where.experiment_id, {UID: self.study.uid, KIND: "study"})
        self.cursor.note({"event": "study_state", "state": state})

    def _complain(self, text: str) -> None:
        text = clean(text)
        if text not in self.problems:
            log.warning("MLflow: %s", text)
            self.problems[text] = None


def _number(run: Found) -> int:
    """Which trial a run is of; -1 if its tag was changed to something else."""
    text = run.tags.get(TRIAL, "")
    return int(text) if text.isascii() and text.isdigit() else -1


def _retold(trial: Trial, folder: Path) -> list[Record]:
    """The events of a trial of which MLflow has nothing yet, from those of one that was partly there."""
    events = [note.create(trial.number, trial.created_at, trial.params, trial.tags)]
    events += [note.follow(trial.number, run, place, folder) for run, place in trial.runs.items()]
    return events + ([trial.ended] if trial.ended is not None else [])


def waiting_time(failures: int, longest: float = LONGEST_WAIT) -> float:
    """Seconds until the next try: doubling from half a second, a quarter more or less so that many drivers
    do not come back to a server at the same moment."""
    return min(longest, 0.5 * 2.0 ** min(failures - 1, 16)) * random.uniform(0.75, 1.25)
