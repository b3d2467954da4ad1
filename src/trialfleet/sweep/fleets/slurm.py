"""Jobs of a Slurm cluster: submitted as arrays, followed with one squeue call for all of them.

The script is submitit's, made from the launcher's own parameters, so that each of its keys keeps its
meaning. What it starts is our worker, and nobody waits for a pickle: result files say how trials end.
"""

import os
import re
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trialfleet.compat.submitit import batch_script
from trialfleet.errors import UserError
from trialfleet.sweep.fleets import slurm_answers, slurm_command, slurm_memory
from trialfleet.sweep.fleets.base import PYTHON_OPTIONS, WORKER, Busy, Fleet, MaybeSubmitted, TooMuchMemory
from trialfleet.sweep.fleets.slurm_answers import Refusal
from trialfleet.sweep.fleets.slurm_command import outside_of_jobs
from trialfleet.sweep.fleets.slurm_nodes import SlurmNodes
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import WARNING, JobRef

LAUNCHER = "slurm"
_NO_NODE = "ReqNodeNotAvail"  # Slurm's reason of a job for which no node is left
PROMPT_SECONDS = 1.0  # how long a look waits for squeue; what comes later is for the next look
RUNAWAY_SECONDS = 300.0  # how long a job that only accounting takes for alive is waited for
ACCOUNTING_PAUSE = 60.0  # seconds after which sacct, which did not answer, is asked again
UNWANTED_SECONDS = 200.0  # after which a job that nobody has asked for is followed no longer: its trial has ended
STRANGE_LINES = 10  # lines shown of what a site's commands print besides: a banner with the time in it never ends
STRANGE_LETTERS = 200  # of each of them

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
_IN_LINE = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_PENDING = _IN_LINE | {"CONFIGURING"}
# Seconds for which a state is not believed to be the end. A job that Slurm is about to requeue shows one of the
# first three for up to 5 s; jobs cancelled together must be seen together before one of them is started again.
_HESITATE = {"NODE_FAIL": 10.0, "PREEMPTED": 10.0, "BOOT_FAIL": 10.0, "CANCELLED": 3.0}

_HELD = re.compile(r"launch.failed.requeued.held", re.IGNORECASE)


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
        self._question: slurm_command.Question | None = None
        self._rows: dict[str, slurm_answers.Row] | None = None
        self._rows_before: dict[str, slurm_answers.Row] = {}
        self._seen_whole = False  # whether any answer was
        self._places: dict[str, str] = {}  # where each job was last seen
        self._ends: dict[str, str] = {}  # the state in which each job ended, as last heard
        self._over_since: dict[str, float] = {}
        self._absent: dict[str, int] = {}
        self._followed: dict[str, float] = {}  # when each was last asked for
        self._cancelled_by_us: set[str] = set()
        self._cancelled_before: set[str] = set()
        self._accounted: dict[str, float] = {}
        self._accounting_from = 0.0  # on the monotonic clock
        self._nodes = SlurmNodes(parameters or {}, self._pass_over)
        self._told: dict[str, frozenset[str]] = {}  # which excluded nodes each job knows of
        self._accepted: set[float] = set()  # factors on the memory with which a job was accepted
        self._strange: set[str] = set()

    # ---------------------------------------------------------------- submit

    def submit(self, submission: Path, uuid: str, count: int, memory: float = 1.0) -> list[JobRef]:
        if self.memory_gb() is None:
            memory = 1.0  # there is nothing to scale
        script = submission.with_suffix(".sh")
        script.write_text(self._script(submission, uuid, count, memory))
        done = slurm_command.run("sbatch", "--parsable", str(script), environment=outside_of_jobs())
        if done is None or done.returncode < 0:
            raise MaybeSubmitted("sbatch did not answer" if done is None else "sbatch was killed")
        job, strange = slurm_answers.submitted(done.stdout)
        message = done.stderr.strip() or f"sbatch exited with {done.returncode}"
        if done.returncode != 0 and job is None:
            raise self._refused(message, memory)
        if done.returncode != 0 or job is None:  # two words that do not fit: the queue will tell which is true
            raise MaybeSubmitted(f"sbatch named job {job}, but: {message}" if job else "sbatch named no job")
        self._pass_over("sbatch", strange)
        self._accepted.add(memory)
        ids = [job] if count == 1 else [f"{job}_{index}" for index in range(count)]
        self._told.update(dict.fromkeys(ids, frozenset(self._nodes.excluded)))
        return [JobRef(LAUNCHER, item) for item in ids]

    def _refused(self, message: str, memory: float) -> Exception:
        """What a refusal of sbatch amounts to. A request that was fine once is so again, whatever sbatch says."""
        refusal = slurm_answers.refusal(message)
        if refusal is Refusal.AWAY:
            return MaybeSubmitted(message)
        if refusal is not Refusal.WRONG or memory in self._accepted:
            return Busy(message, limit=refusal is Refusal.LIMIT)
        if memory == 1.0 or 1.0 not in self._accepted:
            return UserError(
                f"hydra/launcher=submitit_slurm: sbatch refuses the job: {message}", "correct hydra.launcher"
            )
        return TooMuchMemory(
            f"sbatch refuses a job with {memory:g} times the memory ({self.memory_gb(memory):g} GB a node): {message}; "
            "set hydra.sweeper.max_memory_gb to the memory of the largest node"
        )

    def memory_gb(self, factor: float = 1.0) -> float | None:
        return slurm_memory.gigabytes(self._parameters or {}, factor)

    def _script(self, submission: Path, uuid: str, count: int, memory: float) -> str:
        assert self._parameters is not None, "this fleet only follows jobs"
        parameters = slurm_memory.scaled(self._parameters, memory)
        exports = [f"export {name}={shlex.quote(value)}" for name, value in self._environment.items()]
        folder = submission.parent / uuid
        folder.mkdir(exist_ok=True)
        exports.append(f"export {WARNING}={parameters.get('signal_delay_s', 0)}")
        exports.append(f"export SUBMITIT_FOLDER={shlex.quote(str(folder))}")
        parameters["setup"] = [*exports, *(parameters.get("setup") or [])]
        if self._nodes.excluded:
            parameters["exclude"] = self._nodes.exclude_list()
            # Where the user says it there, it would go before ours.
            more = parameters.get("additional_parameters") or {}
            parameters["additional_parameters"] = {key: value for key, value in more.items() if key != "exclude"}
        if count > 1:
            parameters["map_count"] = count
        command = f"{self._python} {' '.join(PYTHON_OPTIONS)} -m {WORKER} {shlex.quote(str(submission))}"
        return batch_script(command, folder, **parameters)

    # ---------------------------------------------------------------- follow

    def refresh(self) -> bool:
        # A controller that is away keeps squeue waiting for nine seconds: results must not wait with it.
        patience = 0.0
        if self._question is None:
            self._question, patience = slurm_command.Question(_squeue), PROMPT_SECONDS
        if not self._question.answered(patience):
            return False
        done, self._question = self._question.answer, None
        if done is None or done.returncode != 0:
            return False
        answer = slurm_answers.queue(done.stdout)
        self._pass_over("squeue", answer.strange)
        ours = {job: row for job, row in answer.rows.items() if row.script.startswith(f"{self._folder}{os.sep}")}
        if not self._seen_whole:
            self._cancelled_before |= {job for job, row in ours.items() if row.state == "CANCELLED"}
        known = self._rows or {}
        # What was cut off may be there: it stays as it was.
        self._rows, self._rows_before = (ours if answer.whole else {**known, **ours}), known
        self._note(ours)
        self._release_held()
        self._update_waiting()
        if answer.whole:
            self._seen_whole = True
            self._forget_unwanted()
            self._ask_accounting()
            self._count_absences()
        return answer.whole

    def _note(self, rows: Mapping[str, slurm_answers.Row]) -> None:
        """Keep what is asked for when Slurm has forgotten a job, and when each end was first seen."""
        now = time.monotonic()
        for job, row in rows.items():
            if row.node:
                self._places[job] = row.node
            if row.state in _ENDED:
                self._ends[job] = row.state
                if job in self._followed:
                    self._over_since.setdefault(job, now)
            else:
                self._ends.pop(job, None)
                self._over_since.pop(job, None)

    def _forget_unwanted(self) -> None:
        """Follow no longer whom nobody asks for: else accounting is asked about each job that squeue forgets."""
        late = time.monotonic() - UNWANTED_SECONDS
        self._followed = {job: asked for job, asked in self._followed.items() if asked >= late}

    def _count_absences(self) -> None:
        """A job is gone when two whole answers did not show it."""
        for job in self._followed:
            self._absent[job] = 0 if job in (self._rows or {}) else self._absent.get(job, 0) + 1
            if self._absent[job] >= 2:
                self._over_since.setdefault(job, time.monotonic())

    def _pass_over(self, command: str, lines: Sequence[str]) -> None:
        """Show, once each and not for ever, what a command of Slurm's is not known to print."""
        for line in lines:
            readable = "".join(letter if letter.isprintable() else "?" for letter in line[:STRANGE_LETTERS])
            if readable not in self._strange and len(self._strange) < STRANGE_LINES:
                self._strange.add(readable)
                self.notice(f"{command} printed an unexpected line, which is ignored: {readable}")

    def phase(self, job: JobRef) -> JobState:
        if self._rows is None:
            return JobState.UNKNOWN
        # Counted from the next refresh on: a job is gone only when two calls did not show it.
        self._followed[job.id] = time.monotonic()
        row = self._rows.get(job.id)
        if row is not None and row.state not in _ENDED:
            return JobState.PENDING if row.state in _PENDING else JobState.RUNNING
        if row is not None:
            self._over_since.setdefault(job.id, time.monotonic())
        since = self._over_since.get(job.id)
        if since is None:
            return JobState.ENDING
        settle = max(self._settle, _HESITATE.get(row.state, 0.0) if row is not None else 0.0)
        if time.monotonic() - since < settle:
            return JobState.ENDING
        if row is None and self._accounted.get(job.id, 0.0) > time.monotonic():
            return JobState.UNKNOWN
        return JobState.OVER

    def find(self, uuid: str, index: int) -> JobRef | None:
        for job, row in (self._rows or {}).items():
            element = job.partition("_")[2] or "0"
            if Path(row.script).stem == uuid and element == str(index):
                return JobRef(LAUNCHER, job)
        return None

    def why(self, job: JobRef) -> str:
        row = (self._rows or {}).get(job.id)
        if row is None:
            return ""
        if row.reason in ("None", ""):
            return row.state
        ours = self._nodes.excluded if _NO_NODE in row.reason else ()
        return f"{row.state}: {row.reason}" + (f" (excluded here: {', '.join(sorted(ours))})" if ours else "")

    def node(self, job: JobRef) -> str:
        return self._places.get(job.id, "")

    def lives(self, job: JobRef) -> bool:
        if self._rows is None:
            return True
        for rows in (self._rows, self._rows_before):  # one answer alone may have missed it
            if (row := rows.get(job.id)) is not None:
                return row.state not in _ENDED and row.state != "COMPLETING"  # it is leaving: nothing more can be done
        return False

    def timed_out(self, job: JobRef) -> bool:
        return self._ends.get(job.id) in ("TIMEOUT", "DEADLINE")

    def out_of_memory(self, job: JobRef) -> bool:
        return self._ends.get(job.id) == "OUT_OF_MEMORY"

    def cancelled(self, job: JobRef) -> bool:
        row = (self._rows or {}).get(job.id)
        old_news = self._cancelled_by_us | self._cancelled_before
        return row is not None and row.state == "CANCELLED" and job.id not in old_news

    def has_other_nodes(self, than: Collection[str]) -> bool:
        return any(name not in than for name in self._nodes.left(time.monotonic()))

    def exclude(self, node: str) -> None:
        self._nodes.excluded.add(node)
        self._update_waiting()

    def _update_waiting(self) -> None:
        """Keep jobs in line off the nodes that are excluded, and off no others.

        Requeued ones wait there again, and one of an earlier driver may have been kept off all that there are.
        """
        excluded = frozenset(self._nodes.excluded)
        rows = (self._rows or {}).items()
        waiting = [
            job
            for job, row in rows
            if row.state in _IN_LINE
            and (self._told.get(job, frozenset()) != excluded or (job not in self._told and _NO_NODE in row.reason))
        ]
        if not waiting:
            return
        change = (f"JobId={','.join(waiting)}", f"ExcNodeList={self._nodes.exclude_list()}")
        done = slurm_command.run("scontrol", "update", *change)
        if done is None:
            return  # asked again at the next look
        self._told.update(dict.fromkeys(waiting, excluded))
        complaints = [line for line in done.stderr.splitlines() if "no longer pending" not in line]
        if done.returncode != 0 and complaints:
            self.notice(f"jobs in line may still go to {', '.join(sorted(excluded))}: scontrol says {complaints[0]}")

    def cancel(self, jobs: Sequence[JobRef]) -> None:
        if jobs:
            self._cancelled_by_us |= {job.id for job in jobs}
            slurm_command.run("scancel", "--quiet", *(job.id for job in jobs))

    def _ask_accounting(self) -> None:
        """Ask accounting, where there is any, about each job that squeue has forgotten, once.

        One that it takes for alive is waited for, but not for ever: accounting has runaway jobs.
        """
        forgotten = [job for job in self._followed if self._absent.get(job, 0) >= 1 and job not in self._accounted]
        if not forgotten or time.monotonic() < self._accounting_from:
            return
        done = slurm_command.run("sacct", "-j", ",".join(forgotten), "-n", "-X", "-P", "-o", "jobid,state")
        if done is None or done.returncode != 0:
            self._accounting_from = time.monotonic() + ACCOUNTING_PAUSE
            return
        states, strange = slurm_answers.accounted(done.stdout)
        self._pass_over("sacct", strange)
        for job in forgotten:
            state = states.get(job, "")
            alive = state != "" and state not in _ENDED
            if state in _ENDED:
                self._ends[job] = state
            self._accounted[job] = time.monotonic() + (RUNAWAY_SECONDS if alive else 0.0)

    def _release_held(self) -> None:
        """Let go of jobs that Slurm requeued and held because a node failed at their start: nobody else would."""
        held = [job for job, row in (self._rows or {}).items() if _HELD.search(row.reason)]
        if held:
            slurm_command.run("scontrol", "release", *held)


def _squeue() -> slurm_command.Done | None:
    """Its header shows that it spoke: nothing at all, with exit code 0, would be the end of all jobs."""
    return slurm_command.run("squeue", "-r", "--me", "-t", "all", "-o", slurm_answers.QUEUE_FORMAT)


def script_parameters(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The launcher's settings as submitit's parameters of a Slurm script, converted by submitit itself.

    Args:
        folder: where scripts and logs go.

    Raises:
        UserError: submitit refuses a setting.
    """
    import submitit
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

    shared = set(BaseQueueConf.__dataclass_fields__)
    not_script = {"submitit_folder", "max_num_timeout", "python"}
    wanted = {key if key in shared else f"slurm_{key}": v for key, v in settings.items() if key not in not_script}
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    try:
        executor.update_parameters(**wanted)
    except (NameError, ValueError) as error:
        fix = "--cfg hydra -p hydra.launcher, with the sweep's words, shows the keys and their values"
        raise UserError(f"hydra.launcher: {error}", fix) from None
    return dict(executor.parameters)
