"""The application that is swept: it says in a side file, of each job, when it starts and when it ends.

The environment names the side file, outside of the sweep's folder; each line is one JSON object. What holds a job up
is a file beside it, so that nothing depends on how long anything takes. No job says anything before `.doors` exists.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

PATIENCE = 120.0  # seconds after which a job that nobody lets go on fails: none outlives its test for long


def side_file() -> Path:
    return Path(os.environ["RESUME_CONTRACT_SIDE_FILE"])


def beside(name: str) -> Path:
    return side_file().with_suffix(f".{name}")


def append(event: str, **more: object) -> int:
    """Append one line; how many lines of the same event, and of the same outcome if it has one, were there before."""
    with open(side_file(), "a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        earlier = [json.loads(line) for line in file]
        same = [line for line in earlier if line["event"] == event and line.get("outcome") == more.get("outcome")]
        file.write(json.dumps({"event": event, "order": len(same), **more}) + "\n")
    return len(same)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("nobody let this job go on")
        time.sleep(0.01)


def starts() -> int:
    return sum(json.loads(line)["event"] == "start" for line in side_file().read_text().splitlines())


@hydra.main(version_base=None, config_path=".", config_name="config")
def train(cfg: DictConfig) -> float:
    """Returns how many jobs have ended well before this one: the first to end is the best."""
    wait_for(beside("doors").exists)
    job = {
        "pid": os.getpid(),
        "number": HydraConfig.get().job.num,
        "parameters": {"x": cfg.x, "fixed": cfg.fixed},
        "folder": str(Path(HydraConfig.get().runtime.output_dir).resolve()),
        "sweep": str(Path(HydraConfig.get().sweep.dir).resolve()),
    }
    order = append("start", **job)
    if 0 <= cfg.holds_from <= order:
        wait_for(lambda: beside("open").exists() or beside(f"open.{order}").exists())
    if order == cfg.waits_at:
        wait_for(lambda: starts() >= 3 or beside("open").exists())
    if order == cfg.fails_at:
        append("end", outcome="failed", **job)
        raise RuntimeError("this job fails, as the command asks for")
    return float(append("end", outcome="well", **job))


if __name__ == "__main__":
    train()
