"""How long the report of a large study takes to open in Chromium: `python -m benchmarks.report [--trials 10000 50000]`.

The study's files are written as jobs would leave them. `make s` is the command's time, in a process of its own, with
the index in place. `first s` is from the browser's first request of the page to its first screen being drawn, figures
included; `all s` to the last figure of the page; each is the median of five openings, every one in a new browser
without a cache. The page tells it to a server in this process, by which it is opened in place of a file.
"""

import argparse
import http.server
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Queue

from benchmarks import simulated_study
from benchmarks.simulated_study import Shape
from trialfleet.review import studies

OPENINGS = 5
PATIENCE = 120.0  # seconds for one opening
# Put in front of the page's own script, whose events it hears; the policy that the page sets itself is left out.
TELLING = """<script>
const tell = (what) => fetch(`/told?${what}=${performance.now()}`, {method: "POST"});
const say = (what) => requestAnimationFrame(() => setTimeout(() => tell(what)));
document.addEventListener("opened", () => say("first"));
document.addEventListener("drawn", () => say("all"));
</script>"""


class Pages(http.server.ThreadingHTTPServer):
    """Serves one page, and hears how long it took."""

    def __init__(self, page: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.page = page
        self.told: Queue[tuple[str, float]] = Queue()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Pages

    def do_GET(self) -> None:
        found = self.path == "/"
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(self.server.page) if found else 0))
        self.end_headers()
        if found:
            self.wfile.write(self.server.page)

    def do_POST(self) -> None:
        what, _, milliseconds = self.path.partition("?")[2].partition("=")
        self.server.told.put((what, float(milliseconds) / 1000))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def instrumented(page: str) -> bytes:
    """The page, telling when it is drawn; all that it draws stays as it is."""
    before, policy, after = page.partition('<meta http-equiv="Content-Security-Policy"')
    assert policy
    return f"{before}{TELLING}{after.partition('>')[2]}".encode()


def opening(browser: str, page: bytes, width: int, folder: Path) -> dict[str, float]:
    """Seconds to the first screen, and to the last figure, of one new browser."""
    with Pages(page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--window-size={width},1000"]
        options += ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder}"]
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        quiet = subprocess.DEVNULL
        with subprocess.Popen([browser, *options, address], stdout=quiet, stderr=quiet) as process:
            try:
                return dict(server.told.get(timeout=PATIENCE) for _ in range(2))
            finally:
                process.terminate()
                process.wait()
                server.shutdown()


def made(place: Path, name: str) -> tuple[float, Path]:
    """Wall seconds of the command, and the report."""
    target = place / f"{name}.html"
    began = time.monotonic()
    words = ["-m", "trialfleet.commands", "report", name, "--output", str(target)]
    subprocess.run([sys.executable, *words], cwd=place, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - began, target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--width", type=int, default=1600, help="of the window, in pixels")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the study's files go, for the time being")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no chromium is on PATH")
    with tempfile.TemporaryDirectory(prefix=".report-", dir=options.folder.absolute()) as name:
        place = Path(name)
        print(f"{os.cpu_count()} cores\n{'trials':>7} {'make s':>7} {'MB':>5} {'first s':>8} {'all s':>6}")
        for trials in options.trials:
            simulated_study.make(place / "sweeps" / str(trials), Shape(trials, slots=64))
            assert len(studies.find(str(trials), place / "sweeps").rows) == trials  # and the index is there
            seconds, report = made(place, str(trials))
            page = instrumented(report.read_text())
            seen = [opening(browser, page, options.width, place / f"profile-{trials}-{at}") for at in range(OPENINGS)]
            first, every = (statistics.median(one[what] for one in seen) for what in ("first", "all"))
            size = report.stat().st_size / 1e6
            print(f"{trials:>7} {seconds:>7.2f} {size:>5.1f} {first:>8.2f} {every:>6.2f}", flush=True)
            shutil.rmtree(place / "sweeps" / str(trials))


if __name__ == "__main__":
    main()
