"""What is installed, what the lock names, and what to say of a private name that has gone."""

import re
from importlib.metadata import version
from pathlib import Path

_LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


def locked(library: str) -> str:
    """The version that requirements.lock gives."""
    found = re.search(rf"^{re.escape(library)}==([^ ;\\]+)", _LOCK.read_text(), re.MULTILINE)
    assert found, f"requirements.lock has no {library}"
    return found[1]


def gone(library: str, name: str, seen: tuple[str, ...]) -> str:
    """What a test says if a private name is not there any more."""
    return (
        f"{library} {version(library)} has no {name} any more (it was seen in {', '.join(seen)}): find another way in "
        f"src/trialfleet/compat, and set the bound in pyproject.toml"
    )
