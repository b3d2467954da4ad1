"""Jobs that are forked from a process with their imports: the same to everybody as those of fresh interpreters."""

import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from jobs.cluster.processes import wait_until
from trialfleet.sweep.fleets import forking, local_processes
from trialfleet.sweep.fleets import local as local_launcher
from trialfleet.sweep.fleets.forking import Forking
from trialfleet.sweep.fleets.local import LocalFleet
from trialfleet.sweep.reconcile import JobState
from trialfleet.trial.submission import JobRef
from trialfleet.worker import fork_server, task

PARAMS = {"nodes": 1, "tasks_per_node": 1, "timeout_min": 10, "gpus_per_node": None, "stderr_to_stdout": False}
# A worker that writes down what it is and has, and does what its submission's name says.
PROBE = """\
import json, os, random, resource, signal, sys, threading, time
import trialfleet.worker.signals as signals

def of(pid, kind):
    with open(f"/proc/{pid}/{kind}", "rb") as file:
        return [os.fsdecode(one) for one in file.read().split(b"\\0") if one]

def session(pid):
    return os.getsid(pid), os.getpgid(pid)

own, parent = os.getpid(), os.getppid()
seen = {
    "environment": {k: v for k, v in os.environ.items() if k not in ("_", "SHLVL")},
    "shown": sorted(one for one in of(own, "environ") if not one.startswith(("_=", "SHLVL="))),
    "shown of the controller": [one for one in of(parent, "environ") if one.startswith("TRIALFLEET_JOB=")],
    "words": of(own, "cmdline"),
    "arguments": sys.argv[1:],
    "main": sys.modules["__main__"].__spec__.name,
    "folder": os.getcwd(),
    "leads": [one == parent for one in session(own)],
    "signals": {str(n): str(signal.getsignal(n)) for n in sorted(signal.valid_signals())},
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": [os.readlink(f"/proc/self/fd/{n}") for n in (0, 1, 2)],
    "open": sorted(int(n) for n in os.listdir("/proc/self/fd") if int(n) > 2)[:-1],
    "limits": [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
    "umask": os.umask(0o22),
    "path": sys.path,
    "flags": str(sys.flags),
    "threads": threading.active_count(),
    "unbuffered": sys.stdout.write_through,
    "daemon": threading.current_thread() is threading.main_thread(),
    "random": random.random(),
    "age": time.monotonic() - signals.STARTED,
    "nice": os.nice(0),
    "pid": own,
    "parent": parent,
}
name = sys.argv[1]
print("said to the log")
print("an error", file=sys.stderr)
with open(name + ".new", "w") as file:
    json.dump(seen, file)
os.rename(name + ".new", name + ".seen")
if name.endswith("raises"):
    raise ValueError("as asked")
if name.endswith("exits"):
    sys.exit(3)
if name.endswith("stays"):
    signal.signal(signal.SIGUSR2, lambda *_: open(name + ".warned", "w").close())
    while True:
        time.sleep(0.05)
"""


class Jobs:
    """A fleet whose workers are PROBE."""

    def __init__(self, folder: Path, imports: tuple[str, ...] | None, **params: Any) -> None:
        self.submissions = folder / ".submitit"
        self.submissions.mkdir(exist_ok=True)
        (folder / "probe_worker.py").write_text(PROBE)
        self.fleet = LocalFleet({**PARAMS, **params}, {"PYTHONPATH": str(folder), "OWN": "a=b\nc"}, imports)
        self.fleet.prepare()

    @property
    def forking(self) -> Any:
        return self.fleet._forking

    def start(self, what: str) -> tuple[JobRef, Path]:
        uuid = uuid4().hex
        (job,) = self.fleet.submit(self.submissions / what, uuid, 1)
        return job, self.submissions / uuid

    def seen(self, what: str) -> tuple[JobRef, Path, dict[str, Any]]:
        """Start a job and hear what it is."""
        job, folder = self.start(what)
        file = self.submissions / f"{what}.seen"
        assert wait_until(file.exists, 60), sorted(map(str, self.submissions.rglob("*")))
        return job, folder, json.loads(file.read_text())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Jobs]]:
    """Fleets that a test makes; nothing is left of them after it."""
    monkeypatch.setattr(local_launcher, "WORKER", "probe_worker")
    # pytest changes a variable between the parts of a test; of another environment another process would be started.
    steady = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    monkeypatch.setattr(local_launcher, "outside_of_jobs", lambda: steady)
    fleets: list[Jobs] = []
    yield fleets
    for jobs in fleets:
        for path in jobs.submissions.glob("*.seen"):
            pid = json.loads(path.read_text())["pid"]
            for member in local_processes.ours():
                if member.pid == pid:
                    member.signal(signal.SIGKILL)
        jobs.fleet.close()
        for child in jobs.fleet._children:
            child.wait()


@pytest.fixture
def jobs(tmp_path: Path, made: list[Jobs]) -> Jobs:
    made.append(Jobs(tmp_path, ()))
    return made[0]


def test_a_forked_job_is_what_one_from_a_fresh_interpreter_is(tmp_path: Path, made: list[Jobs]) -> None:
    """Environment, words, folder, session, signals, files, limits, path: in itself and as others see it."""
    found = {}
    for kind, imports in [("probe_a", ()), ("probe_b", None)]:
        jobs = Jobs(tmp_path, imports)
        made.append(jobs)
        job, folder, seen = jobs.seen(kind)
        assert seen.pop("parent") == int(job.id)
        assert seen.pop("age") < 60.0
        del seen["random"], seen["pid"]
        text = json.dumps(seen).replace(kind, "KIND").replace(folder.name, "UUID").replace(job.id, "PID")
        found[kind] = json.loads(text)
        assert wait_until(lambda: jobs.fleet.phase(job) is JobState.OVER, 30)  # noqa: B023
        assert [log.read_text() for log in sorted(folder.glob(f"{job.id}_0_log.*"))] == [
            "an error\n",
            "said to the log\n",
        ]
    assert sorted(found["probe_a"]["shown"]) == sorted(found["probe_b"]["shown"])
    assert found["probe_a"] == found["probe_b"]


def test_each_has_randomness_and_a_process_of_its_own(jobs: Jobs) -> None:
    found = [jobs.seen(f"job{number}")[2] for number in range(3)]
    assert len({one["random"] for one in found}) == 3
    assert len({one["pid"] for one in found}) == 3
    assert not jobs.fleet._children


def test_a_job_is_found_cancelled_and_cleared_like_any(jobs: Jobs) -> None:
    job, _, seen = jobs.seen("stays")
    assert jobs.fleet.phase(job) is JobState.RUNNING
    newcomer = LocalFleet(None, {})
    assert job.marker is not None
    assert newcomer.find(*job.marker.split(".")[:1], 0) == job
    assert {member.pid for member in local_processes.of_job(job, local_processes.ours())} == {
        int(job.id),
        seen["pid"],
    }
    os.kill(int(job.id), signal.SIGKILL)  # the controller; the worker is known by its marker
    assert wait_until(lambda: newcomer.phase(job) is JobState.OVER, 30)
    newcomer.refresh()
    assert newcomer.lives(job)
    newcomer.clear(job)
    newcomer.refresh()
    assert wait_until(lambda: not local_processes.of_job(job, local_processes.ours()), 30)


def test_it_is_warned_of_its_time_limit_and_ended_at_it(tmp_path: Path, made: list[Jobs]) -> None:
    jobs = Jobs(tmp_path, (), timeout_min=0.1, signal_delay_s=2)
    made.append(jobs)
    job, _, _ = jobs.seen("stays")
    assert wait_until((jobs.submissions / "stays.warned").exists, 30)
    assert wait_until(lambda: jobs.fleet.phase(job) is JobState.OVER, 30)
    jobs.fleet.refresh()
    assert wait_until(lambda: not local_processes.of_job(job, local_processes.ours()), 30)


def test_what_it_raises_is_in_its_log(jobs: Jobs) -> None:
    job, folder, _ = jobs.seen("raises")
    assert wait_until(lambda: jobs.fleet.phase(job) is JobState.OVER, 30)
    assert "ValueError: as asked" in (folder / f"{job.id}_0_log.err").read_text()


def test_its_end_can_be_waited_for(jobs: Jobs) -> None:
    jobs.start("exits")
    (handle,) = jobs.fleet.handles()
    assert select.select([handle], [], [], 30)[0]
    assert jobs.fleet.job_ended()
    assert jobs.fleet.handles() == [handle]  # so that a driver that looked before the job ended is woken, once
    assert jobs.fleet.handles() == []
    assert not jobs.fleet.job_ended()
    other, _, _ = jobs.seen("exits")
    assert wait_until(jobs.fleet.job_ended, 30)
    jobs.fleet.refresh()
    assert not jobs.fleet.job_ended()
    assert jobs.fleet.handles() == []
    assert jobs.fleet.phase(other) is JobState.OVER


def test_jobs_outlive_the_process_that_forked_them_and_the_next_is_started_anew(jobs: Jobs) -> None:
    job, _, _ = jobs.seen("stays")
    jobs.forking._process.kill()
    jobs.forking._process.wait()
    assert jobs.fleet.phase(job) is JobState.RUNNING
    jobs.seen("fresh")
    assert len(jobs.fleet._children) == 1
    assert jobs.fleet.phase(job) is JobState.RUNNING


def test_its_process_ends_with_its_driver(jobs: Jobs) -> None:
    process = jobs.forking._process
    jobs.forking._socket.close()
    assert process.wait(30) == 0


def test_nothing_is_forked_where_an_import_has_started_a_thread(tmp_path: Path, made: list[Jobs]) -> None:
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    jobs = Jobs(tmp_path, ("starts_a_thread",))
    made.append(jobs)
    jobs.seen("fresh")
    assert len(jobs.fleet._children) == 1


def test_a_module_that_cannot_be_imported_is_the_jobs_own_affair(tmp_path: Path, made: list[Jobs]) -> None:
    jobs = Jobs(tmp_path, ("no_such_module",))
    made.append(jobs)
    jobs.seen("forked")
    assert not jobs.fleet._children


def test_jobs_do_not_wait_for_ever_for_its_imports(
    tmp_path: Path, made: list[Jobs], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").write_text(
        "import pathlib, time\nwhile not pathlib.Path(__file__).with_name('now').exists(): time.sleep(0.01)\n"
    )
    monkeypatch.setattr(forking, "READY_SECONDS", 0.1)
    jobs = Jobs(tmp_path, ("imported_late",))
    made.append(jobs)
    jobs.seen("fresh")
    assert len(jobs.fleet._children) == 1
    (tmp_path / "now").touch()
    monkeypatch.setattr(forking, "READY_SECONDS", 60.0)
    jobs.seen("forked")
    assert len(jobs.fleet._children) == 1


@pytest.mark.parametrize("params", [{"setup": ["true"]}, {"tasks_per_node": 2}])
def test_jobs_of_a_shell_or_of_several_tasks_are_started_as_ever(tmp_path: Path, params: dict[str, Any]) -> None:
    assert LocalFleet({**PARAMS, **params}, {}, ())._forking is None


def test_where_there_is_no_fork_nothing_is_forked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    none = Forking(())
    assert none.start({}, {}, [], [], tmp_path) is None
    assert none._process is None


def test_a_process_that_does_not_answer_leaves_it_open_what_became_of_the_job(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.seen("forked")
    monkeypatch.setattr(forking, "ANSWER_SECONDS", 0.2)
    os.kill(jobs.forking._process.pid, signal.SIGSTOP)
    with pytest.raises(forking.MaybeSubmitted):
        jobs.start("never")
    jobs.seen("fresh")
    assert len(jobs.fleet._children) == 1


def test_config_files_are_read_once_before_the_first_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def compose(submission: str) -> None:
        asked.append(submission)
        raise FileNotFoundError(submission)  # the job itself says so

    monkeypatch.setattr(task, "compose_ahead", compose)
    server = fork_server.ForkServer(its, ())
    monkeypatch.setattr(server, "_may_fork", lambda: False)  # what follows is a fork
    for name in ("one.json", "two.json"):
        server._start({"task": ["python", "-m", "worker", name]})
    gc.unfreeze()  # what it has frozen of this process
    assert asked == ["one.json"]
    ours.close()
    its.close()
