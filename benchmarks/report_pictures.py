"""The documentation's pictures of reports, taken in Chromium: `python -m benchmarks.report_pictures [--to FOLDER]`.

They are of simulated studies (`simulated_study`): 400 trials, and as many of a sampler that does not learn.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks import simulated_study
from benchmarks.simulated_study import Shape
from trialfleet.review.report import writing
from trialfleet.review.studies import find

COLORS = 200  # of a picture, so that its file is small
# A window is 500 pixels wide at least, and a screenshot shows its top alone: so pages are shown in a frame.
FRAME = '<body style="margin:0"><iframe src="{}" style="width:{}px;height:{}px;border:0"></iframe></body>'


@dataclass(frozen=True)
class Picture:
    """Which part of which report, how wide and high in pixels, and how."""

    name: str
    report: str
    part: str
    width: int
    height: int
    dark: bool = False


PICTURES = (
    Picture("report.png", "learning", "", 1200, 1180),
    Picture("report_parameters.png", "learning", "parameters", 1200, 1480),
    Picture("report_hours.png", "learning", "slots", 1200, 1050, dark=True),
    Picture("report_narrow.png", "learning", "history", 400, 1250, dark=True),
    Picture("report_compare.png", "compare", "", 1200, 900),
)


def taken(browser: str, page: Path, picture: Picture, folder: Path) -> Image.Image:
    address = page.as_uri() + (f"#{picture.part}" if picture.part else "")
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(address, picture.width, picture.height))
    shot = folder / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    options += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=30000", f"--screenshot={shot}"]
    options += [f"--window-size={max(500, picture.width)},{picture.height}"]
    options += [f"--blink-settings=preferredColorScheme={0 if picture.dark else 1}"]
    subprocess.run([browser, *options, frame.as_uri()], check=True, capture_output=True)
    with Image.open(shot) as image:
        cropped = image.convert("RGB").crop((0, 0, picture.width, picture.height))
    return cropped.quantize(COLORS, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("docs/pictures"))
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium is on PATH")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated_study.make(folder / "sweeps" / "learning", Shape(400))
        simulated_study.make(folder / "sweeps" / "random", Shape(400, seed=2, careful=False))
        studies = [find(study, folder / "sweeps") for study in ("learning", "random")]
        pages = {"learning": writing.report(studies[0]), "compare": writing.comparison(studies)}
        for report, page in pages.items():
            (folder / f"{report}.html").write_text(page)
        for picture in PICTURES:
            target = options.to / picture.name
            image = taken(browser, folder / f"{picture.report}.html", picture, folder)
            image.save(target, optimize=True)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
