"""The test cluster behaves as the Slurm of a computing centre does, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from jobs.cluster import Cluster, ClusterError, Settings, free_port_block, packages, processes, unavailable
from jobs.cluster.processes import wait_until
from jobs.slurm_cluster import main

pytestmark = pytest.mark.cluster

HOSTS = Path("/etc/hosts")
SWEEP_SCRIPT = Path(__file__).parents[2] / "jobs" / "sweep.sbatch"


class Submit(Protocol):
    """Submits a shell script; the job's id."""

    def __call__(self, script: str, *options: str) -> str: ...


@pytest.fixture
def submit(cluster: Cluster, tmp_path: Path) -> Submit:
    """Submit jobs that work in `tmp_path` and write JOB.out or JOB_TASK.out there."""

    def submit(script: str, *options: str) -> str:
        where = ("--parsable", f"--chdir={tmp_path}", "--open-mode=append")
        output = "%A_%a.out" if any(option.startswith("--array") for option in options) else "%j.out"
        return cluster.run("sbatch", *where, f"--output={output}", *options, "--wrap", script).stdout.strip()

    return submit


@pytest.fixture
def another() -> Iterator[Cluster]:
    """A second cluster's place, empty yet."""
    with tempfile.TemporaryDirectory(prefix="trialfleet-") as parent:
        cluster = Cluster(Path(parent, "another"))
        try:
            yield cluster
        finally:
            cluster.down()


def wait_for_file(path: Path) -> None:
    assert wait_until(path.exists, timeout=60.0), f"{path.name} was never written"


def node_of(cluster: Cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%N").stdout.strip()


# -------------------------------------------------------------------- jobs


def test_a_cluster_that_is_up_answers(cluster: Cluster) -> None:
    assert list(cluster.status()) == ["munged", "slurmctld", "n1", "n2"]
    assert all(cluster.status().values())
    # Dedup the jobs of the test before are off them.
    assert wait_until(lambda: all(cluster.node_state(node) == {"IDLE"} for node in cluster.nodes), timeout=60.0)


def test_up_leaves_alone_what_runs(cluster: Cluster) -> None:
    before = cluster.status()
    cluster.up()
    assert cluster.status() == before


def test_up_refuses_other_settings_for_a_running_cluster(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="other settings"):
        cluster.up(Settings(nodes=3))


def test_commands_find_the_cluster_by_slurm_conf(cluster: Cluster) -> None:
    asked = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True)
    assert str(cluster.directory / "state") in asked.stdout


def test_a_job_runs_and_ends(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("echo done by $SLURM_JOB_ID; test -z $CUDA_VISIBLE_DEVICES")
    cluster.wait_for_job(job, "COMPLETED")
    assert (tmp_path / f"{job}.out").read_text() == f"done by {job}\n"


def test_a_job_that_fails_is_failed(cluster: Cluster, submit: Submit) -> None:
    cluster.wait_for_job(submit("exit 3"), "FAILED")


def test_an_array_runs_all_its_tasks(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("echo $SLURM_ARRAY_TASK_ID", "--array=0-3%2")
    cluster.wait_for_job(job, "COMPLETED")
    assert len(cluster.job_states(job)) == 4
    assert [(tmp_path / f"{job}_{task}.out").read_text() for task in range(4)] == ["0\n", "1\n", "2\n", "3\n"]


def test_jobs_see_the_gpus_they_asked_for(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("echo $CUDA_VISIBLE_DEVICES", "--gres=gpu:2")
    cluster.wait_for_job(job, "COMPLETED")
    assert (tmp_path / f"{job}.out").read_text() == "0,1\n"


def test_tasks_of_one_job_run_on_several_nodes(cluster: Cluster) -> None:
    ran = cluster.run("srun", "--nodes=2", "printenv", "SLURMD_NODENAME")
    assert sorted(ran.stdout.split()) == cluster.nodes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may put names into /etc/hosts")
def test_node_names_resolve(cluster: Cluster) -> None:
    assert cluster.names_resolve


def test_a_requeued_job_counts_its_restarts(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("touch life-${SLURM_RESTART_COUNT:-0}; test $SLURM_RESTART_COUNT || sleep 600")
    wait_for_file(tmp_path / "life-0")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_for_job(job, "COMPLETED")
    assert (tmp_path / "life-1").exists()


def test_a_preempted_job_is_warned_and_makes_room(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    wait_in_vain = "trap 'touch warned; exit' USR2; touch started; while :; do sleep .1; done"
    low = submit(wait_in_vain, "--partition=low", "--nodes=2", "--exclusive", "--signal=B:USR2@60")
    wait_for_file(tmp_path / "started")
    high = submit("true", "--partition=high", "--nodes=2", "--exclusive")
    cluster.wait_for_job(high, "COMPLETED")
    assert (tmp_path / "warned").exists()
    assert cluster.job_states(low) != ["RUNNING"]


# -------------------------------------------------------------------- failures


def test_jobs_of_a_crashed_node_are_requeued_or_lost(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    script = "touch $SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}; test $SLURM_RESTART_COUNT || sleep 600"
    requeued = submit(script)
    wait_for_file(tmp_path / f"{requeued}-0")
    node = node_of(cluster, requeued)
    lost = submit(script, "--no-requeue", f"--nodelist={node}")
    wait_for_file(tmp_path / f"{lost}-0")

    # After a restart of the controller `sinfo` alone would go on calling the node mixed.
    cluster.stop_controller()
    cluster.start_controller()
    cluster.crash_node(node)
    assert "DOWN" in cluster.node_state(node)
    assert cluster.status()[node] is None
    cluster.wait_for_job(lost, "NODE_FAIL")
    cluster.wait_for_job(requeued, "COMPLETED")
    assert (tmp_path / f"{requeued}-1").exists()

    cluster.start_node(node)
    assert wait_until(lambda: cluster.node_state(node) == {"IDLE"}, timeout=60.0)
    assert cluster.status()[node]


def test_a_crash_takes_along_tasks_that_have_left_their_step(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("(setsid sh -c 'echo $$ > stray; exec sleep 600' &); sleep 600")
    wait_for_file(tmp_path / "stray")
    assert wait_until(lambda: bool((tmp_path / "stray").read_text()), timeout=10.0)
    stray = int((tmp_path / "stray").read_text())
    cluster.crash_node(node_of(cluster, job))
    assert processes.stat(stray) is None


def test_tasks_outlive_their_slurmd(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("touch started; while ! test -e finish; do sleep .1; done; touch finished")
    wait_for_file(tmp_path / "started")
    node = node_of(cluster, job)
    cluster.kill_slurmd(node)
    assert cluster.status()[node] is None
    (tmp_path / "finish").touch()
    wait_for_file(tmp_path / "finished")
    cluster.start_node(node)
    cluster.wait_for_job(job, "COMPLETED")


def test_jobs_outlive_a_controller_that_is_down(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    job = submit("touch started; while ! test -e finish; do sleep .1; done")
    wait_for_file(tmp_path / "started")
    cluster.stop_controller()
    assert cluster.status()["slurmctld"] is None
    cluster.start_controller()
    assert cluster.job_states(job) == ["RUNNING"]
    (tmp_path / "finish").touch()
    cluster.wait_for_job(job, "COMPLETED")


def test_nodes_go_by_name_or_number(cluster: Cluster) -> None:
    cluster.start_node(2)
    cluster.start_node("n2")
    with pytest.raises(ClusterError, match="there is no node n3, only n1, n2"):
        cluster.crash_node(3)


# -------------------------------------------------------------------- the sweep's driver as a job


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A project directory whose `pipelines.sweep` notes what happens to it, and ends on SIGTERM only."""
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").touch()
    (tmp_path / "pipelines" / "sweep.py").write_text(
        "import os, signal, sys\n"
        "life = os.environ.get('SLURM_RESTART_COUNT', '0')\n"
        "print('life', life, *sys.argv[1:], flush=True)\n"
        "def detach(*_):\n"
        "    print('detached', flush=True)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, detach)\n"
        "open(f'driver-{life}', 'w').close()\n"
        "if life == '0' or 'long' in sys.argv:\n"
        "    signal.pause()\n"
    )
    return tmp_path


def submit_driver(cluster: Cluster, project: Path, *arguments: str) -> str:
    options = ("--parsable", f"--chdir={project}", "--output=sweep.log")
    return cluster.run("sbatch", *options, str(SWEEP_SCRIPT), *arguments).stdout.strip()


def test_a_driver_near_its_time_limit_detaches_and_goes_on_later(cluster: Cluster, driver: Path) -> None:
    job = submit_driver(cluster, driver, "-m", "lr=choice(1,2)", "name=two words")
    wait_for_file(driver / "driver-0")
    # What Slurm sends ahead of the time limit, and of preemption.
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    cluster.wait_for_job(job, "COMPLETED")
    said = "-m lr=choice(1,2) name=two words"
    lines = (driver / "sweep.log").read_text().splitlines()
    assert [line for line in lines if "slurmstepd" not in line] == [
        f"life 0 {said}",
        "detached",
        f"life 1 {said}",
    ]


def test_the_driver_s_failure_is_the_job_s(cluster: Cluster, driver: Path) -> None:
    (driver / "pipelines" / "sweep.py").write_text("raise SystemExit(7)\n")
    job = submit_driver(cluster, driver)
    cluster.wait_for_job(job, "FAILED")
    assert "ExitCode=7:0" in cluster.run("scontrol", "show", "job", job).stdout


def test_a_cancelled_driver_detaches_and_stays_cancelled(cluster: Cluster, driver: Path) -> None:
    job = submit_driver(cluster, driver, "long")
    wait_for_file(driver / "driver-0")
    cluster.run("scancel", job)
    cluster.wait_for_job(job, "CANCELLED")
    assert "detached\n" in (driver / "sweep.log").read_text()


# -------------------------------------------------------------------- down, and what fails


def test_down_leaves_nothing_behind(another: Cluster, tmp_path: Path) -> None:
    def foreign_lines() -> list[str]:
        return [line for line in HOSTS.read_text().splitlines() if "# trialfleet cluster" not in line]

    before = foreign_lines()
    another.up(Settings(nodes=1, port=free_port_block()))
    stray = f"(setsid sh -c 'echo $$ > {tmp_path}/stray; exec sleep 600' &); sleep 600"
    another.run("sbatch", f"--output={tmp_path}/%j.out", "--wrap", stray)
    wait_for_file(tmp_path / "stray")
    # A client waiting for its job is told of the end.
    waiting = subprocess.Popen(["srun", "sleep", "600"], env=another.env, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: len(another.run("squeue", "--noheader").stdout.splitlines()) == 2, timeout=30.0)
    mine = {process.pid for process in processes.all_processes() if belongs_to(process.pid, another)}
    assert set(another.status().values()) <= mine

    another.down()
    assert not any(processes.stat(pid) for pid in mine - {waiting.pid})
    assert not any(belongs_to(process.pid, another) for process in processes.all_processes())
    assert waiting.wait(timeout=60) != 0
    assert not another.directory.exists()
    assert str(another.directory) not in HOSTS.read_text()
    assert foreign_lines() == before
    another.down()


def belongs_to(pid: int, cluster: Cluster) -> bool:
    """Daemons, steps and tasks have the cluster's slurm.conf in their environment, or work in its place."""
    marked = f"SLURM_CONF={cluster.conf}".encode() in processes.environment(pid)
    return marked or processes.working_directory(pid).startswith(str(cluster.directory))


def test_an_up_that_fails_cleans_up_and_shows_the_log(
    another: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "slurmd"
    broken.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(packages, "PATH", f"{tmp_path}:{packages.PATH}")
        with pytest.raises(ClusterError, match=r"(?s)n1 ended .*/log/n1\.log.*no such luck"):
            another.up(Settings(nodes=1, port=free_port_block()))
    assert not any(another.status().values())
    assert not any(belongs_to(process.pid, another) for process in processes.all_processes())
    assert sorted(entry.name for entry in another.directory.iterdir()) == ["cluster.json", "log"]
    assert str(another.directory) not in HOSTS.read_text()
    another.up()
    assert all(another.status().values())


def test_taken_ports_are_refused(cluster: Cluster, another: Cluster) -> None:
    with pytest.raises(ClusterError, match="in use"):
        another.up(cluster.settings)


def test_a_directory_with_something_else_in_it_is_left_alone(another: Cluster) -> None:
    another.directory.mkdir()
    (another.directory / "thesis.tex").touch()
    with pytest.raises(ClusterError, match="not a cluster's directory"):
        another.up(Settings(nodes=1, port=free_port_block()))
    another.down()
    assert (another.directory / "thesis.tex").exists()


def test_no_slurm_and_no_root_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable() is None
    monkeypatch.setattr(packages, "PATH", "/nowhere")
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() or 1)
    reason = unavailable()
    assert reason
    assert "not installed" in reason


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"gpus": 9}, {"prefix": "a b"}, {"accounting": "paper"}, {"port": 80}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]


def test_the_command_line_does_all_of_it(another: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    place = f"--dir={another.directory}"
    export = f"export SLURM_CONF={another.conf}\n"
    assert main(["status", place]) == 1
    assert "no cluster" in capsys.readouterr().err
    assert main(["up", place, "--nodes=1", f"--port={free_port_block()}", "--min-job-age=60"]) == 0
    assert export in capsys.readouterr().out
    assert main(["up", place]) == 0
    assert main(["env", place]) == 0
    assert capsys.readouterr().out.endswith(export)
    assert "MinJobAge               = 60 sec" in another.run("scontrol", "show", "config").stdout
    for command in (["stop-controller"], ["start-controller"], ["crash-node", "1"], ["start-node", "n1"]):
        assert main([*command, place]) == 0
    assert main(["status", place]) == 0
    assert main(["kill-slurmd", "1", place]) == 0
    assert main(["status", place]) == 1
    assert main(["down", place]) == 0
    assert not another.directory.exists()
