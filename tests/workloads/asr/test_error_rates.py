"""Error rates of texts, some of which are empty."""

import pytest

from trialfleet.workloads.asr.error_rates import error_rates


def test_errors_of_words_add_up() -> None:
    rates, alignments = error_rates(["the cat sat down", "a dog"], ["the cow sat", "a big dog"])
    assert rates["wer"] == pytest.approx(3 / 6)
    assert [rates[name] for name in ("insertions", "deletions", "substitutions")] == pytest.approx([1 / 6] * 3)
    assert rates["cer"] == pytest.approx(11 / 21)
    assert len(alignments) == 2


def test_nothing_said_and_nothing_read_is_no_error() -> None:
    """A hesitation is left out of both by Whisper's normaliser."""
    assert error_rates(["", "a dog"], ["", "a dog"])[0]["wer"] == 0
    assert error_rates(["", "a dog"], ["hm", "a dog"])[0] == {
        "wer": 0.5,
        "cer": 2 / 5,
        "insertions": 0.5,
        "deletions": 0,
        "substitutions": 0,
    }
    assert error_rates([""], [""])[0]["wer"] == 0
