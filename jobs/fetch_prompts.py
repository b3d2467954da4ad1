"""Fetches real speech with transcripts: `python -m jobs.fetch_prompts FOLDER`.

The packages asterisk-core-sounds-en(-wav) of Debian: 568 prompts of a telephone system, 25 minutes of one voice at 8
kHz, under CC BY-SA 3.0. FOLDER gets the files, `prompts.jsonl` with what is said in each, and the licence. Nothing is
installed, and root is not needed.
"""

import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trialfleet.errors import UserError
from trialfleet.training.publishing import made

PACKAGES = ("asterisk-core-sounds-en-wav", "asterisk-core-sounds-en")
LIST = "prompts.jsonl"


def main(words: list[str]) -> int:
    if len(words) != 1 or words[0].startswith("-"):
        print(__doc__)
        return 0 if set(words) & {"-h", "--help"} else 2
    try:
        count = fetch(Path(words[0]).expanduser().absolute())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} recordings: dataset.train=[{Path(words[0]) / LIST}]")
    return 0


def fetch(folder: Path) -> int:
    """Fill the folder; it gets its name when all is in it. How many recordings there are.

    Raises:
        UserError: it is there already, or the packages cannot be had.
    """
    if folder.exists():
        raise UserError(f"{folder}: is there already", "give another folder, or remove it")
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise UserError("apt-get and dpkg-deb are needed", "run it on Debian or Ubuntu, and copy the folder")
    with tempfile.TemporaryDirectory(prefix="prompts-") as place:
        root = _unpacked(Path(place))
        sounds = next((root / "usr/share/asterisk/sounds").glob("*/*.wav")).parent
        texts = gzip.decompress((root / f"usr/share/doc/{PACKAGES[1]}/core-sounds-en.txt.gz").read_bytes()).decode()
        there = [(name, text) for name, text in spoken(texts) if (sounds / name).is_file()]
        with made(folder) as growing:
            shutil.copytree(sounds, growing, dirs_exist_ok=True)
            shutil.copy(root / f"usr/share/doc/{PACKAGES[0]}/copyright", growing / "copyright")
            lines = [json.dumps({"path": name, "text": text}) for name, text in there]
            (growing / LIST).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(there)


def _unpacked(place: Path) -> Path:
    for package in PACKAGES:
        done = subprocess.run(["apt-get", "download", package], cwd=place, capture_output=True, text=True)
        if done.returncode != 0:
            raise UserError(
                f"apt-get download {package}: {done.stderr.strip().splitlines()[-1:]}",
                "see that Debian's package lists are there: apt-get update",
            )
    for file in place.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(file), str(place / "root")], check=True)
    return place / "root"


def spoken(texts: str) -> Iterator[tuple[str, str]]:
    """File and text of each line `name: text`; not of tones and noises, which are described in brackets."""
    for line in texts.splitlines():
        found = re.fullmatch(r"([\w/-]+):\s*(.+)", line.strip())
        if found and not re.search(r"[\[\]<>]", found[2]):
            yield f"{found[1]}.wav", " ".join(found[2].split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
