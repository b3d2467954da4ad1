"""Python imports this at each start of a job whose PYTHONPATH has this folder: the job meets the study's troubles."""

import os
import sys
from pathlib import Path

if "FAULTS_CONTROL" in os.environ and "trialfleet.worker" in sys.orig_argv:
    from benchmarks.faults.trouble import install

    install(Path(os.environ["FAULTS_CONTROL"]), Path(os.environ["FAULTS_PLACE"]))
