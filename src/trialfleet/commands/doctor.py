"""`trialfleet doctor [OVERRIDE …]`: whether this machine and its cluster are ready. Changes nothing."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import optuna
from rich.console import Console
from rich.text import Text

from trialfleet.doctor.asked import ask
from trialfleet.doctor.checks import all_checks
from trialfleet.doctor.findings import Finding, examine
from trialfleet.doctor.tiny_job import QUEUE_SECONDS
from trialfleet.sweep.study.search_space import element

_STYLES = {"ok": "green", "note": "yellow", "FAIL": "bold red"}
_OPTIONS = {  # option → the setting that it means
    "folder": "hydra.sweep.dir",
    "storage": "hydra.sweeper.storage",
    "tracking_uri": "hydra.sweeper.tracking.uri",
}


def run(program: str, words: Sequence[str], conf: Path | None = None, config_name: str | None = None) -> None:
    """Print one line for each check, and exit with 1 if one of them failed, else with 0.

    Args:
        program: how the command is called, for its help.
        words: the command line behind that.
        conf: the folder of the application's configs, and config_name the primary one of its sweeps; by default the
            package's own configs alone.

    Raises:
        UserError: an override is wrong.
    """
    arguments = _parser(program).parse_args(words)
    overrides = [*arguments.overrides]
    for option, key in _OPTIONS.items():
        given = getattr(arguments, option)
        if given is not None:
            value = os.path.join(given, "${hydra.sweeper.study_name}") if option == "folder" else given  # noqa: PTH118
            overrides.append(f"{key}={element(value)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = ask(overrides, conf, config_name, arguments.job)
    failed = False
    found: list[Finding] = []
    with _interrupted_by_sigterm(), closing(examine(all_checks(asked, arguments.wait))) as findings:
        for finding in findings:
            failed = failed or finding.status == "FAIL"
            found.append(finding)
            if not arguments.json:
                _show(finding)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    sys.exit(1 if failed else 0)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Says whether this machine and its cluster are ready for studies, one line for each check: ok, "
        "note or FAIL, and what to do. Changes nothing. Exits with 1 if something failed.",
    )
    parser.add_argument("--json", action="store_true", help="the same as a list of {name, status, found, fix}")
    parser.add_argument(
        "--job",
        action="store_true",
        help="submit one tiny job, to see what a node sees; the default if the launcher is one of Slurm's",
    )
    parser.add_argument(
        "--wait",
        type=float,
        default=QUEUE_SECONDS,
        metavar="SECONDS",
        help="how long that job may wait in line (%(default)g)",
    )
    parser.add_argument("--folder", help="where studies lie, instead of ./sweeps (hydra.sweep.dir)")
    parser.add_argument("--storage", help="the same as hydra.sweeper.storage=…")
    parser.add_argument("--tracking-uri", help="the same as hydra.sweeper.tracking.uri=…")
    parser.add_argument("-m", "--multirun", action="store_true", help="without effect: a sweep's command has it")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="as the sweep's command has them, hydra/launcher=submitit_slurm hydra.launcher.partition=gpu for example",
    )
    return parser


def _show(finding: Finding) -> None:
    fix = f". To do: {finding.fix}" if finding.fix else ""
    status = (f"{finding.status:<4}", _STYLES[finding.status])
    line = Text.assemble(status, f"  {finding.name:<16}  {finding.found}{fix}")
    Console(highlight=False, markup=False).print(line, soft_wrap=True)


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """For the length of a block SIGTERM is as Ctrl-C: the job is cancelled on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        signal.signal(signal.SIGTERM, before)
