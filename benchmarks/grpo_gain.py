"""What reinforcement learning adds to a base, on problems that neither has seen: `python -m benchmarks.grpo_gain`.

For each of several seeds (the first word, 5) a base is trained from nothing and a policy from it, by the preset
grpo_from_scratch. The last checkpoint of both answers the same held-out problems, once by greedy decoding and once by
drawing. Prints a table of the scores, their means, and the gain in standard errors of its mean over seeds.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

PROBLEMS = 512
SCORES = ("accuracy", "partial_accuracy", "format_accuracy")
WAYS = ("greedy", "standard")


def main(seeds: int, words: list[str]) -> int:
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="grpo-gain-") as folder:
        for seed in range(seeds):
            base, policy = _trained(Path(folder), seed, words)
            for stage, checkpoint in (("before", base), ("after", policy)):
                for way in WAYS:
                    scores = _scores(Path(folder), checkpoint, way)
                    print(seed, stage, way, {name: round(scores[name], 3) for name in SCORES}, flush=True)
                    for name in SCORES:
                        found.setdefault((way, name, stage), []).append(scores[name])
    print(
        f"\n| decoding | score, {PROBLEMS} held-out problems, {seeds} seeds | before | after | gain, standard errors |"
    )
    print("|---|---|---|---|---|")
    for way in WAYS:
        for name in SCORES:
            before, after = found[way, name, "before"], found[way, name, "after"]
            print(f"| {way} | {name} | {mean(before):.3f} | {mean(after):.3f} | {_gain(before, after)} |")
    return 0


def _gain(before: list[float], after: list[float]) -> str:
    gains = [new - old for old, new in zip(before, after, strict=True)]
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return f"{mean(gains):+.3f}" + (f", {mean(gains) / error:.1f}" if error > 0 else "")


def _trained(place: Path, seed: int, words: list[str]) -> tuple[Path, Path]:
    """The last checkpoints of a base and of the policy that goes on from it."""
    folder = place / str(seed)
    own = [f"seed={seed}", f"++training.base.overrides.seed={seed}", f"training.base.folder={place / f'bases-{seed}'}"]
    _run(place, "pipelines.train", "+experiment=grpo_from_scratch", *own, f"hydra.run.dir={folder}", *words)
    (base,) = (place / f"bases-{seed}").iterdir()
    last = json.loads((base / "complete.json").read_text())["checkpoint"]
    return base / "checkpoints" / last, max((folder / "checkpoints").glob("0*"))


def _scores(place: Path, checkpoint: Path, way: str) -> dict[str, float]:
    many = [f"dataset.eval_problems={PROBLEMS}", "training.eval_batch=128"]
    words = [f"checkpoint={checkpoint}", f"+evaluation={way}", "split=test", "format=json", *many]
    shown = _run(place, "pipelines.evaluate", *words)
    metrics = json.loads(shown[shown.index("{") :])["metrics"]
    return {name: metrics[f"test/{name}"] for name in SCORES}


def _run(place: Path, module: str, *words: str) -> str:
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:]))
