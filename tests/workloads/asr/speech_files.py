"""Small recordings with texts: a tone for each word."""

import json
from pathlib import Path

import numpy as np
import soundfile

WORDS = ("cat", "dog", "bird", "fish", "horse", "cow", "sheep", "frog")  # numbers would be written in digits
RATE = 8000


def write(folder: Path, count: int, words: int = 3) -> str:
    """A list of so many recordings of up to `words` words; its path."""
    rng, lines = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        chosen = rng.integers(0, len(WORDS), int(rng.integers(1, words + 1)))
        time = np.arange(RATE // 5) / RATE
        wave = np.concatenate([np.sin(2 * np.pi * 300 * (1 + word) * time) * np.hanning(len(time)) for word in chosen])
        soundfile.write(folder / f"{number}.wav", wave * 0.5, RATE)
        lines.append(json.dumps({"path": f"{number}.wav", "text": " ".join(WORDS[word] for word in chosen)}))
    path = folder / "list.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)
