"""What a job runs: claim the trial, run Hydra's job in its directory, commit how it ended.

    python -m jobs.worker SUBMISSION.json

The launcher's script starts it once for each task of the job. Only the job's first process claims and
commits; the others follow it. A signal sets a flag and nothing else: the trainer sees it at a step, saves,
and raises `Preempted`; then the job asks Slurm to be requeued, or leaves it to the driver to start it again.
"""

import contextlib
import errno
import os
import signal
import sys
import time
from types import FrameType

_STARTED = time.time()
_signals: list[int] = []


def _flag(number: int, frame: FrameType | None) -> None:
    _signals.append(number)


def install_handlers() -> None:
    """First of all, before the slow imports: a signal that comes during them must not kill the job."""
    signal.signal(signal.SIGTERM, _flag)
    signal.signal(signal.SIGUSR2, _flag)
    signal.signal(signal.SIGCONT, lambda number, frame: None)  # Slurm sends it along with the others


if __name__ == "__main__":
    install_handlers()

import pickle  # noqa: E402  # after the handlers, see above
import subprocess  # noqa: E402
import traceback  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from trialfleet.tracking import records, run, secrets  # noqa: E402
from trialfleet.tracking.processes import Process  # noqa: E402
from trialfleet.tracking.submission import WARNING, Assignment, Submission, TrialRecord  # noqa: E402
from trialfleet.tracking.sweep_run import FollowerRun, SweepRun  # noqa: E402
from trialfleet.tracking.trial_dir import (  # noqa: E402
    TIME_LIMIT,
    Claim,
    NotClaimed,
    Result,
    TrialDir,
    TrialState,
    described,
    judged,
)

FOLLOW_SECONDS = 120.0  # how long the other processes wait for the first one's claim
FIRST_SECONDS = 10.0  # how long another process that failed waits for the first one to say so
FULL_DISK_SECONDS = 5.0  # between two tries to commit to a full disk


@dataclass(frozen=True)
class JobEnvironment:
    """Who this process is to its launcher."""

    job: str  # the same for all restarts of a Slurm job, unique to the process on a laptop
    restart: int
    element: int  # of the submission
    rank: int
    slurm_id: str | None

    @classmethod
    def read(cls, environ: dict[str, str]) -> "JobEnvironment":
        if "SLURM_JOB_ID" not in environ or environ.get("SUBMITIT_EXECUTOR") != "slurm":
            own = Process.own()
            rank = int(environ.get("SUBMITIT_LOCAL_GLOBALID", 0))
            name = f"local:{own.host}:{own.boot_id}:{own.pid}:{own.start_time}"
            return cls(name, 0, int(environ["TRIALFLEET_ELEMENT"]), rank, None)
        element = environ.get("SLURM_ARRAY_TASK_ID")
        job = environ["SLURM_JOB_ID"] if element is None else f"{environ['SLURM_ARRAY_JOB_ID']}_{element}"
        return cls(
            f"slurm:{job}",
            int(environ.get("SLURM_RESTART_COUNT", 0)),
            int(element or 0),
            int(environ.get("SLURM_PROCID", 0)),
            job,
        )


def main(submission_file: str) -> int:
    submission = Submission.read(Path(submission_file))
    environment = JobEnvironment.read(dict(os.environ))
    assignment = submission.trials[environment.element]
    trial = TrialDir(Path(assignment.directory))
    if environment.rank > 0:
        return _follow(submission, assignment, trial, environment)
    try:
        if TrialRecord.read(trial.trial_json) is None:
            raise NotClaimed("a power cut left nothing of trial.json: the driver writes it anew and submits again")
        claim = trial.claim(assignment.attempt, environment.job, environment.restart)
    except NotClaimed as reason:
        print(f"trial {assignment.number}, attempt {assignment.attempt}: not run here: {reason}")
        return 0
    _redirect_output(trial.run_dir(claim.label) / "log")
    sweep_run = SweepRun(trial, claim, lambda: bool(_signals), submission.look_every)
    try:
        outcome = _run(submission, assignment, trial, claim, sweep_run, environment)
    except run.PeerLost as loss:
        traceback.print_exception(loss)
        return 1  # srun ends what is left of the job, and the driver starts the next run
    finally:
        sweep_run.close()
    if outcome is None:
        return _leave(trial, claim, environment)
    if trial.superseded(claim):
        print("a newer run of this trial exists: its result counts, not ours")
    elif not _commit(trial, outcome):
        print("the trial had ended already: the result that is there counts")
    # The job's other processes must not wait for one that failed: srun ends them on a bad exit.
    return 1 if outcome.state is TrialState.FAIL else 0


def _run(
    submission: Submission,
    assignment: Assignment,
    trial: TrialDir,
    claim: Claim,
    sweep_run: SweepRun,
    environment: JobEnvironment,
) -> Result | None:
    """Run the task; how it ended, or None if it ended before its end and another run is to go on.

    Raises:
        PeerLost: another process of the job is gone.
    """
    try:
        value = _task(submission, assignment, claim.label, sweep_run, environment)
        state, objectives, error = judged(value, submission.n_objectives)
    except run.Preempted:
        return None
    except run.PeerLost:
        raise
    except (Exception, SystemExit, KeyboardInterrupt) as failure:  # noqa: BLE001  # whatever it was, it ended the trial
        if run.is_pruned(failure):
            state, objectives, error = TrialState.PRUNED, None, None
        elif _disk_is_full(failure):
            with contextlib.suppress(OSError):  # the log is on that disk, too
                traceback.print_exception(failure)
                print("the disk is full: that is not the trial's fault, it goes on once there is room")
            return None
        else:
            traceback.print_exception(failure)
            state, objectives, error = TrialState.FAIL, None, described(failure)
    seconds = {"total": time.time() - _STARTED, **sweep_run.notes.pop("seconds", {})}
    return Result(state, objectives, error, seconds, claim.label, sweep_run.notes)


def _task(
    submission: Submission, assignment: Assignment, label: str, own_run: run.Run, environment: JobEnvironment
) -> Any:
    """Compose the trial's config and run the task function as Hydra does, callbacks included."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    with open(submission.payload, "rb") as file:
        payload = pickle.load(file)
    record = TrialRecord.read(Path(assignment.directory) / "trial.json")
    assert record is not None, "trial.json is written before anything is submitted"
    subdir = Path(assignment.directory).relative_to(submission.sweep_dir) / "runs" / label
    Singleton.set_state(payload["singletons"])
    setup_globals()
    overrides = [*record.overrides, f"hydra.sweep.subdir={subdir}"]
    config = payload["hydra_context"].config_loader.load_sweep_config(payload["config"], overrides)
    secrets.mask(config)  # a config file may hold what was taken out of the payload
    with open_dict(config.hydra.job):
        config.hydra.job.id = environment.slurm_id or str(os.getpid())
        config.hydra.job.num = assignment.number
    with run.entered(own_run):
        finished = run_job(
            hydra_context=payload["hydra_context"],
            task_function=payload["task_function"],
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
    return finished.return_value  # raises what the task raised


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
    earlier = [c for c in trial.claims() if claim.newer_than(c)]
    directory = trial.run_dir(claim.label)
    _redirect_output(directory / f"log.{environment.rank}")
    checkpoints = [trial.run_dir(c.label) / "checkpoints" for c in reversed(earlier)]
    follower = FollowerRun(directory, checkpoints, lambda: bool(_signals))
    try:
        _task(submission, assignment, claim.label, follower, environment)
    except (run.Pruned, run.Preempted):
        return 0
    except (Exception, SystemExit) as failure:  # noqa: BLE001  # whatever it was, it ended this process's part
        traceback.print_exception(failure)
        if not isinstance(failure, run.PeerLost) and not _disk_is_full(failure):
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
        seconds = {"total": time.time() - _STARTED}
        trial.commit(Result(TrialState.FAIL, None, described(failure), seconds, claim.label, {}))


def _commit(trial: TrialDir, outcome: Result) -> bool:
    """Commit; a full disk is waited for, since the work is done and must not be lost."""
    while True:
        try:
            return trial.commit(outcome)
        except OSError as error:
            if not _disk_is_full(error) or _signals:
                raise
            time.sleep(FULL_DISK_SECONDS)


def _disk_is_full(failure: BaseException) -> bool:
    """Whether a failure comes of a full disk or quota, under whatever a library has made of it."""
    cause: BaseException | None = failure
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(os.strerror(number) in str(cause) for number in (errno.ENOSPC, errno.EDQUOT)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _leave(trial: TrialDir, claim: Claim, environment: JobEnvironment) -> int:
    """Saved and asked to go. On a time limit or a preemption notice Slurm can start the same job again.

    After a plain SIGTERM it cannot be told from a cancellation: leave, and the driver decides. A run that another
    has replaced must not requeue: its job may be the other's, too.
    """
    if trial.result_json.exists() or trial.superseded(claim):
        return 0
    if environment.slurm_id is not None and signal.SIGUSR2 in _signals:
        if _time_is_up(environment.slurm_id):
            records.write(trial.run_dir(claim.label) / TIME_LIMIT, {"time": time.time()})
        done = subprocess.run(["scontrol", "requeue", environment.slurm_id], capture_output=True, text=True)
        print(f"saved; asked Slurm to requeue job {environment.slurm_id}: {done.stderr.strip() or 'done'}")
    return 0


def _time_is_up(job: str) -> bool:
    """Whether the warning was of the time limit, and not of a preemption. Slurm warns up to a minute too early."""
    done = subprocess.run(["squeue", "-h", "-r", "-j", job, "-O", "TimeLeft"], capture_output=True, text=True)
    days, _, clock = done.stdout.strip().rpartition("-")
    parts = clock.split(":")
    if done.returncode != 0 or not all(part.isdigit() for part in parts):  # no answer, or no limit
        return False
    seconds = 86400 * int(days or 0)
    for place, part in zip((1, 60, 3600), reversed(parts), strict=False):
        seconds += place * int(part)
    return seconds <= float(os.environ.get(WARNING, 0)) + 75.0


def _redirect_output(path: Path) -> None:
    """Send stdout and stderr into the run's folder: the jobs of an array share the launcher's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


if __name__ == "__main__":
    # `python -m` made this module __main__; the handlers and flags above belong to that copy.
    sys.exit(main(sys.argv[1]))
