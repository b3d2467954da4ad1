"""What a job runs: claim the trial, run Hydra's job in its directory, commit how it ended.

    python -m trialfleet.worker SUBMISSION.json

The launcher's script starts it once for each task of the job. Only the job's first process claims and
commits; the others follow it. A signal sets a flag and nothing else: the trainer sees it at a step, saves,
and raises `Preempted`; then the job asks Slurm to be requeued, or leaves it to the driver to start it again.
Once its record is on the disk the process ends at once: nothing that a task left behind keeps a job alive.
"""

import contextlib
import os
import signal
import sys
import time
from types import FrameType

_STARTED = time.monotonic()
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

import atexit  # noqa: E402  # after the handlers, see above
import gc  # noqa: E402
import io  # noqa: E402
import pickle  # noqa: E402
import subprocess  # noqa: E402
import threading  # noqa: E402
import traceback  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from trialfleet.tracking import causes, memory, records, run, secrets, transient  # noqa: E402
from trialfleet.tracking.identity import Identity  # noqa: E402
from trialfleet.tracking.processes import Process  # noqa: E402
from trialfleet.tracking.records import Damaged  # noqa: E402
from trialfleet.tracking.submission import WARNING, Assignment, Submission, TrialRecord  # noqa: E402
from trialfleet.tracking.sweep_run import FollowerRun, SweepRun  # noqa: E402
from trialfleet.tracking.trial_dir import (  # noqa: E402
    OUT_OF_MEMORY,
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
SET_ASIDE_SECONDS = 60.0  # how long a commit waits for the driver to set a damaged result.json aside …
LOOK_SECONDS = 0.2  # … and how often it looks
BEGIN_PATIENCE = 60.0  # seconds for which the beginning waits for a file system to come back
COMMIT_PATIENCE = 600.0  # seconds for which the end does: the work is done and must not be lost
MAX_NOTES = 1 << 20  # characters of a result's notes; longer ones are left out
EXIT_SECONDS = 5.0  # how long the task's exit handlers may take
GOODBYE_SECONDS = 25.0  # how long the processes of a training may take to part, see jax.distributed.shutdown
CHILDREN_SECONDS = 2.0  # how long what the task left running has after SIGTERM


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
    environment = JobEnvironment.read(dict(os.environ))
    try:
        submission = transient.patiently(lambda: Submission.read(Path(submission_file)), BEGIN_PATIENCE)
    except (Damaged, FileNotFoundError) as error:
        print(f"nothing is run: {error}")
        return 1
    assignment = submission.trials[environment.element]
    trial = TrialDir(Path(assignment.directory))
    if environment.rank > 0:
        return _follow(submission, assignment, trial, environment)
    try:
        claim = transient.patiently(lambda: _claim(submission, assignment, trial, environment), BEGIN_PATIENCE)
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
        _say("a newer run of this trial exists, or its study was put aside: this result does not count")
    elif not _commit(trial, outcome, claim.identity):
        _say("the trial had ended already: the result that is there counts")
    # The job's other processes must not wait for one that failed: srun ends them on a bad exit.
    return 1 if outcome.state is TrialState.FAIL else 0


def _claim(submission: Submission, assignment: Assignment, trial: TrialDir, environment: JobEnvironment) -> Claim:
    """Claim the trial that was submitted, if it is still the one in its folder.

    Raises:
        NotClaimed: another job's, over, or not the trial that this job was submitted for.
    """
    identity = submission.identity(assignment)
    with contextlib.suppress(Damaged):  # the driver writes it anew; what is to be run is in the submission
        record = TrialRecord.read(trial.trial_json)
        if record is None:  # or the study was put aside
            raise NotClaimed("a power cut left nothing of trial.json: the driver writes it anew and submits again")
        if record.identity.params != identity.params:
            raise NotClaimed("trial.json has other parameters than the trial that this job was submitted for")
    return trial.claim(assignment.attempt, environment.job, environment.restart, identity)


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
    except BaseException as failure:  # noqa: BLE001  # whatever it was, it ended the trial
        if run.is_pruned(failure):
            state, objectives, error = TrialState.PRUNED, None, None
        elif _fault_of_the_machine(failure, trial, claim):
            return None
        else:
            _show(failure)
            state, objectives, error = TrialState.FAIL, None, _error(failure)
    seconds = _seconds(sweep_run.notes.get("seconds"))
    notes = {name: value for name, value in sweep_run.notes.items() if name != "seconds"}
    return _storable(Result(state, objectives, error, seconds, claim.label, notes))


def _seconds(noted: Any) -> dict[str, float]:
    """Where the time went: all of it, and whatever parts the task noted that are numbers."""
    parts = noted if isinstance(noted, dict) else {}
    known = {name: float(value) for name, value in parts.items() if isinstance(value, int | float)}
    return {**known, "total": time.monotonic() - _STARTED}


def _fault_of_the_machine(failure: BaseException, trial: TrialDir, claim: Claim) -> bool:
    """Whether the trial is not to blame for its end, so that another run goes on; the log and a record say why."""
    if isinstance(failure, KeyboardInterrupt) and _local_time_is_up():
        _show(failure, "the job's time limit is reached")
        _leave_word(trial, claim, TIME_LIMIT)
        return True
    if transient.is_full(failure):
        _show(failure, "the disk is full: that is not the trial's fault, it goes on once there is room")
        return True
    if transient.passes(failure):
        _show(failure, "the file system failed: that is not the trial's fault, it goes on")
        return True
    if memory.ran_out(failure) == memory.HOST:
        _show(failure, "this job ran out of memory")
        _leave_word(trial, claim, memory.RECORD, message=causes.text(failure)[:2000])
        return True
    return False


def _leave_word(trial: TrialDir, claim: Claim, name: str, **entries: Any) -> None:
    """Tell the driver, by a record in the run's folder, why this run ends without a result."""
    if not trial.superseded(claim):  # where the study was put aside there is no such folder, and there shall be none
        records.write(trial.run_dir(claim.label) / name, {"time": time.time(), **entries})


def _error(failure: BaseException) -> dict[str, str]:
    """A failure as result.json records it. That of a device's memory has a name of its own: the code is not wrong."""
    error = described(failure)
    if memory.ran_out(failure) == memory.DEVICE:
        return {**error, "type": OUT_OF_MEMORY, "message": f"out of memory on the device: {error['message']}"}
    return error


def _show(failure: BaseException, comment: str = "") -> None:
    with contextlib.suppress(Exception):  # the disk of the log may be full, and the task may have closed the log
        traceback.print_exception(failure)
    if comment:
        _say(comment)


def _say(message: str) -> None:
    """Into the log, if the disk and the task have left one: no word is worth a result."""
    with contextlib.suppress(Exception):
        print(message)


def _storable(outcome: Result) -> Result:
    """The result without notes that are too long to be read back."""
    length = len(records.dumps([outcome.seconds, outcome.notes]))
    if length <= MAX_NOTES:
        return outcome
    _say(f"the notes of this run have {length} characters: more than {MAX_NOTES}, they are left out")
    return replace(outcome, seconds={"total": outcome.seconds["total"]}, notes={})


def _task(
    submission: Submission, assignment: Assignment, label: str, own_run: run.Run, environment: JobEnvironment
) -> Any:
    """Compose the trial's config and run the task function as Hydra does, callbacks included."""
    from hydra.core.singleton import Singleton
    from hydra.core.utils import run_job, setup_globals
    from omegaconf import open_dict

    with open(submission.payload, "rb") as file:
        payload = pickle.load(file)
    subdir = Path(assignment.directory).relative_to(submission.sweep_dir) / "runs" / label
    Singleton.set_state(payload["singletons"])
    setup_globals()
    overrides = [*assignment.overrides, f"hydra.sweep.subdir={subdir}"]
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
    earlier = [c for c in trial.claims_of(claim.identity) if claim.newer_than(c)]
    directory = trial.run_dir(claim.label)
    _redirect_output(directory / f"log.{environment.rank}")
    checkpoints = [trial.run_dir(c.label) / "checkpoints" for c in reversed(earlier)]
    follower = FollowerRun(directory, checkpoints, lambda: bool(_signals))
    try:
        _task(submission, assignment, claim.label, follower, environment)
    except (run.Pruned, run.Preempted):
        return 0
    except BaseException as failure:  # noqa: BLE001  # whatever it was, it ended this process's part
        _show(failure)
        if not isinstance(failure, run.PeerLost) and not transient.is_full(failure) and not transient.passes(failure):
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
        if memory.ran_out(failure) == memory.HOST:
            _leave_word(trial, claim, memory.RECORD, message=causes.text(failure)[:2000])
            return
        seconds = {"total": time.monotonic() - _STARTED}
        trial.commit(Result(TrialState.FAIL, None, _error(failure), seconds, claim.label, {}), claim.identity)


def _commit(trial: TrialDir, outcome: Result, identity: Identity) -> bool:
    """Commit; a full disk, or one that is away, is waited for, since the work is done and must not be lost.

    Returns:
        False if the trial has a result already.
    """

    def commit() -> bool:
        if trial.commit(outcome, identity):
            return True
        if trial.ended(identity):
            return False
        print(f"{trial.result_json.name} was no result of this trial: renamed to {_set_aside(trial)}")
        return trial.commit(outcome, identity)

    while True:
        try:
            return transient.patiently(commit, COMMIT_PATIENCE, lambda: bool(_signals))
        except OSError as error:
            if not transient.is_full(error) or _signals:
                raise
            time.sleep(FULL_DISK_SECONDS)


def _set_aside(trial: TrialDir) -> str:
    try:
        return records.set_aside(trial.result_json).name
    except FileNotFoundError:  # the driver was quicker
        return "what the driver says"


def _leave(trial: TrialDir, claim: Claim, environment: JobEnvironment) -> int:
    """Saved and asked to go. On a time limit or a preemption notice Slurm can start the same job again.

    After a plain SIGTERM it cannot be told from a cancellation: leave, and the driver decides. A run that another
    has replaced must not requeue: its job may be the other's, too.
    """
    if trial.result_json.exists() or trial.superseded(claim):
        return 0
    if environment.slurm_id is None and signal.SIGUSR2 in _signals:  # only a time limit sends it here
        _leave_word(trial, claim, TIME_LIMIT)
    if environment.slurm_id is not None and signal.SIGUSR2 in _signals:
        if _time_is_up(environment.slurm_id):
            _leave_word(trial, claim, TIME_LIMIT)
        done = subprocess.run(["scontrol", "requeue", environment.slurm_id], capture_output=True, text=True)
        _say(f"saved; asked Slurm to requeue job {environment.slurm_id}: {done.stderr.strip() or 'done'}")
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


def _local_time_is_up() -> bool:
    """Whether submitit's local controller, which sends SIGINT at the time limit, has reason to."""
    limit = os.environ.get("SUBMITIT_LOCAL_TIMEOUT_S")
    return limit is not None and time.monotonic() - _STARTED >= float(limit) - 5.0


def _redirect_output(path: Path) -> None:
    """Send stdout and stderr into the run's folder: the jobs of an array share the launcher's files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def end_process(code: int) -> None:
    """End this process now, with whatever it started.

    The interpreter's own way out waits for threads and runs what a task registered: either may hang, and the job
    would go on to its time limit after its trial has ended.
    """
    try:
        for step in (sys.stdout.flush, sys.stderr.flush, _run_exit_handlers, _part_from_others, _end_children):
            with contextlib.suppress(Exception):  # the task may have left us any state: what comes next must not suffer
                step()
    finally:
        os._exit(code)


def _run_exit_handlers() -> None:
    """What the task registered for the end, and the files that it left open, get a few seconds: no more."""

    def run() -> None:
        atexit._run_exitfuncs()
        for thing in gc.get_objects():
            if isinstance(thing, io.TextIOBase | io.BufferedIOBase) and not thing.closed:
                with contextlib.suppress(Exception):
                    thing.flush()

    handlers = threading.Thread(target=run, daemon=True)
    handlers.start()
    handlers.join(EXIT_SECONDS)


def _part_from_others() -> None:
    """Say goodbye to the other processes of a training, which would call us lost otherwise."""
    distributed = getattr(sys.modules.get("jax"), "distributed", None)
    if distributed is not None and distributed.is_initialized():
        goodbye = threading.Thread(target=distributed.shutdown, daemon=True)
        goodbye.start()
        goodbye.join(GOODBYE_SECONDS)


def _end_children() -> None:
    """End the processes that the task started and left running: first asked, then killed."""
    if not _has_children():
        return
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.terminate()
    for child in psutil.wait_procs(children, CHILDREN_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _has_children() -> bool:
    """Whether there may be any. Told without psutil, whose import takes longer than most jobs take to end."""
    try:
        return any(Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task"))  # noqa: PTH208
    except OSError:  # a thread ended while we looked
        return True


if __name__ == "__main__":
    # `python -m` made this module __main__; the handlers and flags above belong to that copy.
    try:
        _code = main(sys.argv[1])
    except BaseException:  # noqa: BLE001  # a process that waits for its threads is a job that never ends
        with contextlib.suppress(OSError):
            traceback.print_exc()
        _code = 1
    end_process(_code)
