"""A run's task: Hydra's job in the run's folder, and what its end means for the trial."""

import contextlib
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialfleet.trial import attached, records, run, secrets, transient
from trialfleet.trial.claim import Claim
from trialfleet.trial.directory import TIME_LIMIT, TrialDir
from trialfleet.trial.failure import COMMENTS, Cause, cause_of, end_of_trial, write_cause, write_reason
from trialfleet.trial.result import Result, judged, spent
from trialfleet.trial.submission import Assignment, Submission
from trialfleet.trial.sweep_run import PREEMPTED, SweepRun, merged
from trialfleet.worker import signals
from trialfleet.worker.job_environment import JobEnvironment

if TYPE_CHECKING:
    from omegaconf import DictConfig

WORD_PATIENCE = 60.0  # seconds for which the last word waits for a file system to come back


def run_task(
    submission: Submission,
    assignment: Assignment,
    trial: TrialDir,
    claim: Claim,
    sweep_run: SweepRun,
    environment: JobEnvironment,
    begun: float,
    imported: Callable[[], None] = lambda: None,
) -> Result | None:
    """Run the task; how it ended, or None if it ended before its end and another run is to go on.

    Args:
        begun: when the run began, on the monotonic clock.
        imported: called when the task is there, before it runs.

    Raises:
        PeerLost: another process of the job is gone.
        NotInThisProcess: the trial needs a process that has run no other.
    """
    value: Any = None
    failure: BaseException | None = None
    os.environ[attached.VARIABLE] = str(sweep_run.directory)  # for processes that the task starts
    signals.marker[:] = [str(sweep_run.directory / PREEMPTED)]
    try:
        value = task_of(submission, assignment, claim.label, sweep_run, environment, imported)
    except (run.PeerLost, run.NotInThisProcess):
        raise
    except BaseException as raised:  # noqa: BLE001  # whatever it was, it ended the run
        failure = raised
    failure = attached.as_told(sweep_run.directory, failure)
    if failure is not None:
        if _goes_on(failure, trial, claim):
            return None
        if cause_of(failure) is Cause.TRIAL:
            show(failure)
        return end_of_trial(failure, claim.label, *_parts_of(sweep_run, begun))
    state, objectives, error = judged(value, submission.n_objectives)
    seconds, notes = _parts_of(sweep_run, begun)
    return Result(state, objectives, error, seconds, claim.label, notes)


def _parts_of(sweep_run: SweepRun, begun: float) -> tuple[dict[str, float], dict[str, Any]]:
    """Where the run's time went, and what else it and the processes that it started noted."""
    noted = records.plain(merged(attached.notes_of(sweep_run.directory), sweep_run.notes))
    return spent(noted.pop("seconds", None), time.monotonic() - begun), noted


def _goes_on(failure: BaseException, trial: TrialDir, claim: Claim) -> bool:
    """Whether another run goes on, since the trial is not to blame for its end; the log and a record say why."""
    if isinstance(failure, KeyboardInterrupt) and _local_time_is_up():
        show(failure, "the job's time limit is reached")
        record_why(trial, claim, TIME_LIMIT)
        return True
    cause = cause_of(failure)
    if cause in COMMENTS:
        show(failure, COMMENTS[cause])
    record_cause(trial, claim, failure)
    return cause not in (Cause.TRIAL, Cause.PRUNED)


def record_why(trial: TrialDir, claim: Claim, name: str) -> None:
    """Tell the driver why this run ends without a result."""
    if not trial.superseded(claim):  # where the study was put aside there is no such folder, and there shall be none
        write_reason(trial, claim.label, name)


def record_cause(trial: TrialDir, claim: Claim, failure: BaseException) -> None:
    """The same of a run that memory, a disk or a file system ended, if there is one that takes the word."""

    def leave() -> None:
        if not trial.superseded(claim):
            write_cause(trial, claim.label, failure)

    try:
        transient.patiently(leave, WORD_PATIENCE, lambda: bool(signals.received))
    except OSError as error:  # without a word it is a run that was lost
        show(error, "the driver is not told")


def show(failure: BaseException, comment: str = "") -> None:
    with contextlib.suppress(BaseException):  # the log's disk may be full, the task may have replaced what prints
        traceback.print_exception(failure)
    if comment:
        say(comment)


def say(message: str) -> None:
    """Into the log, if the disk and the task have left one: no word is worth a result."""
    with contextlib.suppress(BaseException):
        print(message)


def task_of(
    submission: Submission,
    assignment: Assignment,
    label: str,
    own_run: run.Run,
    environment: JobEnvironment,
    imported: Callable[[], None] = lambda: None,
) -> Any:
    """Compose the trial's config and run the task function as Hydra does, callbacks included.

    Args:
        imported: called when the task's modules are imported, before anything of this trial is set.
    """
    from hydra.core.utils import JobStatus, run_job
    from omegaconf import open_dict

    from trialfleet.compat.hydra import failure_of

    with open(submission.payload, "rb") as file:
        payload = pickle.load(file)
    task_function = payload["task_function"]
    if task_function is None:  # of a script
        with open(Path(submission.payload).with_name(payload["task_file"]), "rb") as file:
            task_function = pickle.load(file)
    imported()
    config = _composed(submission, assignment, label, payload, among_others=getattr(own_run, "among_others", False))
    secrets.mask(config)  # a config file may hold what was taken out of the payload
    with open_dict(config.hydra.job):
        config.hydra.job.id = environment.slurm_id or str(os.getpid())
        config.hydra.job.num = assignment.number
    with run.entered(own_run):
        finished = run_job(
            hydra_context=payload["hydra_context"],
            task_function=task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    if finished.status is not JobStatus.COMPLETED:
        raise failure_of(finished)
    return finished.return_value


def compose_ahead(submission_file: str) -> None:
    """Read and merge a job's config files in this process, for the jobs that it becomes by forks.

    Raises:
        pickle.UnpicklingError: that takes a module that was not imported, the application's, say.
    """
    submission = Submission.read(Path(submission_file))
    with open(submission.payload, "rb") as file:
        payload = _OfImportedModules(file).load()
    _composed(submission, submission.trials[0], "1.0", payload, among_others=True)


class _OfImportedModules(pickle.Unpickler):
    """Imports nothing."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if module_name not in sys.modules:
            raise pickle.UnpicklingError(f"{module_name} is not imported")
        return super().find_class(module_name, global_name)


def _composed(
    submission: Submission, assignment: Assignment, label: str, payload: dict[str, Any], among_others: bool
) -> "DictConfig":
    """A trial's config, as Hydra composes that of a sweep's job."""
    from hydra.core.utils import setup_globals

    from trialfleet.compat.hydra import is_remembered, look_elsewhere, remembered_loader, set_singletons

    subdir = Path(assignment.directory).relative_to(submission.sweep_dir) / "runs" / label
    set_singletons(payload["singletons"])
    setup_globals()
    before, now = payload.get("study"), str(Path(submission.payload).parents[1])
    loader = payload["hydra_context"].config_loader
    if before is not None and before != now:  # the study was moved, with its copy of the configs
        look_elsewhere(loader, before, now)
    if among_others or is_remembered(submission.payload):
        loader = remembered_loader(loader, submission.payload)
    config: DictConfig = loader.load_sweep_config(
        payload["config"], [*assignment.overrides, f"hydra.sweep.subdir={subdir}"]
    )
    return config


def _local_time_is_up() -> bool:
    """Whether submitit's local controller, which sends SIGINT at the time limit, has reason to."""
    limit = os.environ.get("SUBMITIT_LOCAL_TIMEOUT_S")
    return limit is not None and time.monotonic() - signals.STARTED >= float(limit) - 5.0
