"""A study: its run, its trials and the marks of the best are made to agree with the study's folder. No threads in here.

The delivery log says what MLflow has, and is believed as long as the study's run is there, in the same SQLite file.
When it is not (the log is new or was lost, a person deleted the run, a file was moved away or an older one put back),
what is there is looked for by the study's uid: the trials' runs that are found go on to be theirs, under the study's
run, which is created anew if need be; whatever else had arrived is sent again from the trials' folders. A trial's run
that a person deleted alone stays deleted.
"""

import contextlib
import logging
import math
import random
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from trialfleet.tracking import delivery_log, views
from trialfleet.tracking.dedup import milliseconds
from trialfleet.tracking.delivery_log import DeliveryLog, StudyDelivery
from trialfleet.tracking.mlflow_runs import Away, Damaged, Found, Refused, Runs, TrackingError, Unusable, clean
from trialfleet.tracking.study_files import StudyFiles
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
from trialfleet.tracking.trial_snapshot import TrialSnapshot

log = logging.getLogger(__name__)

StudyState = Literal["COMPLETE", "STOPPED", "FAIL"]
STUDY_STATUS = {"COMPLETE": "FINISHED", "STOPPED": "KILLED", "FAIL": "FAILED"}
OBJECTIVE, DIRECTION, DESCRIPTION = "trialfleet.objective", "trialfleet.direction", "mlflow.note.content"
STUDYS_OWN = -1  # stands for the study's run among the numbers of trials
LONGEST_WAIT = 30.0  # seconds between two tries


@dataclass(frozen=True)
class ExportedStudy:
    """What the study is.

    Attributes:
        name: the study's name, for people.
        uid: what its runs in MLflow are found by; letters, digits and dashes only.
        objectives: metric → 'minimize' or 'maximize'.
        tags: for every run: code version, user, …
        params: of the study's own run.
        own_tags: of the study's own run, besides.
        single: one run that belongs to no study; it is trial 0, and there is no run above it.
    """

    name: str
    uid: str
    objectives: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    own_tags: Mapping[str, str] = field(default_factory=dict)
    single: bool = False

    def common_tags(self) -> dict[str, str]:
        tags = {**self.tags, UID: self.uid}
        return tags if self.single else {**tags, STUDY: self.name}

    def parent_tags(self) -> dict[str, str]:
        aim = {OBJECTIVE: ",".join(self.objectives), DIRECTION: ",".join(self.objectives.values())}
        return {**self.common_tags(), **self.own_tags, KIND: "study", **aim}


@dataclass(frozen=True)
class StudyStatus:
    """How the study stands, which is in no trial's folder.

    Attributes:
        best: the best trials (several with several objectives); None if that was not said yet.
        description: the text at the top of the study's page in MLflow, in Markdown; None if that was not said yet.
        state: how the driver left the study; None while it works.
        ended_at: Unix seconds.
        report: files and folders for people who look at the study's run, the one that is written last at first.
    """

    best: Collection[int] | None = None
    description: str | None = None
    state: StudyState | None = None
    ended_at: float = 0.0
    report: Sequence[Path] = ()


class StudyExport:
    """Makes MLflow agree with a study's folder; `round` does all there is to do, in the caller's thread.

    Args:
        delivered: what was sent before.
        study: what it is.
        read: reads a trial's folder; its arguments are the trial's number, and whether its result is accepted.
        connect: makes a client; may take seconds and raise TrackingError.
        run_is_there: whether the study's run is where the log says, as far as can be told without a client.
        curves: the file with the study's own curves; None if there are none.
        pause: called between trials with the seconds that the last one took: others may go first.
        longest: seconds after which a round leaves the rest to the next.

    Attributes:
        cut_short: whether the last round left something to the next.
        problems: what the user should know, in order, each once.
        waiting: trials that are tried again later, and why.
    """

    def __init__(
        self,
        delivered: DeliveryLog,
        study: ExportedStudy,
        read: Callable[[int, bool], TrialSnapshot | None],
        connect: Callable[[], Runs],
        run_is_there: Callable[[str, str | None], bool] = lambda _run_id, _database: True,
        curves: Path | None = None,
        pause: Callable[[float], None] = lambda _seconds: None,
        longest: float = math.inf,
    ) -> None:
        self.delivered = delivered
        self.study = study
        self.cut_short = False
        self.problems: dict[str, None] = {}
        self.waiting: dict[int, str] = {}
        self._files = StudyFiles(delivered, curves, self._complain)
        self._read = read
        self._connect = connect
        self._run_is_there = run_is_there
        self._pause, self._longest = pause, longest
        self._runs: Runs | None = None
        self._place: Place | None = None
        self._looked = False  # whether the study's run was verified to be where the log says
        self._status = StudyStatus()
        if delivered.damage is not None:
            self._complain(delivered.damage)
        self._trials: dict[int, TrialExport] = {}  # those not completely in MLflow
        self._columns = dict.fromkeys(delivered.study.columns)
        self._parent_asked = False
        self._parent_doubtful = False  # a request without an answer may bring another one into being

    def changed(self, number: int, ended: bool = False, retried: str = "") -> None:
        """The trial's folder is to be read again, see `Exporter.changed`."""
        if number in self.delivered.finished:
            if not self.study.single:
                return
            self._reopen_single_run(number)
        trial = self._trials.get(number) or self._trial_export(number)
        trial.changed, trial.ended, trial.retried = True, trial.ended or ended, retried or trial.retried

    def set_status(self, status: StudyStatus) -> None:
        """This is how the study stands."""
        if status is not self._status and status.state is not None:
            self._looked = False  # the last chance to see what a person deleted
        self._status = status

    def hurry(self) -> None:
        """Try at the next round what rests after an error."""
        for trial in self._trials.values():
            trial.not_before = 0.0

    def round(self) -> bool:
        """Send what there is.

        Returns:
            whether nothing is left for now. A folder that cannot be read is left for later.

        Raises:
            Away: the server cannot be reached; call again later. Trouble with one trial only delays that trial.
        """
        self.cut_short = False
        if self._runs is not None and not self._runs.is_current():
            self._disconnect()
            self._looked = False
        for trial in self._trials.values():  # before the study's run is created: it starts with its first trial
            self._look_at(trial)
        if not self._anything_to_do():
            return self._looked or self._look()
        try:
            runs, place = self._settled()
            nothing_left = self._sync_trials(runs, place)
            return self._sync_study(runs, place.parent) and nothing_left
        except StudyGone as error:
            log.info("MLflow: the study's runs are looked for anew: %s", error)
            self._place = None
            return False
        except Unusable:
            self._disconnect()
            raise

    # ---------------------------------------------------------------- trials

    def _trial_export(self, number: int, ended: bool = False) -> TrialExport:
        """Begin with a trial, or begin anew from what the log says."""
        before = self._trials.get(number)
        trial = TrialExport(number, partial(self._read, number), self.delivered, self._complain)
        if before is not None:
            ended, trial.retried = before.ended, before.retried
        trial.ended = ended
        self._trials[number] = trial
        return trial

    def _look_at(self, trial: TrialExport) -> None:
        trial.look()
        if trial.unreadable:
            self.waiting[trial.number] = trial.unreadable
        if trial.snapshot is not None:
            self._columns.update(dict.fromkeys(trial.snapshot.params))

    def _sync_trials(self, runs: Runs, place: Place) -> bool:
        """First those that have ended, since nothing more comes of them, but for the one that has waited longest.

        Returns:
            whether nothing is left for now.
        """
        begun = now = time.monotonic()
        nothing_left = True
        in_turn = sorted(self._trials.values(), key=lambda trial: trial.synced_at)
        for trial in [*in_turn[:1], *sorted(in_turn[1:], key=lambda trial: not trial.ended)]:
            if now - begun > self._longest:
                self.cut_short = True
                return False
            nothing_left &= self._sync(trial, runs, place)
            self._pause(time.monotonic() - now)
            now = trial.synced_at = time.monotonic()
        return nothing_left

    def _sync(self, trial: TrialExport, runs: Runs, place: Place) -> bool:
        if trial.not_before > time.monotonic():
            return False
        self._look_at(trial)  # it may be one that was found to be lost just now
        try:
            idle = trial.sync(runs, place)
        except (Away, StudyGone):
            raise
        except (TrackingError, OSError) as error:
            trial.failures += 1
            trial.not_before = time.monotonic() + waiting_time(trial.failures)
            self.waiting[trial.number] = f"trial {trial.number} waits: {error}"
            return False
        trial.failures = 0
        if not trial.unreadable:
            self.waiting.pop(trial.number, None)
        if trial.number in self.delivered.finished:
            del self._trials[trial.number]
        return idle

    def _reopen_single_run(self, number: int) -> None:
        """A training that is taken up again goes on in its run."""
        run_id, now = self.delivered.finished[number], time.time()
        events = delivery_log.create(number, now), delivery_log.created(number, run_id, now, unlisted=True)
        self.delivered.note(*events)

    # ---------------------------------------------------------------- what MLflow has

    def _anything_to_do(self) -> bool:
        status, sent = self._status, self.delivered.study
        marks = status.best is not None and (set(status.best) != set(sent.best) or sent.maybe_best)
        ended = status.state is not None and status.state != sent.state
        return bool(self._trials or marks or ended or self._new_tags() or self._files.are_new(status.report))

    def connect(self) -> Runs:
        """Connect to MLflow, if that was not done.

        Raises:
            Away: the server cannot be reached; call again later.
        """
        if self._runs is None:
            self._runs = self._connect()
        return self._runs

    def _settled(self) -> tuple[Runs, Place]:
        runs = self.connect()
        if self._place is None:
            self._place = self._settle(runs)
            self._looked = True
        return runs, self._place

    def _look(self) -> bool:
        """There is nothing to send. Still, a person may have deleted the study's run since it was last looked at."""
        sent = self.delivered.study
        if sent.run_id is not None and not self._run_is_there(sent.run_id, sent.database):
            self._place = None
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
        self._runs = self._place = None

    def _settle(self, runs: Runs) -> Place:
        """Find or make the experiment and the study's run, and see whether the log is right about them."""
        experiment_id = runs.experiment()
        listing = None
        if self.study.single:
            self._start_over_if_gone(runs)
        elif not self._is_known(runs):
            listing = self._list_runs(runs, experiment_id)
        parent = self.delivered.study.run_id
        if parent is not None:
            with contextlib.suppress(Refused):
                runs.set_tags(parent, self.study.parent_tags())
        return Place(experiment_id, parent, self.study.name, self.study.common_tags(), listing)

    def _start_over_if_gone(self, runs: Runs) -> None:
        """A single run that MLflow has no more is created again."""
        for trial in list(self.delivered.trials.values()):
            if trial.run_id is not None and not runs.is_active(trial.run_id):
                self.delivered.note(delivery_log.lost([trial.number]))
                self._trial_export(trial.number)

    def _is_known(self, runs: Runs) -> bool:
        """Whether the study's run is where the log says, and not that of the study this one is a copy of."""
        sent = self.delivered.study
        same_file = sent.database in (None, runs.database)
        return sent.run_id is not None and same_file and runs.is_active(sent.run_id, self.study.uid)

    def _list_runs(self, runs: Runs, experiment_id: str) -> dict[int, Found]:
        """Agree with MLflow on what is there. It is noted at the end: until then it is done again from the start."""
        listing = self._listing(runs, experiment_id)
        parent, state = self._parent(runs, experiment_id, [run.start / 1000 for run in listing.values()])
        for run in listing.values():
            if run.tags.get(PARENT) != parent:
                runs.set_tags(run.run_id, {PARENT: parent})
        there = {n: run.run_id for n, run in listing.items() if run.status != "RUNNING" and STATE in run.tags}
        finished = self.delivered.finished
        lost = [n for n in finished if n not in there and not self._deleted_alone(runs, n, parent, listing)]
        void = [n for n in self.delivered.trials if n not in there and self._is_void(n, runs, listing)]
        marked = [n for n, run in listing.items() if BEST in run.tags]
        self.delivered.note(
            delivery_log.lost([*lost, *void]),
            *[delivery_log.done(number, run_id) for number, run_id in there.items()],
            # last: without it, all is done again
            delivery_log.study(StudyDelivery(experiment_id, parent, runs.database, state, maybe_best=marked)),
        )
        for number in there.keys() & self._trials.keys():
            del self._trials[number]
        for number in [*lost, *void]:
            self._trial_export(number, ended=number in lost)
        if lost:
            log.warning("MLflow has lost %d of this study's trials: they are sent there anew", len(lost))
        return listing

    def _parent(self, runs: Runs, experiment_id: str, starts: Iterable[float]) -> tuple[str, str | None]:
        """Adopt or create the study's run; how the study ended, by what an adopted one says."""
        found = runs.find(experiment_id, {UID: self.study.uid, KIND: "study"})
        state = None
        if found:
            run_id = found[0].run_id
            state = found[0].tags.get(STATE) if found[0].status != "RUNNING" else None
        else:
            begun = [trial.snapshot.started_at for trial in self._trials.values() if trial.snapshot is not None]
            self._parent_doubtful, self._parent_asked = self._parent_asked, True
            at = milliseconds(min([time.time(), *starts, *begun]))
            run_id = runs.create(experiment_id, at, self.study.name, self.study.parent_tags())
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

    def _deleted_alone(self, runs: Runs, number: int, parent: str, listing: Mapping[int, Found]) -> bool:
        """Whether a person deleted this trial's run and not the study's, to see it no more."""
        same_parent = parent == self.delivered.study.run_id
        return same_parent and number not in listing and runs.exists(self.delivered.finished[number])

    def _is_void(self, number: int, runs: Runs, listing: Mapping[int, Found]) -> bool:
        """Whether what the log says of an unfinished trial's run no longer holds."""
        run_id, found = self.delivered.trials[number].run_id, listing.get(number)
        same_file = self.delivered.study.database in (None, runs.database)
        return run_id is not None and (found is None or found.run_id != run_id or not same_file)

    # ---------------------------------------------------------------- the study's own run

    def _sync_study(self, runs: Runs, parent: str | None) -> bool:
        if parent is None:  # a single run is nobody's best
            return True
        try:
            self._reopen(runs, parent)
            complete = self._move_marks(runs)
            self._show(runs, parent)
            complete &= self._files.send(runs, parent, self._status.report)
            if tags := self._new_tags():
                runs.set_tags(parent, tags)
                self.delivered.note_study(tags={**self.delivered.study.tags, **tags})
            self._end(runs, parent)
        except Away:
            raise
        except (TrackingError, OSError) as error:
            if isinstance(error, Refused) and not runs.is_active(parent):
                raise StudyGone(str(error)) from error
            self.waiting[STUDYS_OWN] = f"the study's run waits: {error}"
            return False
        self.waiting.pop(STUDYS_OWN, None)
        return complete

    def _new_tags(self) -> dict[str, str]:
        text = self._described()
        return {} if text is None or text == self.delivered.study.tags.get(DESCRIPTION) else {DESCRIPTION: text}

    def _described(self) -> str | None:
        """The description below links to what MLflow has of the study; these need runs that are there."""
        text, sent = self._status.description, self.delivered.study
        if text is None or sent.experiment_id is None or sent.run_id is None:
            return text
        page = views.Page(self.study.name, self.study.uid, sent.experiment_id, sent.run_id, self.study.objectives)
        best = {number: run_id for number in sorted(sent.best) if (run_id := self._run_id(number)) is not None}
        return f"{views.link_line(page, bool(sent.columns), bool(sent.report), best)}\n\n{text}"

    def _reopen(self, runs: Runs, parent: str) -> None:
        """The study had ended, and there are trials again."""
        if self.delivered.study.state is not None and self._status.state is None and self._trials:
            runs.reopen(parent)
            runs.remove_tag(parent, STATE)
            self.delivered.note_study(state=None)

    def _show(self, runs: Runs, parent: str) -> None:
        """Give the study a saved view with the parameters that its trials have, as they become known."""
        columns, experiment_id = list(self._columns), self.delivered.study.experiment_id
        if columns == list(self.delivered.study.columns) or experiment_id is None:
            return
        page = views.Page(self.study.name, self.study.uid, experiment_id, parent, self.study.objectives)
        value = views.view(page, columns, int(time.time() * 1000))
        try:
            runs.set_experiment_tag(experiment_id, views.tag_name(self.study.uid), value)
        except Refused as error:
            log.info("MLflow refuses the study's saved view: %s", error)
        self.delivered.note_study(columns=columns)

    def _move_marks(self, runs: Runs) -> bool:
        """Move the mark of the best: noted before, so that a mark is never left behind."""
        if self._status.best is None:
            return True
        wanted, marked = set(self._status.best), set(self.delivered.study.best)
        held = marked.union(self.delivered.study.maybe_best)
        known = {n: run_id for n in wanted | held if (run_id := self._run_id(n)) is not None}
        add, remove = (wanted - marked) & known.keys(), (held - wanted) & known.keys()
        if add or remove:
            self.delivered.note_study(best=sorted(marked - remove), maybe_best=sorted(add | remove))
            for number in sorted(remove) + sorted(add):  # never more marks than there should be
                self._mark(runs, known[number], number, best=number in add)
            self.delivered.note_study(best=sorted(marked - remove | add), maybe_best=[])
        # Of one that cannot be read nobody knows when it will be: it is marked then, and not waited for.
        unreadable = {number for number, trial in self._trials.items() if trial.unreadable}
        return wanted - unreadable <= set(self.delivered.study.best)

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
        trial = self.delivered.trials.get(number)
        return trial.run_id if trial is not None else self.delivered.finished.get(number)

    def _end(self, runs: Runs, parent: str) -> None:
        state = self._status.state
        if state is None or state == self.delivered.study.state:
            return
        runs.set_tags(parent, {STATE: state})
        runs.end(parent, STUDY_STATUS[state], milliseconds(self._status.ended_at))
        if self._parent_doubtful and self._place is not None:
            remove_doubles(runs, parent, self._place.experiment_id, {UID: self.study.uid, KIND: "study"})
        self.delivered.note_study(state=state)

    def _complain(self, text: str) -> None:
        text = clean(text)
        if text not in self.problems:
            log.warning("MLflow: %s", text)
            self.problems[text] = None


def _number(run: Found) -> int:
    """Which trial a run is of; -1 if its tag was changed to something else."""
    text = run.tags.get(TRIAL, "")
    return int(text) if text.isascii() and text.isdigit() else -1


def waiting_time(failures: int, longest: float = LONGEST_WAIT) -> float:
    """Seconds until the next try: doubling from half a second, a quarter more or less so that many drivers
    do not come back to a server at the same moment."""
    return min(longest, 0.5 * 2.0 ** min(failures - 1, 16)) * random.uniform(0.75, 1.25)
