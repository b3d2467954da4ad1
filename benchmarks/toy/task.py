"""The task: sleep, and leave a stamp of when that was."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from omegaconf import DictConfig


@dataclass
class Stamp:
    """One execution of the task with parameter `x`; Unix seconds. `end` is None if it was cut."""

    x: float
    start: float
    end: float | None = None

    def write(self, path: Path) -> None:
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(asdict(self)))
        temporary.replace(path)


def stamps(folder: Path) -> list[Stamp]:
    """All executions that left a stamp in the folder."""
    return [Stamp(**json.loads(path.read_text())) for path in folder.glob("[0-9a-f]*")]


def objective(x: float) -> float:
    """What the task returns."""
    return (x - 0.3) ** 2


def task(cfg: DictConfig) -> Any:
    stamp, path = Stamp(float(cfg.x), time.time()), Path(cfg.stamps) / uuid4().hex
    stamp.write(path)
    time.sleep(cfg.shortest * cfg.ratio**cfg.x)
    stamp.end = time.time()
    stamp.write(path)
    return objective(cfg.x)
