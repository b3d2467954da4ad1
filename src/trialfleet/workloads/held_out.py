"""Which split a text belongs to, by the text alone: whatever draws it, and however often, it is in one."""

import hashlib

SPLITS = ("train", "val", "test")


def split_of(text: str, seed: int, share: float) -> str:
    """The split of a text, if a share of all texts is held out for val, and as much for test."""
    digest = hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    return "val" if place < share else "test" if place < 2 * share else "train"
