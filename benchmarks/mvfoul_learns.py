"""Whether the network for fouls sees what is in the pixels: `python -m benchmarks.mvfoul_learns [WORD …]`.

For each of three seeds a training on rendered collisions by the command that a person types, with the words given
besides, judged on the test split from its best checkpoint; beside it what needs no network, on the same clips:
always the most frequent class, and logistic regression on pooled pixels (the mean of small patches of each view's
first, middle and last frame, and of the differences between frames). Balanced accuracy is what counts: 1 in 4 and 1
in 8 are chance. Prints a table, mean and standard deviation over the seeds.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from trialfleet.config import load
from trialfleet.config.location import conf_directory
from trialfleet.config.mvfoul import MvfoulConfig
from trialfleet.trial import metrics
from trialfleet.workloads.mvfoul.clips import QUESTIONS, FoulClips

SEEDS = (0, 1, 2)
SHORT = {"severity": "sev", "action": "action"}
SCORES = ("acc", "balanced_acc", "f1")
PATCH = 4  # pixels of a side


def main(words: list[str]) -> int:
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in SEEDS:
        began = time.monotonic()
        rows.setdefault("network", []).append(_network(["workload=mvfoul", *words, f"seed={seed}"]))
        print(f"seed {seed}: {rows['network'][-1]}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    config = _config(["workload=mvfoul", *words])
    train, test = FoulClips(config, "train"), FoulClips(config, "test")
    seen = {"train": _pooled(train), "test": _pooled(test)}
    for name, classifier in (
        ("most frequent class", lambda seed: DummyClassifier(strategy="most_frequent")),
        ("linear probe", _probe),
    ):
        rows[name] = [_judged(classifier(seed), seen, train, test) for seed in SEEDS]
    names = [f"{short}_{score}" for short in SHORT.values() for score in SCORES]
    print(f"| on the test split | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name, found in rows.items():
        cells = [
            f"{np.mean([one[key] for one in found]):.3f} ± {np.std([one[key] for one in found]):.3f}" for key in names
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


def _network(words: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="learns-") as folder:
        run = Path(folder) / "run"
        own = [f"hydra.run.dir={run}", f"tracking.uri=sqlite:///{folder}/mlflow.db", "training.evaluate_test=true"]
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.train", *words, *own],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            sys.exit(done.stdout)
        found: dict[str, float] = {}
        for line in metrics.read_from(run / "metrics.jsonl")[0]:
            found |= {
                name.removeprefix("test/"): value for name, value in line.values.items() if name.startswith("test/")
            }
        return {key: round(found[key], 4) for key in (f"{s}_{score}" for s in SHORT.values() for score in SCORES)}


def _config(words: list[str]) -> MvfoulConfig:
    with initialize_config_dir(str(conf_directory())):
        config = load(compose("config", overrides=words))
    assert isinstance(config, MvfoulConfig)
    return config


def _pooled(source: FoulClips) -> np.ndarray:
    """Features of each action (N, F): the mean over its views."""
    found = []
    for action in source.actions:
        views = [clip for path in action.clips if (clip := source.clip(path)) is not None]
        found.append(np.mean([_of_clip(view) for view in views], axis=0))
    return np.stack(found)


def _of_clip(clip: np.ndarray) -> np.ndarray:
    frames = clip.astype(np.float32) / 255
    time_, side = frames.shape[0], frames.shape[1] // PATCH
    small = frames[:, : side * PATCH, : side * PATCH].reshape(time_, side, PATCH, side, PATCH, 3).mean((2, 4))
    moved = np.abs(np.diff(small, axis=0)).mean(-1)
    parts = [small[[0, time_ // 2, -1]], moved]
    return np.concatenate([part.ravel() for part in parts])


def _probe(seed: int) -> Any:
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=0.01, max_iter=2000, class_weight="balanced", random_state=seed)
    )


def _judged(classifier: Any, seen: dict[str, np.ndarray], train: FoulClips, test: FoulClips) -> dict[str, float]:
    found = {}
    for question in QUESTIONS:
        true, short = getattr(test, question), SHORT[question]
        said = classifier.fit(seen["train"], getattr(train, question)).predict(seen["test"])
        found[f"{short}_acc"] = float(accuracy_score(true, said))
        found[f"{short}_balanced_acc"] = float(balanced_accuracy_score(true, said))
        found[f"{short}_f1"] = float(f1_score(true, said, average="weighted"))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
