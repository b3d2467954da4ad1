"""Debian's packages are installed although somebody else installs some at that moment."""

from pathlib import Path

import pytest

from jobs.cluster import packages
from jobs.cluster.errors import Unavailable

# Somebody else has the lists at first; then what was asked for does not exist.
APT_GET = """\
#!/bin/sh
echo "$@" >> {calls}
case "$(wc -l < {calls}):$*" in
1:*|2:*) echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7 (apt-get)" >&2; exit 100 ;;
*nothing) echo "E: Unable to locate package nothing" >&2; exit 100 ;;
esac
"""


def test_another_apt_get_is_waited_for_and_other_errors_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, program = tmp_path / "calls", tmp_path / "apt-get"
    program.write_text(APT_GET.format(calls=calls))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(packages, "_LOOK", 0.01)
    packages.apt_get("update")
    assert [line.split()[-1] for line in calls.read_text().splitlines()] == ["update"] * 3
    with pytest.raises(Unavailable, match="Unable to locate package nothing"):
        packages.apt_get("install", "nothing")
    assert len(calls.read_text().splitlines()) == 4
    monkeypatch.setattr(packages, "_PATIENCE", 0.0)
    calls.unlink()
    with pytest.raises(Unavailable, match="Could not get lock"):
        packages.apt_get("update")
