"""What people ask of the driver, in files that it reads at each turn (`study.requests`): it acts, and answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trialfleet.errors import UserError
from trialfleet.sweep.active_trial import ActiveTrial
from trialfleet.sweep.forced_ends import ForcedEnds
from trialfleet.sweep.stopping import Jobs
from trialfleet.sweep.study import requests
from trialfleet.sweep.study.proposer import AskedPoint, Proposer
from trialfleet.sweep.study.requests import CANCEL, ENQUEUE, RETRY, STOP, Answer, Request
from trialfleet.sweep.study.storage import OWNER, StudyStorage
from trialfleet.sweep.study_folder import StudyFolder
from trialfleet.trial import records
from trialfleet.trial.records import Damaged

_JOBS = {"finish": Jobs.FINISH, "cancel": Jobs.CANCEL, "leave": Jobs.LEAVE}


@dataclass
class Requests:
    """Takes requests, each once.

    Args:
        token: of this driver's lease; a stop that was meant for another one is none.
        active_trials: by number.
        room: how many more proposals of its own the study has; points that people name are among them.
        more: adds one to the trials that the study is to have.
        stop: asks the driver to stop: reason, and what becomes of jobs.
        notice: tells the user something.
    """

    study: StudyFolder
    token: str
    store: StudyStorage
    proposer: Proposer
    ends: ForcedEnds
    active_trials: Mapping[int, ActiveTrial]
    room: Callable[[], int]
    more: Callable[[], None]
    stop: Callable[[str, Jobs], None]
    notice: Callable[[str], None]
    _done: set[str] = field(default_factory=set)

    def take_up(self) -> None:
        """What earlier drivers accepted: what they did not get to is tried now, and trials of retries are expected."""
        for request in requests.accepted(self.study.folder, (RETRY, ENQUEUE)):
            self._done.add(request.id)
            if request.study in self.study.uids:
                try:
                    self._carry_out(request)
                except UserError as refusal:  # accepted with another search space
                    self.notice(f"{request.kind}, asked by {request.by}, is not tried any more: {refusal.message}")

    def take(self) -> None:
        """Act on what was asked since the last turn."""
        folder = self.study.folder
        for name in requests.names(folder):
            if name in self._done:
                continue
            try:
                request = requests.read(folder, name)
            except Damaged as damage:
                self.notice(f"{damage}: renamed to {records.set_aside(damage.path).name}")
                continue
            if (said := requests.answer_to(folder, name)) is None:
                said = self._answer(request)
                requests.answer(folder, name, said.accepted, said.said)
                self.notice(f"{request.kind}, asked by {request.by}: {said.said}")
            if said.accepted:
                self._carry_out(request)
            self._done.add(name)

    def _answer(self, request: Request) -> Answer:
        if request.study not in self.study.uids:
            return Answer(False, "it was asked of another study, whose folder this was")
        try:
            match request.kind:
                case kind if kind == STOP:
                    return self._stop(request)
                case kind if kind == CANCEL:
                    return self._cancel(request)
                case kind if kind == RETRY:
                    self.proposer.known(self._params(request), f"trial {request.trial}")
                    return Answer(True, f"the parameters of trial {request.trial} are tried again")
                case _:
                    return self._enqueue(request)
        except UserError as refusal:
            return Answer(False, refusal.message)

    def _stop(self, request: Request) -> Answer:
        if request.driver != self.token:
            return Answer(False, "the driver that was to stop is gone; this one goes on")
        jobs = _JOBS[str(request.jobs)]
        self.stop(f"stopped by {request.by}", jobs)
        becomes = {Jobs.FINISH: "waited for", Jobs.CANCEL: "cancelled", Jobs.LEAVE: "left alone"}[jobs]
        return Answer(True, f"no more trials are started; the {len(self.active_trials)} under way are {becomes}")

    def _cancel(self, request: Request) -> Answer:
        trial = self.active_trials.get(int(request.trial or 0))
        if trial is None:
            return Answer(False, f"trial {request.trial} is not under way")
        self.ends.cancel(trial, f"cancelled by {request.by}")
        self.ends.cancel_jobs([trial])
        return Answer(True, f"trial {trial.number} is cancelled")

    def _enqueue(self, request: Request) -> Answer:
        point = self.proposer.known(request.point or {}, "the point")
        if self.room() <= 0:
            return Answer(
                False, "all trials that the study is to have are begun: raise hydra.sweeper.n_trials, and ask again"
            )
        shown = ", ".join(f"{name}={value}" for name, value in point.items())
        return Answer(True, f"{shown} is tried next")

    def _carry_out(self, request: Request) -> None:
        if request.kind == RETRY:
            self.proposer.ask(AskedPoint(request.id, self._params(request), request.trial))
            self.more()
        elif request.kind == ENQUEUE:
            self.proposer.ask(AskedPoint(request.id, self.proposer.known(request.point or {}, "the point")))

    def _params(self, request: Request) -> Mapping[str, object]:
        """Of the trial that is to be tried again.

        Raises:
            UserError: there is none of this number that has ended.
        """
        trials, number = self.store.trials(), int(request.trial or 0)
        trial = trials[number] if 0 <= number < len(trials) else None
        if trial is None or not _is_ours(trial.user_attrs, self.study.uids):
            raise UserError(f"there is no trial {number} in this study")
        if not trial.state.is_finished():
            raise UserError(f"trial {number} is under way")
        return dict(trial.params)


def _is_ours(attributes: Mapping[str, object], uids: Sequence[str]) -> bool:
    return attributes.get(OWNER) in uids
