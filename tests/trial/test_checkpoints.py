"""How far a run's checkpoints are, whoever wrote them."""

from pathlib import Path

import pytest

from trialfleet.trial.checkpoints import newest_step
from trialfleet.trial.metrics import Writer


@pytest.mark.parametrize(
    ("names", "step"),
    [
        ([], -1),
        (["7", "12"], 12),
        (["step_120.pt", "step_30.pt"], 120),
        (["epoch-3.tar.gz"], 3),
        (["epoch=5-step=1200-val_loss=0.23.ckpt"], 1200),
        (["resnet50.pt", "model_v2"], 40),  # numbers of something else: by the run's last report before it was written
        (["last.pt", "2.tmp"], 40),
        ([".13.pt", "14.tmp"], -1),  # still being written
    ],
)
def test_the_newest_step(tmp_path: Path, names: list[str], step: int) -> None:
    writer = Writer(tmp_path / "metrics.jsonl")
    for reported in (20, 40):
        writer.append(reported, {"loss": 1.0})
    writer.close()
    for name in names:
        (tmp_path / "checkpoints").mkdir(exist_ok=True)
        (tmp_path / "checkpoints" / name).touch()
    assert newest_step(tmp_path) == step


def test_a_checkpoint_without_a_step_or_a_report_is_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    assert newest_step(tmp_path) == 0
    written = (tmp_path / "checkpoints" / "last.pt").stat().st_mtime
    lines = [f'{{"step": {step}, "time": {written + step - 3}, "values": {{}}}}\n' for step in (2, 3, 4)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines) + '{"step": 5, "ti')
    assert newest_step(tmp_path) == 3  # what was reported later is not in it
