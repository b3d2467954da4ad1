"""Every line of the three guides, run for real at a tiny size: `python -m benchmarks.guides [GUIDE …]`.

Each line is typed to `python -m pipelines.guide` as it stands in its guide, with a few words of ours behind it that
make it small; a checkpoint lies where a line wants one. Prints a table: what was typed, what became of it, seconds.
Exits with 1 if a line that was not refused by its guide's table failed.
"""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from jobs import fetch_prompts
from pipelines.guides import table
from pipelines.guides.table import Guide
from pipelines.guides.translate import Command, translate
from trialfleet.errors import UserError

SMALL = {
    "asr": [
        "training.max_steps=2",
        "model=asr_mini",
        "transcription.eos_tokens=[1,106]",
        "transcription.max_tokens=8",
        "dataset.train=[speech/prompts.jsonl]",
        "dataset.max_train_samples=64",
        "dataset.max_eval_samples=8",
        "dataset.max_audio_seconds=3",
        "dataset.buckets=[3]",
        "training.per_device_batch=null",
        "training.global_batch=4",
        "training.eval_batch=8",
    ],
    "grpo": ["training.max_steps=2", "dataset.train_problems=64", "dataset.eval_problems=16"],
    "mvfoul": ["training.max_steps=2"],
}
# The real clips are private: made ones stand for them, and fewer for those that are rendered by default.
MADE = ["--train", "64", "--eval", "16", "--size", "32"]
CLIPS = ["dataset.data_dir=clips", "dataset.size=32", "dataset.frames=8"]
COLLISIONS = ["dataset.train_actions=64", "dataset.eval_actions=16"]
FOR_ALL = ["training.report_every=1", "training.eval_every=2", "training.limit_eval_batches=1"]
JSON = "configs/experiments/test_config.json"
LEGACY = {
    "dataset_name": "librispeech_asr",
    "sample_rate": 16000,
    "max_audio_seconds": 20.0,
    "learning_rate": 5e-5,
    "max_steps": 100,
    "per_device_train_batch_size": 2,
    "lora_r": 8,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "resume_from_checkpoint": None,
    "load_best_model_at_end": True,
    "bf16": True,
}
ASKS_ONLY = ("--cfg", "--info", "--help", "--hydra-help", "--dry-run")


class Row(NamedTuple):
    """What became of a line."""

    guide: str
    line: str
    fate: str
    seconds: float


def main(names: list[str]) -> int:
    rows = []
    for name in names or table.GUIDES:
        guide = table.load(name)
        with tempfile.TemporaryDirectory(prefix="guides-") as folder:
            place = Path(folder)
            _prepare(guide, place)
            for line in guide.lines:
                rows.append(_run(guide, line, place))
                print(f"| {rows[-1].guide} | `{_short(line)}` | {rows[-1].fate} | {rows[-1].seconds:.0f} |", flush=True)
    failed = [row for row in rows if row.fate.startswith("FAILED")]
    ran = sum(row.fate.startswith("ran") for row in rows)
    print(f"\n{len(rows)} lines: {ran} ran, {len(rows) - ran - len(failed)} were refused, {len(failed)} failed")
    return 1 if failed else 0


def _prepare(guide: Guide, place: Path) -> None:
    """What the guide's reader has made: experiments of their own."""
    (place / "conf/experiment").mkdir(parents=True)
    (place / "conf/presets").mkdir()
    (place / "conf/presets/my_best_run.yaml").write_text("training:\n  max_epochs: 7\n")
    if guide.name == "grpo":
        (place / "conf/experiment/my_experiment.yaml").write_text(
            "defaults:\n  - override /optimizer: adamw\noptimizer:\n  learning_rate: 1e-5\ntags: [custom, testing]\n"
        )
    if guide.name == "mvfoul":
        _make_clips(place / "clips")
    if guide.name == "asr":
        fetch_prompts.fetch(place / "speech")
        folder = place / "configs/hydra/experiments"
        folder.mkdir(parents=True)
        (folder / "my_experiment.yaml").write_text(
            "training:\n  output_dir: ./outputs/my_experiment\n  learning_rate: 3e-5\nmodel:\n  lora_r: 16\n"
        )
        (place / JSON).parent.mkdir(parents=True)
        (place / JSON).write_text(json.dumps(LEGACY))


def _make_clips(folder: Path) -> None:
    """Clips as somebody has them who has the real ones, and tables of them."""
    made = [sys.executable, "-m", "pipelines.make_collisions", str(folder), *MADE]
    subprocess.run(made, check=True, capture_output=True)
    for split, name in (("train", "train.csv"), ("valid", "val.csv")):
        actions = json.loads((folder / split / "annotations.json").read_text())["Actions"]
        rows = [
            f"{split}/action_{number},{one['Action class']},{one['Offence']},{one['Severity']}"
            for number, one in actions.items()
        ]
        (folder / name).write_text("\n".join(["Clips,Action class,Offence,Severity", *rows, ""]))


def _run(guide: Guide, line: str, place: Path) -> Row:
    words, began = shlex.split(line), time.monotonic()
    try:
        command = _in(place, guide, words)
    except UserError as error:
        return Row(guide.name, line, f"refused: {error.message}", time.monotonic() - began)
    own = [] if set(ASKS_ONLY) & set(command.options) else _own_words(guide, command, place)
    if command.module == "pipelines.doctor":
        own = []
    typed = [sys.executable, "-m", "pipelines.guide", guide.name, *words, *(["--", *own] if own else [])]
    done = subprocess.run(typed, cwd=place, capture_output=True, text=True)
    fate = "ran" if done.returncode == 0 else f"FAILED: {(done.stderr.strip() or 'nothing').splitlines()[-1]}"
    score = re.findall(r"^(?:val/\S+=\S+|  val/\S+ .*)$", done.stdout, re.MULTILINE)
    return Row(
        guide.name, line, f"{fate}{', ' + ' '.join(score[-1].split()) if score else ''}", time.monotonic() - began
    )


def _in(place: Path, guide: Guide, words: list[str]) -> Command:
    """The command for a line that is typed in a folder."""
    with contextlib.chdir(place):
        return translate(guide, words)


def _own_words(guide: Guide, command: Command, place: Path) -> list[str]:
    """What makes a line small, and gives it the base or the checkpoint that it needs."""
    if command.module == "pipelines.evaluate":
        wanted = next(word.partition("=")[2] for word in command.settled() if word.startswith("checkpoint="))
        saved = _trained(guide, [], place)
        if not (place / wanted).exists():
            shutil.copytree(saved.parent.parent, place / wanted, dirs_exist_ok=True)
        chosen = [word for word in SMALL[guide.name] if word.startswith(("model=", "transcription.eos_tokens="))]
        return ["training.limit_eval_batches=1", *(chosen if "model=" in str(command) else [])]
    base = []
    if guide.name == "grpo":
        large = [word for word in command.settled() if word.startswith("model=gemma3_") and word != "model=gemma3_test"]
        preset = "+experiment=grpo_full_training" in command.settled()
        if large or preset:  # at the size that trains here, on problems that need no file
            base = ["model=gemma3_test,gemma3_tiny" if any("," in word for word in large) else "model=gemma3_test"]
        if preset:
            base += ["dataset=sums", "generation=tiny"]
        shape = [word for word in command.settled() if word.startswith("model.") and "lora" not in word]
        base.append(f"training.init_from={_base(shape, place)}")
    if guide.name == "mvfoul":
        base = [*(CLIPS if "dataset=mvfoul" in command.settled() else COLLISIONS), *_smaller(command)]
    small = [*SMALL[guide.name], *FOR_ALL, *base]
    if any(re.match(r"training.max_steps=.*,", word) for word in command.settled()):  # swept: so it stays
        small[0] = "training.max_steps=1,2"
    return small


def _smaller(command: Command) -> list[str]:
    """The networks that a line chooses, at the size that trains here."""
    chosen = [word.partition("=")[2] for word in command.settled() if word.startswith("model=")]
    return [f"model={','.join(f'{one}_tiny' for one in names.split(','))}" for names in chosen]


def _trained(guide: Guide, model: list[str], place: Path) -> Path:
    """A checkpoint of the guide's workload."""
    base = [f"training.init_from={_base(model, place)}"] if guide.name == "grpo" else []
    (workload,) = guide.always["pipelines.evaluate"]
    return _train(workload, [*SMALL[guide.name], *base], place / "trained" / guide.name)


def _base(model: list[str], place: Path) -> Path:
    """A base for GRPO of this shape."""
    folder = place / "bases" / (re.sub("[^a-z0-9_-]", "_", "-".join(model)) or "default")  # a word of Hydra's
    return _train("workload=grpo_base", [*model, "training.max_steps=2", *SMALL["grpo"][1:]], folder)


def _train(workload: str, overrides: list[str], folder: Path) -> Path:
    def saved() -> list[Path]:
        return [path.parent for path in (folder / "checkpoints").glob("*/manifest.json")]

    if not saved():
        command = [sys.executable, "-m", "pipelines.train", workload, *overrides, *FOR_ALL, f"hydra.run.dir={folder}"]
        subprocess.run(command, cwd=folder.parents[1], check=True, capture_output=True)
    return max(saved())


def _short(line: str) -> str:
    return line if len(line) < 100 else f"{line[:97]}…"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
