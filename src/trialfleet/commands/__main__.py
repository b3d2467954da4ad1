"""`trialfleet SUBCOMMAND …`, which is also `python -m trialfleet.commands`."""

import difflib
import importlib
import sys

import trialfleet
from trialfleet.commands.errors import shown

SUBCOMMANDS = {
    "dashboard": "open MLflow's own pages on the results",
    "doctor": "say whether this machine and its cluster are ready for studies",
    "report": "write a study as one HTML file, or compare several in one",
    "study": "see studies and their trials, and ask something of them",
}


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        print(f"trialfleet {trialfleet.__version__}")
    elif words and words[0] in SUBCOMMANDS:
        module = importlib.import_module(f"trialfleet.commands.{words[0]}")
        shown(lambda: module.run(f"trialfleet {words[0]}", words[1:]))
    elif words[:1] in (["-h"], ["--help"]):
        print(_usage())
    else:
        if words:
            near = difflib.get_close_matches(words[0], SUBCOMMANDS, 1)
            print(
                f"error: there is no subcommand {words[0]}{f'; did you mean {near[0]}?' if near else ''}",
                file=sys.stderr,
            )
        print(_usage(), file=sys.stderr)
        sys.exit(2)


def _usage() -> str:
    width = max(len(name) for name in SUBCOMMANDS)
    lines = [f"  {name:<{width}}  {what}" for name, what in SUBCOMMANDS.items()]
    sweep = "python train.py -m hydra/sweeper=trialfleet 'lr=interval(0,1)'"
    return "\n".join(
        ["usage: trialfleet SUBCOMMAND …   (SUBCOMMAND --help tells more)", "", *lines, "", f"A study: {sweep}"]
    )


if __name__ == "__main__":
    main()
