"""Jobs of a Slurm cluster: submitted as arrays, followed with one squeue call for all of them.

The script is submitit's, made from the launcher's own parameters, so that each of its keys keeps its
meaning. What it starts is our worker, and nobody waits for a pickle: result files say how trials end.
"""

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trialfleet.errors import UserError
from trialfleet.sweep.fleet import Busy, Fleet, MaybeSubmitted
from trialfleet.sweep.reconcile import Job
from trialfleet.tracking.submission import WARNING, JobRef

LAUNCHER = "slurm"
ANSWER_SECONDS = 60.0  # how long a Slurm command may take before it counts as unanswered
PROMPT_SECONDS = 1.0  # how long a look waits for squeue; what comes later is for the next look
RUNAWAY_SECONDS = 300.0  # how long a job that only accounting takes for alive is waited for

# squeue's words for a job that is over. All others, known or not, count as still running.
_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD", "CONFIGURING"}
# Seconds for which a state is not believed to be the end. A job that Slurm is about to requeue shows one of the
# first three for up to 5 s; jobs cancelled together must be seen together before one of them is started again.
_HESITATE = {"NODE_FAIL": 10.0, "PREEMPTED": 10.0, "BOOT_FAIL": 10.0, "CANCELLED": 3.0}

_LIMITS = re.compile(r"Limit|QOSMax|policy|Resource temporarily unavailable|QOSGrp", re.IGNORECASE)
_AWAY = re.compile(
    r"Unable to contact|Connection refused|Connection timed out|Socket timed out|Zero Bytes|not responding|"
    r"Communication connection failure|Transport endpoint|in standby mode",
    re.IGNORECASE,
)

_HELD = re.compile(r"launch.failed.requeued.held", re.IGNORECASE)


@dataclass(frozen=True)
class _Row:
    state: str
    reason: str
    script: str


class _Question:
    """A command on a thread of its own, which ends with the process."""

    def __init__(self, ask: Callable[[], subprocess.CompletedProcess[str] | None]) -> None:
        self.answer: subprocess.CompletedProcess[str] | None = None
        self._ask = ask
        self._thread = threading.Thread(target=self._run, name="squeue", daemon=True)
        self._thread.start()

    def answered(self, patience: float) -> bool:
        self._thread.join(patience)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self.answer = self._ask()


class SlurmFleet(Fleet):
    """Args:
    parameters: submitit's parameters of a Slurm script; None to follow jobs without starting any.
    python: command that starts Python on the nodes; None for this one.
    limit: jobs in flight at most (`array_parallelism`).
    folder: submissions of this study lie in here; jobs of other scripts are not ours.
    environment: what the jobs' environment has besides ours.
    settle: seconds after a job's end before its files are taken for final.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any] | None,
        python: str | None,
        limit: int,
        folder: Path,
        environment: Mapping[str, str],
        settle: float,
    ) -> None:
        self._parameters = parameters
        self._python = python or shlex.quote(sys.executable)
        self.limit = limit
        self._folder = folder
        self._environment = dict(environment)
        self._settle = settle
        self._question: _Question | None = None
        self._rows: dict[str, _Row] | None = None
        self._over_since: dict[str, float] = {}
        self._absent: dict[str, int] = {}
        self._followed: set[str] = set()
        self._cancelled_by_us: set[str] = set()
        self._cancelled_before: set[str] = set()
        self._accounted: dict[str, float] = {}
        self._excluded: set[str] = set()
        self._accounting = True

    # ---------------------------------------------------------------- submit

    def submit(self, submission: Path, uuid: str, count: int) -> list[JobRef]:
        script = submission.with_suffix(".sh")
        script.write_text(self._script(submission, uuid, count))
        done = self._slurm("sbatch", "--parsable", str(script), environment=outside_of_jobs())
        if done is None or done.returncode < 0:
            raise MaybeSubmitted("sbatch did not answer" if done is None else "sbatch was killed")
        if done.returncode != 0:
            message = done.stderr.strip() or f"sbatch exited with {done.returncode}"
            if _AWAY.search(message):
                # The request may have reached a controller whose answer did not reach us.
                raise MaybeSubmitted(message)
            if _LIMITS.search(message):
                raise Busy(message)
            raise UserError(
                f"hydra/launcher=submitit_slurm: sbatch refuses the job: {message}", "correct hydra.launcher"
            )
        job = done.stdout.strip().partition(";")[0]
        ids = [job] if count == 1 else [f"{job}_{index}" for index in range(count)]
        return [JobRef(LAUNCHER, item) for item in ids]

    def _script(self, submission: Path, uuid: str, count: int) -> str:
        from submitit.slurm.slurm import _make_sbatch_string

        assert self._parameters is not None, "this fleet only follows jobs"
        parameters = dict(self._parameters)
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self._environment.items()]
        folder = submission.parent / uuid
        folder.mkdir(exist_ok=True)
        exports.append(f"export {WARNING}={parameters.get('signal_delay_s', 0)}")
        exports.append(f"export SUBMITIT_FOLDER={shlex.quote(str(folder))}")
        parameters["setup"] = [*exports, *(parameters.get("setup") or [])]
        if self._excluded:
            parameters["exclude"] = ",".join(filter(None, [parameters.get("exclude"), *sorted(self._excluded)]))
        if count > 1:
            parameters["map_count"] = count
        command = f"{self._python} -u -m jobs.worker {shlex.quote(str(submission))}"
        return _make_sbatch_string(command=command, folder=folder, **parameters)

    # ---------------------------------------------------------------- follow

    def refresh(self) -> bool:
        # A controller that is away keeps squeue waiting for nine seconds: results must not wait with it.
        patience = 0.0
        if self._question is None:
            self._question, patience = _Question(self._squeue), PROMPT_SECONDS
        if not self._question.answered(patience):
            return False
        done, self._question = self._question.answer, None
        if done is None or done.returncode != 0:
            return False
        rows = {}
        for line in done.stdout.splitlines():
            job, state, reason, script = line.split("|", 3)
            if script.startswith(f"{self._folder}{os.sep}"):
                rows[job] = _Row(state, reason, script)
        if self._rows is None:
            self._cancelled_before = {job for job, row in rows.items() if row.state == "CANCELLED"}
        self._rows = rows
        self._ask_accounting()
        self._release_held()
        now = time.monotonic()
        for job in self._followed:
            row = rows.get(job)
            self._absent[job] = 0 if row else self._absent.get(job, 0) + 1
            if row is not None and row.state not in _ENDED:
                self._over_since.pop(job, None)
            elif row is not None or self._absent[job] >= 2:
                self._over_since.setdefault(job, now)
        return True

    def _squeue(self) -> subprocess.CompletedProcess[str] | None:
        return self._slurm("squeue", "-r", "--me", "-t", "all", "-h", "-o", "%i|%T|%r|%o")

    def phase(self, job: JobRef) -> Job:
        if self._rows is None:
            return Job.UNKNOWN
        if job.id not in self._followed:
            # Counted from the next refresh on: a job is gone only when two calls did not show it.
            self._followed.add(job.id)
        row = self._rows.get(job.id)
        if row is not None and row.state not in _ENDED:
            return Job.PENDING if row.state in _PENDING else Job.RUNNING
        if row is not None:
            self._over_since.setdefault(job.id, time.monotonic())
        since = self._over_since.get(job.id)
        if since is None:
            return Job.ENDING
        settle = max(self._settle, _HESITATE.get(row.state, 0.0) if row is not None else 0.0)
        if time.monotonic() - since < settle:
            return Job.ENDING
        if row is None and self._accounted.get(job.id, 0.0) > time.monotonic():
            return Job.UNKNOWN
        return Job.OVER

    def find(self, uuid: str, index: int) -> JobRef | None:
        for job, row in (self._rows or {}).items():
            element = int(job.partition("_")[2] or 0)
            if Path(row.script).stem == uuid and element == index:
                return JobRef(LAUNCHER, job)
        return None

    def why(self, job: JobRef) -> str:
        row = (self._rows or {}).get(job.id)
        if row is None:
            return ""
        return row.state if row.reason in ("None", "") else f"{row.state}: {row.reason}"

    def timed_out(self, job: JobRef) -> bool:
        row = (self._rows or {}).get(job.id)
        return row is not None and row.state in ("TIMEOUT", "DEADLINE")

    def cancelled(self, job: JobRef) -> bool:
        row = (self._rows or {}).get(job.id)
        old_news = self._cancelled_by_us | self._cancelled_before
        return row is not None and row.state == "CANCELLED" and job.id not in old_news

    def exclude(self, node: str) -> None:
        self._excluded.add(node)

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        if jobs:
            self._cancelled_by_us |= {job.id for job in jobs}
            self._slurm("scancel", "--quiet", *(job.id for job in jobs))

    def _ask_accounting(self) -> None:
        """Ask accounting, where there is any, about each job that squeue has forgotten, once.

        One that it takes for alive is waited for, but not for ever: accounting has runaway jobs.
        """
        forgotten = [job for job in self._followed if self._absent.get(job, 0) >= 1 and job not in self._accounted]
        if not forgotten or not self._accounting:
            return
        done = self._slurm("sacct", "-j", ",".join(forgotten), "-n", "-X", "-P", "-o", "jobid,state")
        if done is None or done.returncode != 0:
            self._accounting = False
            return
        states = dict(line.split("|")[:2] for line in done.stdout.splitlines() if "|" in line)
        for job in forgotten:
            state = states.get(job, "").split(" ")[0].rstrip("+")
            alive = state != "" and state not in _ENDED
            self._accounted[job] = time.monotonic() + (RUNAWAY_SECONDS if alive else 0.0)

    def _release_held(self) -> None:
        """Let go of jobs that Slurm requeued and held because a node failed at their start: nobody else would."""
        held = [job for job, row in (self._rows or {}).items() if _HELD.search(row.reason)]
        if held:
            self._slurm("scontrol", "release", *held)

    def _slurm(
        self, *command: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str] | None:
        """Run a Slurm command; None if it did not answer in time."""
        try:
            return subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=ANSWER_SECONDS,
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for the driver, not for an sbatch under way
            )
        except subprocess.TimeoutExpired:
            return None


def outside_of_jobs() -> dict[str, str]:
    """Our environment without what Slurm set, if we are a job ourselves: children would inherit its restart
    count and its resources. SLURM_CONF stays: it says which cluster is meant."""
    from submitit.helpers import clean_env

    if "SLURM_JOB_ID" not in os.environ:
        return dict(os.environ)
    conf = os.environ.get("SLURM_CONF")
    with clean_env():
        environment = dict(os.environ)
    return environment if conf is None else {**environment, "SLURM_CONF": conf}
