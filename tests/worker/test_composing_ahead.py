"""Config files are read once for the jobs that a process becomes by forks; nothing of the application is imported."""

import os
import subprocess
import sys

from tests.worker.study import Study

SCRIPT = r"""
import pickle, sys
from pathlib import Path

import trialfleet.compat.hydra, trialfleet.worker.preloaded
from omegaconf import OmegaConf
from trialfleet.trial.submission import Submission
from trialfleet.worker import task

file, program = sys.argv[1:]
sys.path.insert(0, program)
submission = Submission.read(Path(file))


def composed():
    payload = pickle.loads(Path(submission.payload).read_bytes())
    return task._composed(submission, submission.trials[0], "1.0", payload, among_others=False)


try:
    task.compose_ahead(file)
except pickle.UnpicklingError as error:
    print(error)
print(trialfleet.compat.hydra.is_remembered(submission.payload), "worker_task" in sys.modules)
import worker_task
plain = composed()
task.compose_ahead(file)
print(trialfleet.compat.hydra.is_remembered(submission.payload))
config = Path(program, "conf", "config.yaml")
before = config.read_text()
config.write_text(before + "another: key\n")
try:
    again = composed()
finally:
    config.write_text(before)
print(OmegaConf.to_yaml(again) == OmegaConf.to_yaml(plain), again.do, again.x)
"""


def test_what_was_composed_ahead_is_composed_the_same_whatever_becomes_of_its_files(study: Study) -> None:
    submission, program = study.submit(["do=raise", "x=3"]), study.payload.parent
    words = [sys.executable, "-c", SCRIPT, str(submission), str(program)]
    environment = {**os.environ, "SWEEP_DIR": str(study.folder)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "worker_task is not imported",
        "False False",
        "True",
        "True raise 3",
    ]
