"""What the library transformers hears and writes: `python real_speech_reference.py FOLDER PLACE COUNT`.

PLACE has sounds.npz, samples at 16 kHz. What the encoder hears in the first COUNT is left there as encoded.npy, the
greedy transcripts of all as texts.json. Needs the extra `reference` alone.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

LONGEST = 100  # tokens of a text


def main() -> None:
    folder, place, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    model = WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").float().eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    sounds = np.load(place / "sounds.npz")
    encoded: list[np.ndarray] = []
    texts = []
    with torch.no_grad():
        for name in sounds.files:
            given = extractor(sounds[name], sampling_rate=16_000, return_tensors="pt").input_features
            heard = model.model.encoder(given).last_hidden_state
            if len(encoded) < count:
                encoded.append(heard[0].numpy())
            texts.append(tokenizer.decode(written(model, tokenizer, heard)))
    np.save(place / "encoded.npy", np.stack(encoded))
    (place / "texts.json").write_text(json.dumps(texts))


def written(model: WhisperForConditionalGeneration, tokenizer: Tokenizer, heard: torch.Tensor) -> list[int]:
    """The likeliest token each time, until the text ends."""
    start = [tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]
    end, cache, given = tokenizer.token_to_id("<|endoftext|>"), None, start
    tokens: list[int] = []
    while len(tokens) < LONGEST:
        said = model.model.decoder(
            torch.tensor([given]), encoder_hidden_states=heard, past_key_values=cache, use_cache=True
        )
        cache = said.past_key_values
        token = int(model.proj_out(said.last_hidden_state[0, -1]).argmax())
        if token == end:
            break
        tokens.append(token)
        given = [token]
    return tokens


if __name__ == "__main__":
    main()
