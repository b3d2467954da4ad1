"""The packaged real speech, fetched by one command."""

import shutil

import pytest

from jobs import fetch_prompts
from trialfleet.errors import UserError
from trialfleet.workloads.asr import features
from trialfleet.workloads.asr.recordings import recordings


def test_what_is_spoken_is_read_and_what_is_described_is_not():
    texts = "; Sounds\n\nadded: Added.\ndigits/1: one\nbeep: [this is a tone]\ntwo-lines:  At  the sound\nnothing:\n"
    said = [("added.wav", "Added."), ("digits/1.wav", "one"), ("two-lines.wav", "At the sound")]
    assert list(fetch_prompts.spoken(texts)) == said


def test_what_cannot_be_fetched_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is there already"):
        fetch_prompts.fetch(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="apt-get and dpkg-deb are needed"):
        fetch_prompts.fetch(tmp_path / "new")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("apt-get") is None, reason="needs Debian's apt-get")
def test_the_prompts_are_there_and_can_be_heard(tmp_path, capsys):
    assert fetch_prompts.main([str(tmp_path / "prompts")]) == 0
    assert "552 recordings" in capsys.readouterr().out
    found = recordings("dataset.train", str(tmp_path / "prompts" / fetch_prompts.LIST))
    assert all(one.path.is_file() for one in found)
    assert 20 * 60 < sum(features.seconds(one.path) for one in found) < 26 * 60
    assert features.log_mel(features.read(found[0].path), 80).shape[1] == 80
