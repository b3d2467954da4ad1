"""One process that runs trial after trial: each as if it were the first, and none longer than the process is fit."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.study import UID, Study, slurm
from trialfleet.trial import records
from trialfleet.trial.result import TrialState
from trialfleet.trial.submission import Submission
from trialfleet.trial.worker_folder import WorkerFolder
from trialfleet.trial.worker_terms import Terms

TERMS = Terms(trials=None, minutes=None, idle=60.0, failures=3, growth_gb=1.0)
DONE = "the test is over"


class Orders:
    """What the driver would order: the trials of a submission one after another, all by its first element's worker."""

    def __init__(self, study: Study, submission: Path) -> None:
        self.study, self.path = study, submission
        self.submission = Submission.read(submission)
        self.folder = WorkerFolder(study.folder, f"{self.submission.uuid}.0")

    def write(self) -> None:
        trials = self.submission.trials[1:]
        for number, trial in enumerate(trials, 1):
            assert self.folder.assign(number, replace(self.submission, uuid=f"more{number}", trials=[trial]))
        assert self.folder.close(len(trials) + 1, DONE)

    def run(self, terms: Terms = TERMS, **environment: str) -> tuple[int, str]:
        """The worker's exit code, and what it said outside of its trials' logs."""
        return self.study.run(self.path, **terms.environment(), **environment)


def ordered(study: Study, *bodies: str) -> Orders:
    orders = Orders(study, study.does(*bodies))
    orders.write()
    return orders


def test_each_trial_has_a_run_a_log_and_a_result_of_its_own(study: Study) -> None:
    body = "import os; print('body', {}); os.write(1, b'by the descriptor'); own.report(1, {{'loss': {}}})"
    orders = ordered(study, *(body.format(number, number) for number in range(3)))
    code, said = orders.run()
    assert code == 0
    assert said.splitlines() == [f"no more trials: {DONE}"]
    processes = set()
    for number in range(3):
        assert study.ended(number).state is TrialState.COMPLETE
        assert study.ended(number).run == "1.0"
        log = study.log(number)
        assert [line for line in log.splitlines() if line.startswith("body")] == [f"body {number}"]
        assert "by the descriptor" in log
        assert study.ended(number).seconds["total"] < 60
        (claim,) = study.trial(number).claims()
        processes.add(claim.process)
    assert len(processes) == 1
    assert orders.folder.closed()


CENSUS = """
import gc, json, locale, logging, os, random, signal, sys, threading, warnings
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from trialfleet.trial import run

hidden = ("TRIALFLEET_WORKER", "TRIALFLEET_RUN", "PWD")
root = logging.getLogger()
seen = {
    "environment": {key: value for key, value in os.environ.items() if key not in hidden},
    "folder": os.getcwd(),
    "umask": oct(os.umask(0o22)),
    "path": sys.path,
    "arguments": sys.argv,
    "streams": [sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__],
    "handlers": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "filters": [str(one) for one in warnings.filters],
    "level": root.level,
    "root": [type(one).__name__ for one in root.handlers],
    "files": [one.baseFilename.endswith("worker_task.log") for one in root.handlers if hasattr(one, "baseFilename")],
    "of hydra": [logging.getLogger("hydra").level, logging.getLogger("hydra").propagate],
    "disabled": root.manager.disable,
    "recursion": sys.getrecursionlimit(),
    "collects": gc.isenabled(),
    "locale": locale.setlocale(locale.LC_ALL),
    "plugins": sorted(Plugins.instance().class_name_to_class),
    "resolver": OmegaConf.has_resolver("dirt"),
    "subdir": HydraConfig.get().sweep.subdir.split("/")[0],
    "children": open(f"/proc/self/task/{os.getpid()}/children").read(),
    "excepthook": sys.excepthook is sys.__excepthook__,
    "own": run.current() is own,
}
(own.directory / "census").write_text(json.dumps(seen, sort_keys=True))
(own.directory / "chance").write_text(str(random.random()))
"""
DIRT = """
import gc, locale, logging, os, random, signal, subprocess, sys, warnings
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

os.environ["DIRT"] = "1"
del os.environ["PYTHONPATH"]
os.chdir("/")
os.umask(0)
sys.path.insert(0, "/dirt")
sys.argv.append("dirt")
sys.stdout = open(own.directory / "elsewhere", "w")
sys.excepthook = print
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGUSR1, print)
warnings.simplefilter("error")
logging.disable(logging.CRITICAL)
logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger().addHandler(logging.FileHandler(own.directory / "dirt.log"))
logging.getLogger("hydra").setLevel(1)
sys.setrecursionlimit(4321)
gc.disable()
OmegaConf.register_resolver("dirt", lambda text: text)
plugin = {"__module__": "dirt", "manipulate_search_path": lambda self, search_path: None}
Plugins.instance().register(type("Dirt", (SearchPathPlugin,), plugin))
subprocess.Popen(["sleep", "100"])
random.seed(1)
"""


def test_a_trial_finds_the_process_as_a_fresh_one_would_be(study: Study) -> None:
    """Whatever the trial before it has done to it."""
    ordered(study, CENSUS, DIRT, CENSUS, DIRT, CENSUS).run()
    seen = [json.loads((study.trial(number).run_dir("1.0") / "census").read_text()) for number in (0, 2, 4)]
    assert [study.ended(number).state for number in range(5)] == [TrialState.COMPLETE] * 5
    for later in seen[1:]:
        assert later == seen[0] | {"subdir": later["subdir"]}
    chances = {(study.trial(number).run_dir("1.0") / "chance").read_text() for number in (0, 2, 4)}
    assert len(chances) == 3


WELL, BAD = "pass", "raise ValueError(1)"
RUNTIME = "raise type('XlaRuntimeError', (Exception,), {'__module__': 'jaxlib'})('device lost')"
GROWN = "import builtins; builtins.kept = bytearray(300_000_000); kept[::4096] = b'1' * len(kept[::4096])"
STAYS_AWAY = "from trialfleet.trial.run import Preempted; raise Preempted"
REASONS = {
    "trials": ((WELL, WELL, WELL), {"trials": 2}, 2, "worker.trials=2"),
    "minutes": ((WELL, WELL), {"minutes": 1e-6}, 1, "worker.minutes=1e-06"),
    "failures": ((BAD, WELL, BAD, BAD, WELL), {"failures": 2}, 4, "2 failures in a row (worker.failures)"),
    "runtime": ((WELL, RUNTIME, WELL), {}, 2, "the device's runtime failed"),
    "growth": ((WELL, GROWN, WELL), {"growth_gb": 0.2}, 2, "it has grown by 0.3 GB (worker.growth_gb)"),
    "signal": (("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", WELL), {}, 1, "it was asked to go"),
}


@pytest.mark.parametrize("why", REASONS)
def test_a_process_that_may_not_be_fit_leaves_and_says_why(study: Study, why: str) -> None:
    bodies, changes, runs, reason = REASONS[why]
    orders = Orders(study, study.does(*bodies))
    trials = orders.submission.trials
    for number, trial in enumerate(trials[1:runs], 1):
        orders.folder.assign(number, replace(orders.submission, uuid=f"more{number}", trials=[trial]))
    orders.run(replace(TERMS, **changes))
    assert orders.folder.order(runs).reason == reason
    assert [bool(study.trial(number).claims()) for number in range(len(bodies))] == [
        number < runs for number in range(len(bodies))
    ]


def test_a_run_without_a_result_is_the_last_and_leaves_the_job_to_go_on_with_it(study: Study) -> None:
    orders = Orders(study, study.does(WELL, STAYS_AWAY, WELL))
    orders.folder.assign(1, replace(orders.submission, uuid="more", trials=orders.submission.trials[1:2]))
    assert orders.run()[0] == 0
    assert (orders.folder.waiting(), orders.folder.closed(), orders.folder.last_order()) == (None, False, 1)
    assert not study.trial(2).claims()


def test_a_worker_for_which_nothing_comes_leaves(study: Study) -> None:
    orders = Orders(study, study.does(WELL))
    code, _ = orders.run(replace(TERMS, idle=0.01))
    assert code == 0
    assert orders.folder.order(1).reason == "nothing came for 0.01 s (worker.idle)"
    assert not orders.folder.assign(1, orders.submission)


@pytest.mark.parametrize(
    "limit", [{"SUBMITIT_LOCAL_TIMEOUT_S": "1"}, {"SLURM_JOB_END_TIME": "100"}], ids=["local", "Slurm"]
)
def test_no_trial_begins_for_which_no_time_is_left(study: Study, limit: dict[str, str]) -> None:
    orders = ordered(study, "import time; time.sleep(0.9)", WELL)
    _, said = orders.run(**limit)
    assert "the time limit is near" in said
    assert not study.trial(1).claims()


def test_a_job_that_slurm_has_started_again_goes_on_with_its_last_trial(study: Study) -> None:
    orders = Orders(study, study.does(WELL, WELL))
    trials = orders.submission.trials
    orders.folder.assign(1, replace(orders.submission, uuid="more", trials=trials[1:]))
    for number, trial in enumerate(trials):
        study.trial(number).claim(1, "slurm:12", 0, orders.submission.identity(trial))
    orders.run(replace(TERMS, idle=0.01), **slurm(12, restart=1))
    assert study.trial(0).result() is None
    assert study.ended(1).run == "1.1"


@pytest.mark.slow
def test_a_trial_that_needs_a_process_of_its_own_is_given_back(study: Study) -> None:
    asks = "from trialfleet.trial.run import NotInThisProcess\nif own.among_others: raise NotInThisProcess"
    orders = ordered(study, asks, asks)
    orders.run()
    assert study.ended(0).state is TrialState.COMPLETE
    assert study.trial(1).claims() == []
    study.run(orders.path, 1)
    assert study.ended(1).state is TrialState.COMPLETE


def test_the_worker_tells_what_it_has_compiled(study: Study) -> None:
    orders = Orders(study, study.does("own.note(signature='one')"))
    orders.run(replace(TERMS, idle=0.01))
    ready = json.loads((orders.folder.path / "0001.ready").read_text())
    assert ready["known"] == [records.digest("one")]


def test_a_folder_is_opened_anew_and_one_that_is_not_there_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: opened.append(path) or scandir(path))
    folder = WorkerFolder(tmp_path, "a.0")
    folder.look_anew()
    folder.wait_for(1, frozenset())
    folder.look_anew()
    assert opened == [folder.path] * 2


def test_the_folder_says_once_what_comes_next(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path, "uuid.0")
    submission = Submission("other", "payload", str(tmp_path), UID, 1, 0.0, [])
    assert (folder.waiting(), folder.closed(), folder.last_order()) == (None, False, 0)
    folder.wait_for(1, frozenset({"one"}))
    waiting = folder.waiting()
    assert waiting is not None
    assert (waiting.number, waiting.known) == (1, {"one"})
    assert folder.assign(1, submission)
    assert not folder.assign(1, submission)
    assert not folder.close(1, "late")
    assert folder.order(1).submission == submission
    assert (folder.waiting(), folder.closed(), folder.last_order()) == (None, False, 1)
    folder.wait_for(2, frozenset())
    assert folder.close(2, "enough")
    assert not folder.assign(2, submission)
    assert (folder.waiting(), folder.closed(), folder.order(2).reason) == (None, True, "enough")
    (folder.path / "0003.json").write_bytes(os.urandom(9))
    assert folder.order(3).submission is None


def test_who_follows_a_folder_does_not_list_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    worker, driver = WorkerFolder(tmp_path, "a.0"), WorkerFolder(tmp_path, "a.0")
    submission = Submission("other", "payload", str(tmp_path), UID, 1, 0.0, [])
    for number in range(1, 20):
        worker.wait_for(number, frozenset())
        waiting = driver.waiting()
        assert waiting is not None
        assert waiting.number == number
        assert driver.assign(number, submission)
        assert driver.waiting() is None
    assert len(listed) == 1
    worker.wait_for(20, frozenset())
    worker.close(20, "it leaves")
    worker.close(21, "and says so twice")
    assert driver.closed()
    late = WorkerFolder(tmp_path, "a.0").waiting, driver.waiting
    assert [one() for one in late] == [None, None]
