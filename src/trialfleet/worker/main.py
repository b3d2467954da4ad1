"""One run of a trial: claim it, run its task in its folder, commit how it ended. Then another one, if the job's terms
say so (`several_trials`).

Only the job's first process claims and commits; the others follow it. A signal sets a flag and nothing else: the
trainer sees it at a step, saves, and raises `Preempted`; then the job asks Slurm to be requeued, or leaves it to the
driver to start it again.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from trialfleet.trial import attached, commitment, records, run, transient
from trialfleet.trial.claim import Claim, NotClaimed
from trialfleet.trial.directory import TIME_LIMIT, TrialDir
from trialfleet.trial.failure import Cause, cause_of, end_of_trial
from trialfleet.trial.records import Damaged
from trialfleet.trial.result import Result, TrialState
from trialfleet.trial.submission import WARNING, Assignment, Submission, TrialRecord
from trialfleet.trial.sweep_run import FollowerRun, SweepRun
from trialfleet.trial.worker_terms import Terms
from trialfleet.worker import signals, system_metrics
from trialfleet.worker.job_environment import JobEnvironment
from trialfleet.worker.task import record_cause, record_why, run_task, say, show, task_of

FOLLOW_SECONDS = 120.0  # how long the other processes wait for the first one's claim
FIRST_SECONDS = 10.0  # how long another process that failed waits for the first one to say so
BEGIN_PATIENCE = 60.0  # seconds for which the beginning waits for a file system to come back
COMMIT_PATIENCE = commitment.PATIENCE  # seconds for which the end does: the work is done and must not be lost


def exit_code(submission_file: str) -> int:
    """What `main` returns, or 1 whatever it raises: the process must come to its end either way."""
    try:
        return main(submission_file)
    except BaseException:  # noqa: BLE001  # a process that waits for its threads is a job that never ends
        with contextlib.suppress(BaseException):
            traceback.print_exc()
        return 1


def main(submission_file: str) -> int:
    environment = JobEnvironment.read(dict(os.environ))
    try:
        submission = transient.patiently(lambda: Submission.read(Path(submission_file)), BEGIN_PATIENCE)
    except (Damaged, FileNotFoundError) as error:
        print(f"nothing is run: {error}")
        return 1
    assignment = submission.trials[environment.element]
    terms = Terms.taken_from(os.environ)
    if environment.rank > 0:
        return _follow(submission, assignment, TrialDir(Path(assignment.directory)), environment)
    if terms is not None:
        from trialfleet.worker.several_trials import SeveralTrials

        return SeveralTrials(submission, environment, terms, one_trial).run()
    return one_trial(submission, assignment, environment, signals.STARTED).code


@dataclass(frozen=True)
class Ended:
    """How a process's part in a trial ended.

    Attributes:
        code: for the process to end with.
        result: that the run brought; None if it brought none.
        as_intended: whether the trial has an end, so that the process is free for another one.
        known: signatures of what the run compiled.
    """

    code: int
    result: Result | None = None
    as_intended: bool = False
    known: frozenset[str] = frozenset()


def one_trial(
    submission: Submission,
    assignment: Assignment,
    environment: JobEnvironment,
    begun: float,
    imported: Callable[[], None] = lambda: None,
    among_others: bool = False,
) -> Ended:
    """Claim a trial, run it, and commit how it ended.

    Args:
        begun: when that began, on the monotonic clock.
        imported: called when the task is imported, before it runs.
        among_others: whether this process runs other trials, too.
    """
    trial = TrialDir(Path(assignment.directory))
    try:
        claim = transient.patiently(lambda: _claim(submission, assignment, trial, environment), BEGIN_PATIENCE)
    except NotClaimed as reason:
        print(f"trial {assignment.number}, attempt {assignment.attempt}: not run here: {reason}")
        return Ended(0, as_intended=trial.ended(submission.identity(assignment)))
    _redirect_output(trial.run_dir(claim.label) / "log")
    sweep_run = SweepRun(trial, claim, lambda: bool(signals.received), submission.look_every, among_others)
    try:
        with system_metrics.sampled(sweep_run.directory, system_metrics.asked()):
            outcome = run_task(submission, assignment, trial, claim, sweep_run, environment, begun, imported)
    except run.PeerLost as loss:
        show(loss)
        return Ended(1)  # srun ends what is left of the job, and the driver starts the next run
    except run.NotInThisProcess as reason:
        show(reason, "this run is taken back: the trial gets a process of its own")
        _take_back(trial.run_dir(claim.label))
        return Ended(0)
    finally:
        with contextlib.suppress(OSError):  # the task may have closed all files, those of others too
            sweep_run.close()
    if outcome is None:
        return Ended(_leave(trial, claim, environment))
    superseded = trial.superseded(claim)
    if superseded:
        say("a newer run of this trial exists, or its study was put aside: this result does not count")
    elif not commitment.commit(trial, outcome, claim.identity, say, lambda: bool(signals.received), COMMIT_PATIENCE):
        say("the trial had ended already: the result that is there counts")
    # The job's other processes must not wait for one that failed: srun ends them on a bad exit.
    code = 1 if outcome.state is TrialState.FAIL else 0
    signature = outcome.notes.get("signature")
    known = frozenset() if signature is None else frozenset([records.digest(signature)])
    return Ended(code, outcome, not superseded, known)


def _take_back(folder: Path) -> None:
    """This run was none."""
    attached.forget(folder)
    (folder / "claim").unlink()


def _claim(submission: Submission, assignment: Assignment, trial: TrialDir, environment: JobEnvironment) -> Claim:
    """Claim the trial that was submitted, if it is still the one in its folder.

    Raises:
        NotClaimed: another job's, over, or not the trial that this job was submitted for.
    """
    identity = submission.identity(assignment)
    with contextlib.suppress(Damaged):  # the driver writes it anew; what is to be run is in the submission
        record = TrialRecord.read(trial.trial_json)
        if record is None:  # or the study was put aside
            raise NotClaimed("trial.json is missing or empty: the driver writes it anew and submits again")
        if record.identity.params != identity.params:
            raise NotClaimed("trial.json has other parameters than the trial that this job was submitted for")
    return trial.claim(assignment.attempt, environment.job, environment.restart, identity)


def _follow(submission: Submission, assignment: Assignment, trial: TrialDir, environment: JobEnvironment) -> int:
    """Run along with the job's first process, which claims, reports and commits for all."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while True:
        own = [c for c in trial.claims() if c.job == environment.job and c.restart == environment.restart]
        if own:
            break
        if trial.result_json.exists() or time.monotonic() > deadline:
            print("the job's first process did not claim the trial: nothing to follow")
            return 0
        time.sleep(0.1)
    claim = own[-1]
    _redirect_output(trial.run_dir(claim.label) / f"log.{environment.rank}")
    follower = FollowerRun(trial, claim, lambda: bool(signals.received), submission.look_every)
    os.environ[attached.VARIABLE] = str(follower.directory)  # for processes that the task starts
    try:
        task_of(submission, assignment, claim.label, follower, environment)
    except (run.Pruned, run.Preempted):
        return 0
    except BaseException as failure:  # noqa: BLE001  # whatever it was, it ended this process's part
        show(failure)
        if cause_of(failure) not in (Cause.PEER_LOST, Cause.PRUNED):
            _commit_for_the_first(trial, claim, failure)
        return 1
    return 0


def _commit_for_the_first(trial: TrialDir, claim: Claim, failure: BaseException) -> None:
    """Commit a failure that perhaps only this process had: the first one may wait for us in a collective, for ever."""
    deadline = time.monotonic() + FIRST_SECONDS
    while time.monotonic() < deadline:
        if trial.result_json.exists():
            return
        time.sleep(0.1)
    if not trial.superseded(claim):
        outcome = end_of_trial(failure, claim.label, {"total": time.monotonic() - signals.STARTED}, {})
        if outcome is None:
            record_cause(trial, claim, failure)
        else:
            trial.commit(outcome, claim.identity)


def _leave(trial: TrialDir, claim: Claim, environment: JobEnvironment) -> int:
    """Saved and asked to go. On a time limit or a preemption notice Slurm can start the same job again.

    After a plain SIGTERM it cannot be told from a cancellation: leave, and the driver decides. A run that another
    has replaced must not requeue: its job may be the other's, too.
    """
    if trial.result_json.exists() or trial.superseded(claim):
        return 0
    if environment.slurm_id is None and signal.SIGUSR2 in signals.received:  # only a time limit sends it here
        record_why(trial, claim, TIME_LIMIT)
    if environment.slurm_id is not None and signal.SIGUSR2 in signals.received:
        if _time_is_up(environment.slurm_id):
            record_why(trial, claim, TIME_LIMIT)
        _, answer = _asked_slurm("scontrol", "requeue", environment.slurm_id)
        say(f"saved; asked Slurm to requeue job {environment.slurm_id}: {answer.strip() or 'done'}")
    return 0


def _time_is_up(job: str) -> bool:
    """Whether the warning was of the time limit, and not of a preemption. Slurm warns up to a minute too early."""
    answered, answer = _asked_slurm("squeue", "-h", "-r", "-j", job, "-O", "TimeLeft")
    days, _, clock = answer.strip().rpartition("-")
    parts = clock.split(":")
    if not answered or not all(part.isdigit() for part in parts):  # no answer, or no limit
        return False
    seconds = 86400 * int(days or 0)
    for place, part in zip((1, 60, 3600), reversed(parts), strict=False):
        seconds += place * int(part)
    return seconds <= float(os.environ.get(WARNING, 0)) + 75.0


def _asked_slurm(*command: str) -> tuple[bool, str]:
    """Whether one of Slurm's commands succeeded, and its answer or complaint. A node may have none of them."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return False, str(error)
    succeeded = done.returncode == 0
    return succeeded, done.stdout if succeeded else done.stderr


def _redirect_output(path: Path) -> None:
    """Send stdout and stderr into the run's folder: the jobs of an array share the launcher's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
