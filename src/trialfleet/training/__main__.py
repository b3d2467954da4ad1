"""python -m trialfleet.training check|estimate < config.yaml: in a process of its own, for one that must not start jax.

The config is composed already, with all of its keys. What is wrong with it is said on stderr, with the exit code 2.
"""

import json
import sys
from typing import Any

from omegaconf import OmegaConf

from trialfleet import training
from trialfleet.config import load
from trialfleet.errors import UserError


def main(question: str) -> None:
    """Answers on stdout: nothing to `check`, what the device has and the training needs to `estimate`."""
    composed: Any = OmegaConf.create(sys.stdin.read())
    config = load(composed)
    if question == "check":
        training.check(config)
        return
    needs = training.estimate(config, hopeless_too=False).needs
    print(json.dumps(None if needs is None else needs._asdict()))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
