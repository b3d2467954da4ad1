"""Makes the tokenizer of the tiny models anew: `python -m jobs.make_tiny_tokenizer`.

It is of the kind that Gemma 3 has: byte-pair encoding in which a space is '▁', digits stand alone, bytes take the place
of unknown characters, and the special tokens have the published numbers. It is learned from generated arithmetic.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import reasoning_gym
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import trialfleet.workloads.decoder
from trialfleet.workloads.grpo.tags import answered

SIZE = 512
TASKS = ("chain_sum", "basic_arithmetic", "leg_counting")
TEXTS = 2000  # of each task
SPECIAL = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 4: "<mask>", 105: "<start_of_turn>", 106: "<end_of_turn>"}
BYTES = 256  # the number of the first of the 256 tokens of bytes


def texts() -> Iterator[str]:
    """What the pieces are learned from: questions, sums, and the format in which answers are wanted."""
    for task in TASKS:
        for one in reasoning_gym.create_dataset(task, size=TEXTS, seed=0):
            yield f"user\n{one['question']}\nmodel\n{answered(one['question'], one['answer'])}"
    rng = np.random.default_rng(0)
    for left, right in rng.integers(0, 100, (TEXTS, 2)):
        yield f"user\n{left}+{right}=?\nmodel\n{answered(f'{left}+{right}={left + right}', str(left + right))}"


def learned() -> Tokenizer:
    """A tokenizer with the pieces that pay most, in the trainer's own order."""
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split("<", "merged_with_next"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    pieces = BYTES - len(SPECIAL) + 1  # <unk> is among the special tokens, too
    printable = list(map(chr, range(33, 127)))
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, initial_alphabet=[*printable, "▁", "\n"], special_tokens=["<unk>"], show_progress=False
    )
    made.train_from_iterator(texts(), trainer)
    return made


def numbered(content: dict[str, object]) -> dict[str, object]:
    """The tokenizer's file with the published numbers of special tokens, then pieces, then bytes."""
    model = content["model"]
    assert isinstance(model, dict)
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    free = iter(number for number in range(BYTES) if number not in SPECIAL)
    rest = {piece: next(free) for piece in pieces if piece != "<unk>"}
    special = {token: number for number, token in SPECIAL.items()}
    in_bytes = {f"<0x{value:02X}>": BYTES + value for value in range(256)}
    model["vocab"] = dict(sorted({**special, **rest, **in_bytes}.items(), key=lambda item: item[1]))
    return content


def main() -> None:
    content = numbered(json.loads(learned().to_str()))
    content["added_tokens"] = []
    made = Tokenizer.from_str(json.dumps(content))
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL.values()])
    path = Path(str(trialfleet.workloads.decoder.__file__)).parent / "tiny_tokenizer.json"
    made.save(str(path), pretty=True)
    print(f"{path}: {made.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
