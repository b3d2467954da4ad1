"""Whether what is installed is what the package's metadata asks for."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from trialfleet.doctor.findings import Finding, fail, note, ok

_NAME = "versions"
_PACKAGE = "trialfleet"
_SHOWN = (_PACKAGE, "hydra-core", "optuna", "submitit", "mlflow", "jax")
_TRAINER = "train"  # the extra that a script of somebody's own does without


def look() -> Iterator[Finding]:
    shown = ", ".join(f"{name} {installed(name) or 'not installed'}" for name in _SHOWN)
    found = f"python {platform.python_version()}, {shown}"
    try:
        declared = metadata(_PACKAGE)
    except PackageNotFoundError:
        fix = "pip install it: Hydra finds it by its entry points"
        yield fail(_NAME, f"{_PACKAGE} is not installed; python {platform.python_version()}", fix)
        return
    requirements = [Requirement(text) for text in declared.get_all("Requires-Dist") or ()]
    wrong = [text for one in requirements if (text := misfit(one)) is not None]
    python = (declared.get_all("Requires-Python") or [""])[0]
    if platform.python_version() not in SpecifierSet(python, prereleases=True):
        yield fail(_NAME, f"{found}; {_PACKAGE} needs python {python}", "make the environment with another Python")
    elif wrong:
        fix = f"pip install --upgrade {_PACKAGE}, or see why pip chose otherwise with: pip check"
        yield fail(_NAME, f"{found}; {'; '.join(wrong)}", fix)
    elif installed("jax") is None:
        yield note(
            _NAME, found, f"nothing for a script of your own; for the trainer: pip install '{_PACKAGE}[{_TRAINER}]'"
        )
    else:
        yield ok(_NAME, found)


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def misfit(requirement: Requirement) -> str | None:
    """What is wrong with the package that is required, in words. What only an extra requires may be absent."""
    of_core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    of_trainer = requirement.marker is None or requirement.marker.evaluate({"extra": _TRAINER})
    if not (of_core or of_trainer):
        return None
    there = installed(requirement.name)
    if there is None:
        return f"{requirement.name} is missing" if of_core else None
    if requirement.specifier.contains(there, prereleases=True):
        return None
    return f"{requirement.name} is {there}, and {requirement.name}{requirement.specifier} is needed"
