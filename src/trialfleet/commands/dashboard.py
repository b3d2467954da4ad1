"""`trialfleet dashboard [URI]`: MLflow's own pages on the results, on this machine only, with a link to each study."""

import argparse
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import OmegaConf

from trialfleet.errors import UserError
from trialfleet.review import studies
from trialfleet.sweep.study.storage import JOURNAL
from trialfleet.sweep.sweeper_settings import tracking_defaults
from trialfleet.sweep.without_driver import address_of
from trialfleet.tracking import dashboard
from trialfleet.tracking.destination import resolve


def run(program: str, words: Sequence[str], tracking: Mapping[str, Any] | None = None) -> None:
    """Serve the pages until Ctrl-C.

    Args:
        program: how the command is called, for its help.
        words: the command line behind that.
        tracking: `uri` and `experiment` where the command line does not say; the sweeper's own by default.

    Raises:
        UserError: there is nothing to show, or a word is wrong.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description="Opens MLflow's own pages on the results, on this machine only, and prints a link to each study. "
        "Ctrl-C ends it.",
    )
    parser.add_argument("--optuna", metavar="STUDY", help="optuna-dashboard's pages on this study in their place")
    parser.add_argument("--storage", metavar="URL", help="of that study, where study.yaml has no password of it")
    parser.add_argument("--port", type=int, help="default: the first free one from 5000 on")
    parser.add_argument("--uri", help="the same as URI")
    parser.add_argument(
        "words", nargs="*", metavar="URI | tracking.KEY=VALUE", help="where the results are, as the sweep was told"
    )
    arguments = parser.parse_args(words)
    if arguments.optuna is not None:
        _show_in_optuna(arguments.optuna, arguments.storage, arguments.port)
        return
    uri, experiment = where({**tracking_defaults(), **(tracking or {})}, arguments.uri, arguments.words)
    destination = resolve(uri, experiment, Path.cwd())
    dashboard.check(destination)
    if uri.startswith(("http://", "https://")):  # somebody serves it already
        print(dashboard.report(destination, destination.shown.rstrip("/"), answers=True))
        return
    port = dashboard.choose_port(arguments.port)
    _end_by_signals()
    try:
        with dashboard.serve(destination, port) as server:
            print(dashboard.report(destination, f"http://{dashboard.HOST}:{port}"))
            print("\nCtrl-C ends it.", flush=True)
            server.wait()
            raise UserError("MLflow's server has ended by itself", "start the dashboard again")
    except KeyboardInterrupt:
        print()


def _show_in_optuna(name: str, given: str | None, port: int | None) -> None:
    """Serve optuna-dashboard's pages on a study until Ctrl-C.

    Raises:
        UserError: there is no such study, its storage cannot be opened from what it records, or optuna-dashboard is not
            installed.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = studies.find(name, None)
    address = address_of(study.record, given)
    try:
        from optuna_dashboard import run_server  # type: ignore[import-not-found]  # it is nobody's dependency
    except ImportError:
        raise UserError("--optuna: optuna-dashboard is not installed", "pip install optuna-dashboard") from None
    storage = address or JournalStorage(JournalFileBackend(str(study.folder / JOURNAL)))
    chosen = dashboard.choose_port(port)
    _end_by_signals()
    print(f"optuna-dashboard is at http://{dashboard.HOST}:{chosen}   (study '{study.name}')")
    print("\nCtrl-C ends it.", flush=True)
    try:
        run_server(storage, host=dashboard.HOST, port=chosen)
    except KeyboardInterrupt:
        print()


def _end_by_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's background commands start deaf to it
        signal.signal(number, _interrupt)


def where(tracking: Mapping[str, Any], uri: str | None, words: Sequence[str]) -> tuple[str, str]:
    """MLflow's address and the experiment in it.

    Args:
        tracking: the config, interpolations and all.
        uri: given as an option, or None.
        words: an address, the file of a database, or overrides: tracking.NAME=VALUE, the sweeper's own key or not.

    Raises:
        UserError: a word that is neither.
    """
    base = OmegaConf.create({"tracking": dict(tracking)})
    for word in words:
        name, _, value = word.removeprefix("hydra.sweeper.").partition("=")
        if name in ("tracking.uri", "tracking.experiment"):
            OmegaConf.update(base, name, value)
        elif uri is None and Path(word).is_file():
            uri = f"sqlite:///{word}"
        elif uri is None and not name.startswith("tracking.") and ":" in word:
            uri = word
        else:
            raise UserError(
                f"{word}: the dashboard takes an address, a file, tracking.uri=… and tracking.experiment=…",
                "correct the word",
            )
    return uri or str(base.tracking.uri), str(base.tracking.experiment)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
