"""The cluster: jobs that are cancelled, requeued and held, nodes and a controller that die, and odd answers."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.fault import fault
from benchmarks.faults.study import Study

CLASS, ANSWERS = "slurm", "answers"
NODES = 3


def _job(study: Study) -> str | None:
    jobs = [job for trial in study.running() if (job := study.job(trial)) is not None]
    return study.chance.choice(jobs) if jobs else None


def _to_a_job(study: Study, *command: str) -> str | None:
    """The job to which it was done."""
    assert study.cluster is not None
    job = _job(study)
    if job is None or study.cluster.run(*command, job, check=False).returncode != 0:
        return None
    return job


def _later(study: Study, low: float, high: float, *command: str) -> None:
    """Undo it by a command, after a while."""

    def undo() -> None:
        assert study.cluster is not None
        study.cluster.run(*command, check=False)

    study.later(low, high, undo)


@fault(CLASS, "slurm")
def cancel_a_job(study: Study) -> bool:
    return _to_a_job(study, "scancel") is not None


@fault(CLASS, "slurm")
def requeue_a_job(study: Study) -> bool:
    return _to_a_job(study, "scontrol", "requeue") is not None


@fault(CLASS, "slurm")
def hold_and_release_a_job(study: Study) -> bool:
    job = _to_a_job(study, "scontrol", "requeuehold")
    if job is None:
        return False
    _later(study, 1.0, 5.0, "scontrol", "release", job)
    return True


@fault(CLASS, "slurm")
def suspend_a_job(study: Study) -> bool:
    job = _to_a_job(study, "scontrol", "suspend")
    if job is None:
        return False
    _later(study, 0.5, 3.0, "scontrol", "resume", job)
    return True


@fault(CLASS, "slurm")
def crash_a_node(study: Study) -> bool:
    """It loses power, and its jobs with it."""
    cluster, node = study.cluster, study.chance.randint(1, NODES)
    assert cluster is not None
    if _is_broken(study):
        return False
    cluster.crash_node(node)
    study.later(3.0, 8.0, _mended(study, lambda: cluster.start_node(node)))
    return True


@fault(CLASS, "slurm")
def lose_a_node(study: Study) -> bool:
    """Slurm gives it up, and starts its jobs elsewhere; what runs there runs on."""
    cluster, node = study.cluster, study.chance.randint(1, NODES)
    assert cluster is not None
    if _is_broken(study):
        return False
    cluster.kill_slurmd(node)
    update = ("update", f"nodename={cluster.nodes[node - 1]}", "state=down", "reason=lost")
    cluster.run("scontrol", *update, check=False)
    study.later(4.0, 10.0, _mended(study, lambda: cluster.start_node(node)))
    return True


@fault(CLASS, "slurm")
def restart_the_controller(study: Study) -> bool:
    cluster = study.cluster
    assert cluster is not None
    if _is_broken(study):
        return False
    cluster.stop_controller()
    study.later(1.0, 6.0, _mended(study, lambda: cluster.start_controller()))
    return True


@fault(CLASS, "slurm")
def kill_the_controller(study: Study) -> bool:
    """By SIGKILL: it goes on from what it last saved."""
    cluster, pid = study.cluster, _daemon(study, "slurmctld")
    assert cluster is not None
    if pid is None or _is_broken(study):
        return False
    os.kill(pid, signal.SIGKILL)
    study.later(1.0, 4.0, _mended(study, cluster.up))
    return True


@fault(CLASS, "slurm")
def suspend_a_daemon(study: Study) -> bool:
    """The controller, or the one of a node."""
    pid = _daemon(study)
    if pid is None or _is_broken(study):
        return False
    os.kill(pid, signal.SIGSTOP)
    study.later(0.5, 6.0, _mended(study, lambda: os.kill(pid, signal.SIGCONT)))
    return True


def _daemon(study: Study, name: str | None = None) -> int | None:
    """The process of the daemon of this name, or of any; a node's has the name of the node."""
    assert study.cluster is not None
    found = [pid for daemon, pid in study.cluster.status().items() if name in (None, daemon) and pid is not None]
    return study.chance.choice(found) if found else None


@fault(CLASS, "slurm")
def black_hole(study: Study) -> bool:
    """For a while a node ends each job before it reaches its trial."""
    exits = study.control / "exits"
    if exits.exists():
        return False
    exits.write_text(f"n{study.chance.randint(1, NODES)}")
    study.later(3.0, 10.0, lambda: exits.unlink(missing_ok=True))
    return True


def _is_broken(study: Study) -> bool:
    """Whether a part of the cluster is broken already; now one is."""
    mark = study.control / "cluster.broken"
    there = mark.exists()
    mark.touch()
    return there


def _mended(study: Study, mend: Callable[[], None]) -> Callable[[], None]:
    """What mends the cluster, and notes that it is whole again."""

    def whole() -> None:
        mend()
        # Slurm may have drained nodes for what it had forgotten of them; whoever looks after it lets them in again.
        assert study.cluster is not None
        for node in study.cluster.nodes:
            study.cluster.run("scontrol", "update", f"nodename={node}", "state=resume", check=False)
        (study.control / "cluster.broken").unlink(missing_ok=True)

    return whole


# -------------------------------------------------------------------- answers


def _answer(study: Study, way: str) -> bool:
    """For a while all of Slurm's commands answer so."""
    file = study.control / "answers"
    if file.exists():
        return False
    file.write_text(way)
    study.later(0.5, 4.0, lambda: file.unlink(missing_ok=True))
    return True


@fault(ANSWERS, "slurm")
def a_banner_around_answers(study: Study) -> bool:
    return _answer(study, "banner")


@fault(ANSWERS, "slurm")
def answers_that_are_cut(study: Study) -> bool:
    return _answer(study, "cut")


@fault(ANSWERS, "slurm")
def answers_that_are_empty(study: Study) -> bool:
    return _answer(study, "empty")


@fault(ANSWERS, "slurm")
def refusals_that_pass(study: Study) -> bool:
    return _answer(study, "refuse")


@fault(ANSWERS, "slurm", between=True)
def odd_answers_at_a_start(study: Study) -> bool:
    return _answer(study, study.chance.choice(["banner", "cut", "empty", "refuse"]))


def make_shims(folder: Path, programs: Path) -> None:
    """Commands named like Slurm's, which answer as a file in the study's control folder says, or as Slurm does."""
    folder.mkdir()
    for name in ("squeue", "sbatch", "sacct", "sinfo", "scontrol"):
        shim = folder / name
        shim.write_text(SHIM.format(real=programs / name, name=name))
        shim.chmod(0o755)


SHIM = """\
#!/bin/sh
case "$(cat "$FAULTS_CONTROL/answers" 2>/dev/null)" in
  banner)
    echo "*** Maintenance on Friday | see | the | site's | pages ***"
    {real} "$@"; code=$?
    echo "Thank you"; exit $code ;;
  cut)
    answer=$({real} "$@"); code=$?
    printf %s "$answer" | head -c $(( ${{#answer}} * 2 / 3 )); exit $code ;;
  empty) exit 0 ;;
  refuse) echo "{name}: error: Slurm temporarily unable to accept job" >&2; exit 1 ;;
  *) exec {real} "$@" ;;
esac
"""
