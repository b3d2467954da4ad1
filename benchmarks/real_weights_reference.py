"""The logits of the library transformers: `python real_weights_reference.py FOLDER PLACE COUNT`.

PLACE has texts.json, lists of tokens; the logits of the last COUNT tokens of each are left there, as logits-0.npy and
so on. Needs the extra `reference` alone.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(folder: str, place: Path, count: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    for number, tokens in enumerate(json.loads((place / "texts.json").read_text())):
        with torch.no_grad():
            logits = model(torch.tensor([tokens]), logits_to_keep=count).logits
        np.save(place / f"logits-{number}.npy", logits[0].numpy())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
