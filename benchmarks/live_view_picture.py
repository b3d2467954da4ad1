"""The documentation's picture of the live view: `python -m benchmarks.live_view_picture [--to FOLDER]`.

It is drawn by what draws it in a terminal, from a study that is made up.
"""

import argparse
import io
from pathlib import Path

from rich.console import Console

from trialfleet.sweep.ui.screen import StudyView, TrialView, screen

NAME = "live_view.svg"
WIDTH, HEIGHT = 92, 24  # characters
# Without the fonts that rich fetches from the network: the page must not.
FORMAT = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>.{unique_id}-matrix {{ font-family: monospace; font-size: {char_height}px; line-height: {line_height}px; }}
{styles}</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g></g></svg>
"""


def made_up() -> StudyView:
    """A study of 64 trials on eight GPUs, in its middle."""
    steps = [(29, 5400, 0.0871), (31, 4700, 0.0934), (33, 3900, 0.0702), (34, 3100, 0.1041), (35, 2200, 0.1388)]
    trials = [
        TrialView(
            number,
            step=step,
            steps=6000,
            values=[value],
            seconds=step * 0.212,
            node=f"gpu{number % 4 + 1:02}",
            note="attempt 2" if number == 31 else "",
        )
        for number, step, value in steps
    ]
    trials += [TrialView(36, node="gpu01", seconds=4.0), TrialView(37, state="Priority", runs=False)]
    return StudyView(
        name="asr-conformer",
        total=64,
        states={"COMPLETE": 19, "PRUNED": 9, "FAIL": 2},
        causes={"NonFinite": 1, "OutOfMemory": 1},
        metrics=["val/wer"],
        trials=trials,
        best=[0.0594],
        best_trial=21,
        best_age=754.0,
        slots=8,
        mean_seconds=1120.0,
    )


def picture() -> str:
    """The SVG's text, the same each time."""
    console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True)
    console.print(screen(made_up(), WIDTH, HEIGHT))
    return console.export_svg(title="python -m pipelines.sweep", unique_id="live", code_format=FORMAT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures")
    (parser.parse_args().to / NAME).write_text(picture())


if __name__ == "__main__":
    main()
