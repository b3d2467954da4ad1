"""An interpreter that looks for garbage once when it ends loses nothing by that."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import atexit
import gc
from trialfleet.sweep import interpreter_exit


class Cycle:
    def __init__(self, name):
        self.own, self.file = self, open(name, "w")
        self.file.write(name)

    def __del__(self):
        print("deleted", flush=True)


kept = Cycle("kept")
Cycle("dropped")
atexit.register(lambda: print("looked", gc.get_freeze_count() > 0, flush=True))  # runs after what comes below
interpreter_exit.look_once()
interpreter_exit.look_once()
"""


def test_files_are_written_out_and_finalizers_run(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (tmp_path / "kept").read_text() == "kept"
    assert done.stdout.splitlines()[:2] == ["deleted", "looked True"]
    assert done.stderr == ""
