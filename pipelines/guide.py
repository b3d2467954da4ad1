"""python -m pipelines.guide GUIDE LINE…: a line of a published guide, as it is typed there, by our own command.

    python -m pipelines.guide asr src/train_hydra.py +experiments=test
    python -m pipelines.guide mvfoul --show training/train.py --backbone_lr 1e-4

LINE is the guide's line from the program's name on. Its program, keys, groups, presets and flags are translated; our
command is printed so that it can be pasted, and is run.

  --show    print our command and run nothing
  --list    print each key, group and flag of the guide, and what it is here
  -- WORD…  the words after it are ours already, and are added as they are
"""

import os
import sys

from pipelines import cli
from pipelines.guides import listing, table
from pipelines.guides.translate import translate
from trialfleet.errors import UserError


def entry() -> None:
    """Translate the line on the command line, and become that command."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        print(__doc__)
        return
    shown, listed = _taken(words, "--show"), _taken(words, "--list")
    name, *line = words or [""]
    if name not in table.GUIDES:
        what = f"{name}: is no guide" if name else "no guide is named"
        raise UserError(what, f"name one of {', '.join(table.GUIDES)} behind pipelines.guide")
    guide = table.load(name)
    if listed:
        print(listing.as_text(guide))
        return
    command = translate(guide, line)
    for warning in command.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(command, flush=True)
    if not shown:
        argv = command.argv()
        os.execve(sys.executable, [sys.executable, "-m", *argv], cli.users_environment())


def _taken(words: list[str], option: str) -> bool:
    """Whether the option stands before the line or right after the guide's name; it is taken out."""
    if option in words[:2]:
        words.remove(option)
        return True
    return False


if __name__ == "__main__":
    cli.main(entry, own_flags=False)
