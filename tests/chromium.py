"""The browser that looks at pages in tests, installed where it is missing and this is root on a Debian."""

import os
import shutil

import pytest

from jobs.cluster import packages
from jobs.cluster.errors import Unavailable

NAME = "chromium"


def chromium() -> str | None:
    """Its path; None if there is none and it cannot be installed."""
    if shutil.which(NAME) is None and shutil.which("apt-get") is not None and os.geteuid() == 0:
        try:
            packages.apt_get("update")
            packages.apt_get("install", "--yes", "--no-install-recommends", NAME)
        except Unavailable:
            return None
    return shutil.which(NAME)


def chromium_or_skip() -> str:
    """Its path."""
    found = chromium()
    if found is None:
        pytest.skip("Chromium is not installed, and only root of a Debian can: apt-get install chromium")
    return found
