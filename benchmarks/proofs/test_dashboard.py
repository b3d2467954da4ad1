"""The dashboard ends by either signal, and leaves nothing behind."""

import signal
from pathlib import Path

import pytest

from tests.tracking.test_dashboard import end_dashboard
from trialfleet.tracking.destination import Destination


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_dashboard_leaves_nothing_behind(number: int, target: Destination, tmp_path: Path) -> None:
    end_dashboard(number, target, tmp_path)
