"""python -m pipelines.dashboard [--port N] [--uri URI] [tracking.uri=… tracking.experiment=…]

Opens MLflow's own pages on the results, on this machine only, and prints a link to each study. Ctrl-C ends it.
"""

import argparse
import signal
from pathlib import Path
from types import FrameType

from pipelines import cli
from trialfleet.config.location import conf_directory
from trialfleet.errors import UserError
from trialfleet.tracking import dashboard
from trialfleet.tracking.destination import resolve


def entry() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.dashboard", description=__doc__.partition("\n\n")[2])
    parser.add_argument("--port", type=int, help="default: the first free one from 5000 on")
    parser.add_argument("--uri", help="the same as tracking.uri=…")
    parser.add_argument("overrides", nargs="*", metavar="tracking.KEY=VALUE")
    arguments = parser.parse_args()
    uri, experiment = dashboard.settings(conf_directory(), arguments.uri, arguments.overrides)
    destination = resolve(uri, experiment, Path.cwd())
    dashboard.check(destination)
    if uri.startswith(("http://", "https://")):  # somebody serves it already
        print(dashboard.report(destination, destination.shown.rstrip("/")))
        return
    port = dashboard.choose_port(arguments.port)
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a script's background commands start deaf to it
        signal.signal(number, _interrupt)
    try:
        with dashboard.serve(destination, port) as server:
            print(dashboard.report(destination, f"http://{dashboard.HOST}:{port}"))
            print("\nCtrl-C ends it.", flush=True)
            server.wait()
            raise UserError("MLflow's server has ended by itself", "start the dashboard again")
    except KeyboardInterrupt:
        print()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    cli.main(entry)
