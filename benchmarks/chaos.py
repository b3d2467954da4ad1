"""A study on a real Slurm while a seeded saboteur breaks all there is: `python -m benchmarks.chaos --seed 1`.

It brings up the test cluster, an MLflow server and a study of short trials, and starts the study's command again
whenever its driver is gone, as a person would. Until the study is finished, or the minutes are over, the saboteur
kills, cancels, requeues, suspends, crashes and stops. Then it prints what was inflicted and what was lost, and
fails if anything was: each trial must be there once and complete, its objective bit for bit that of its parameters
undisturbed, and each of its metrics in MLflow once.
"""

import argparse
import contextlib
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.cluster import Cluster, ClusterError, Settings, free_port_block
from tests.tasks.descent import State, undisturbed
from tests.tasks.studies import Study

NODES = 4
PATIENCE = 900.0  # seconds after the last blow in which the study must finish


class Server:
    """An MLflow server on loopback."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.database = folder / "mlflow.db"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        if self._process is not None:
            return
        place = self.database.parent
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.database}"]
        command += ["--artifacts-destination", str(place / "artifacts")]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with open(place / "mlflow.log", "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=place, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers."""
        while True:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            except OSError:
                time.sleep(0.3)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclass
class Saboteur:
    """Breaks things, one after another, and mends what it broke after a while.

    Attributes:
        inflicted: how often each kind of thing was done.
        mending: what is to be mended, and when (monotonic seconds).
    """

    chance: random.Random
    cluster: Cluster
    study: Study
    server: Server
    inflicted: Counter[str] = field(default_factory=Counter)
    mending: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)  # parts that are broken now: one node at a time, say
    suspended: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def strike(self) -> None:
        """Do one thing, whatever can be done now."""
        acts = [self.kill_driver, self.suspend_driver, self.kill_worker, self.kill_worker, self.cancel, self.cancel]
        acts += [self.requeue, self.requeue, self.crash_node, self.lose_node, self.stop_server, self.stop_controller]
        act = self.chance.choice(acts)
        with contextlib.suppress(ClusterError):  # it asked something of a part that it had broken itself
            if act():
                self.inflicted[act.__name__.replace("_", " ")] += 1

    def mend(self, everything: bool = False) -> None:
        now = time.monotonic()
        due = [mend for at, mend in self.mending if everything or at <= now]
        self.mending = [] if everything else [(at, mend) for at, mend in self.mending if at > now]
        for mend in due:
            mend()

    def _later(self, low: float, high: float, part: str, mend: Callable[[], None]) -> None:
        def heal() -> None:
            mend()
            self.broken.discard(part)

        self.broken.add(part)
        self.mending.append((time.monotonic() + self.chance.uniform(low, high), heal))

    # ---------------------------------------------------------------- the driver

    def driver(self) -> subprocess.Popen[bytes] | None:
        """The newest that is alive and awake."""
        awake = [one for one in self.study.drivers if one.poll() is None and one not in self.suspended]
        return awake[-1] if awake else None

    def kill_driver(self) -> bool:
        driver = self.driver()
        if driver is None:
            return False
        driver.kill()
        driver.wait()
        return True

    def suspend_driver(self) -> bool:
        """The study's command is typed again meanwhile: the new driver takes the lease over."""
        driver = self.driver()
        if self.suspended or driver is None:
            return False
        driver.send_signal(signal.SIGSTOP)
        self.suspended.append(driver)
        self._later(6, 12, "driver", self._wake)
        return True

    def _wake(self) -> None:
        for driver in self.suspended:
            driver.send_signal(signal.SIGCONT)
        self.suspended = []

    # ---------------------------------------------------------------- jobs

    def _victim(self) -> int | None:
        running = self.study.running()
        return self.chance.choice(running) if running else None

    def kill_worker(self) -> bool:
        trial = self._victim()
        claims = [] if trial is None else self.study.trial(trial).claims()
        if not claims or not claims[-1].process.is_alive():
            return False
        os.kill(claims[-1].process.pid, signal.SIGKILL)
        return True

    def cancel(self) -> bool:
        return self._to_a_job("scancel")

    def requeue(self) -> bool:
        return self._to_a_job("scontrol", "requeue")

    def _to_a_job(self, *command: str) -> bool:
        trial = self._victim()
        job = None if trial is None else self.study.job(trial)
        return job is not None and self.cluster.run(*command, job, check=False).returncode == 0

    # ---------------------------------------------------------------- the machines

    def crash_node(self) -> bool:
        """The node loses power, and its jobs with it."""
        if self.broken & {"node", "controller"}:
            return False
        node = self.chance.randint(1, NODES)
        self.cluster.crash_node(node)
        self._later(5, 15, "node", lambda: self.cluster.start_node(node))
        return True

    def lose_node(self) -> bool:
        """Slurm loses the node; what runs there runs on, while Slurm starts it again elsewhere."""
        if self.broken & {"node", "controller"}:
            return False
        node = self.chance.randint(1, NODES)
        self.cluster.kill_slurmd(node)
        self.cluster.run("scontrol", "update", f"nodename={self.cluster.nodes[node - 1]}", "state=down", "reason=lost")
        self._later(10, 20, "node", lambda: self.cluster.start_node(node))
        return True

    def stop_controller(self) -> bool:
        if self.broken & {"node", "controller"}:
            return False
        self.cluster.stop_controller()
        self._later(5, 15, "controller", self.cluster.start_controller)
        return True

    def stop_server(self) -> bool:
        if not self.server.runs:
            return False
        self.server.stop()
        self._later(5, 20, "server", self.server.start)
        return True


# -------------------------------------------------------------------- what came of it


def judge(study: Study, database: Path, trials: int, steps: int) -> list[str]:
    """What was lost, doubled or spoilt, in words."""
    wrong = []
    stored = study.stored()
    states = Counter(trial.state.name for trial in stored)
    if states != {"COMPLETE": trials}:
        wrong.append(f"the study has {dict(states)}, not {trials} complete trials")
    for trial in stored:
        wanted = undisturbed(trial.params["x"], trial.params["y"], steps)
        result = study.trial(trial.number).result()
        if trial.value != wanted or result is None or list(result.objectives or ()) != [wanted]:
            wrong.append(f"trial {trial.number}: objective {trial.value}, undisturbed {wanted}")
    return wrong + _judge_mlflow(study, database, trials, steps)


def _judge_mlflow(study: Study, database: Path, trials: int, steps: int) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        query = "SELECT t.value, m.key, m.step, m.value FROM metrics m JOIN tags t USING (run_uuid) WHERE t.key = ?"
        rows = connection.execute(query, ("trialfleet.trial",)).fetchall()
        runs = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall())
    wanted = []
    for trial in study.stored():
        state = State()
        for step in range(1, steps + 1):
            state.advance(trial.params["x"], trial.params["y"])
            wanted.append((str(trial.number), "loss", step, state.loss(trial.params["y"])))
            wanted.append((str(trial.number), "position", step, state.position))
        wanted.append((str(trial.number), "objective", 0, trial.value))
    missing, surplus = Counter(wanted) - Counter(rows), Counter(rows) - Counter(wanted)
    wrong = [f"MLflow lacks {row}" for row in missing] + [f"MLflow has {row} too often" for row in surplus]
    if runs != {"FINISHED": trials + 1}:
        wrong.append(f"MLflow has runs {runs}, not {trials} finished trials and their study")
    return wrong


def account(study: Study, steps: int) -> list[str]:
    """What the study spent on its survival."""
    numbers = study.numbers()
    runs = sum(len(study.labels(number)) for number in numbers)
    done = sum(len(study.steps(number, label)) for number in numbers for label in study.labels(number))
    return [
        f"{len(study.drivers)} drivers, {runs} runs for {len(numbers)} trials",
        f"{done} steps done for {len(numbers) * steps} that count: {100 * (done / (len(numbers) * steps) - 1):.0f} % "
        "were done again",
    ]


# -------------------------------------------------------------------- the show


def chaos(place: Path, seed: int, trials: int, slots: int, minutes: float, steps: int, seconds: float) -> int:
    """Returns the number of things that went wrong."""
    chance, began = random.Random(seed), time.monotonic()
    cluster, server = Cluster(place / "cluster"), Server(place)
    study = Study(
        place,
        "hydra/launcher=submitit_slurm",
        "hydra.launcher.use_srun=false",
        f"hydra.sweeper.n_trials={trials}",
        f"hydra.sweeper.n_jobs={slots}",
        # Each blow may fall before a run's first checkpoint: here that is no sign of a sick trial.
        "hydra.sweeper.max_retries=50",
        "hydra.sweeper.max_unclaimed=50",
        f"steps={steps}",
        f"seconds={seconds}",
        f"tracking.uri={server.uri}",
    )
    saboteur = Saboteur(chance, cluster, study, server)
    try:
        server.start()
        cluster.up(Settings(nodes=NODES, port=free_port_block()))
        study.environment = {"SLURM_CONF": str(cluster.conf), "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        server.wait()
        _while_it_lasts(study, saboteur, began + 60 * minutes)
        struck = time.monotonic() - began
        saboteur.mend(everything=True)
        server.wait()
        _finish(study)
        print(f"seed {seed}: {trials} trials of {steps} steps of {seconds} s on {slots} slots and {NODES} nodes")
        print(f"inflicted in {struck:.0f} s: " + ", ".join(f"{what} {n}" for what, n in _most(saboteur.inflicted)))
        print(f"finished after {time.monotonic() - began:.0f} s: " + "; ".join(account(study, steps)))
        wrong = judge(study, server.database, trials, steps)
        print("lost: nothing" if not wrong else f"LOST: {len(wrong)}\n  " + "\n  ".join(wrong[:20]))
        return len(wrong)
    finally:
        saboteur._wake()
        study.clean_up()
        server.stop()
        cluster.down()


def _most(inflicted: Counter[str]) -> Sequence[tuple[str, int]]:
    return inflicted.most_common()


def _while_it_lasts(study: Study, saboteur: Saboteur, until: float) -> None:
    """Until the study is finished or the time is over: strike, mend, and start the driver whenever it is gone."""
    study.start()
    strike_at = time.monotonic() + 5.0  # the first trials have started by then
    while time.monotonic() < until:
        time.sleep(0.2)
        saboteur.mend()
        if saboteur.driver() is None:
            if study.drivers[-1].poll() == 0 and " is finished: " in study.said()[-3000:]:
                return
            study.start()
        if time.monotonic() >= strike_at:
            saboteur.strike()
            strike_at = time.monotonic() + saboteur.chance.uniform(0.5, 4.0)


def _finish(study: Study) -> None:
    """No more blows: the study's command is typed until it says that the study is finished."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        while any(driver.poll() is None for driver in study.drivers) and time.monotonic() < deadline:
            time.sleep(0.2)
        if study.drivers[-1].poll() == 0 and " is finished: " in study.said()[-3000:]:
            return
        study.start()
    raise TimeoutError(f"the study does not finish:\n{study.report()}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which the saboteur rests")
    parser.add_argument("--steps", type=int, default=40, help="of each trial")
    parser.add_argument("--seconds", type=float, default=0.2, help="for each step")
    parser.add_argument("--keep", type=Path, help="work in this new folder, and leave it there to look at")
    chosen = vars(parser.parse_args())
    kept: Path | None = chosen.pop("keep")
    if kept is not None:
        kept.mkdir()
        return min(1, chaos(kept.resolve(), **chosen))
    # The sockets of Slurm want a short path.
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        return min(1, chaos(Path(place), **chosen))


if __name__ == "__main__":
    sys.exit(main())
