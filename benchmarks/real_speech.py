"""Whisper tiny.en with real weights: `python -m benchmarks.real_speech FOLDER PROMPTS [--reference PYTHON]`.

FOLDER is what `python -m pipelines.from_ctranslate2 FOLDER` has made, PROMPTS the list that `python -m
jobs.fetch_prompts` has. Prints the largest difference of what our encoder hears from what that of the library
transformers does, which makes its own spectrograms; and the word error rate of the texts that its published decoder
writes, greedily, of the test split. The library runs in a process of its own, by another Python if one is named (the
extra `reference`). Takes some minutes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from trialfleet.config import load
from trialfleet.config.location import conf_directory

ENCODED = 8  # recordings of which what is heard is compared
SECONDS = 30  # so long a recording is to Whisper, with silence behind


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_speech")
    parser.add_argument("folder", type=lambda text: Path(text).expanduser().absolute())
    parser.add_argument("prompts", type=lambda text: Path(text).expanduser().absolute())
    parser.add_argument("--reference", metavar="PYTHON", default=sys.executable)
    options = parser.parse_args()
    config = _config(options.folder, options.prompts)
    from trialfleet.workloads.asr import Transcriber, features

    workload = Transcriber(config)
    source: Any = workload.source("test")
    rows = [row for plan in source.epoch(0, 0) for row in plan.rows]
    sounds = [features.read(Path(source.path(row))) for row in rows]
    with tempfile.TemporaryDirectory(prefix="real-speech-") as place:
        np.savez(Path(place) / "sounds.npz", *sounds)
        script = Path(__file__).with_name("real_speech_reference.py")
        subprocess.run([options.reference, str(script), str(options.folder), place, str(ENCODED)], check=True)
        _show_heard(config, workload, sounds[:ENCODED], np.load(Path(place) / "encoded.npy"))
        texts = json.loads((Path(place) / "texts.json").read_text())
    _show_written([source.text(row) for row in rows], texts, sum(map(len, sounds)) / features.RATE)


def _config(folder: Path, prompts: Path) -> Any:
    from hydra import compose, initialize_config_dir

    from trialfleet.training import environment

    words = [
        "workload=asr_decoder",
        "model=asr_whisper_tiny",
        f"dataset.train=['{prompts}']",
        f"model.encoder.weights='{folder}'",
        "mesh.data=1",
        "runtime.platform=cpu",
    ]
    with initialize_config_dir(str(conf_directory())):
        config = load(compose("config", overrides=words))
    environment.prepare(config)
    return config


def _show_heard(config: Any, workload: Any, sounds: list[np.ndarray], wanted: np.ndarray) -> None:
    """How far what our encoder hears is from what the library's does."""
    import jax
    import jax.numpy as jnp

    from trialfleet.training import trees
    from trialfleet.workloads.asr import encoder, features

    own = config.model.encoder
    flat = {
        path: jnp.asarray(workload.load(f"encoder/{path}", (slice(None),) * len(shape)), jnp.float32)
        for path, shape in encoder.shapes(own).items()
    }
    padded = [np.pad(sound, (0, SECONDS * features.RATE - len(sound))) for sound in sounds]
    spectrograms = jnp.asarray(np.stack([features.log_mel(sound, own.bands) for sound in padded]))
    valid = jnp.ones((len(sounds), (spectrograms.shape[1] + 1) // 2))
    got = np.asarray(jax.jit(encoder.encode, static_argnums=0)(own, trees.unflatten(flat), spectrograms, valid))
    print(
        f"what is heard in {len(sounds)} recordings differs by {np.abs(got - wanted).max():.1e} at most, "
        f"by {np.abs(got - wanted).mean():.1e} on average; the largest is {np.abs(wanted).max():.1f}"
    )


def _show_written(said: list[str], read: list[str], seconds: float) -> None:
    """The error rates of the published decoder."""
    import jiwer

    from trialfleet.workloads.asr.spoken import normalized

    texts = [[normalized(text) or "-" for text in one] for one in (said, read)]
    print(
        f"the published decoder, {len(said)} recordings of {seconds:.0f} s: word error rate {jiwer.wer(*texts):.3f}, "
        f"character error rate {jiwer.cer(*texts):.3f}"
    )


if __name__ == "__main__":
    main()
