"""What frames spell: the likeliest text, its probability, and frames that are merged."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.workloads.asr.test_transcriber import config
from trialfleet.errors import UserError
from trialfleet.workloads.asr import spelling
from trialfleet.workloads.asr.spelling import Told
from trialfleet.workloads.decoder import PAD

VOCABULARY, END = 4, 3
DECODER = {"embedder": {"input_embedding": jnp.eye(VOCABULARY)}}  # a frame's numbers are its scores


def told(frames: np.ndarray, heard: np.ndarray) -> Told:
    return Told(jnp.zeros(()), jnp.zeros(()), jnp.asarray(frames, jnp.float32), jnp.asarray(heard, jnp.float32))


def spelled_by(path: tuple[int, ...]) -> tuple[int, ...]:
    """The text of a path: repeated tokens once, no blanks."""
    return tuple(token for n, token in enumerate(path) if token != PAD and (n == 0 or path[n - 1] != token))


def test_the_probability_of_a_text_is_that_of_all_its_paths():
    frames = np.random.default_rng(0).normal(size=(1, 4, VOCABULARY))
    chances = np.asarray(jax.nn.softmax(frames[0]))
    for text in ((1,), (1, 2), (1, 1), (2, 1, 2)):
        paths = [path for path in product(range(VOCABULARY), repeat=4) if spelled_by(path) == text]
        wanted = sum(np.prod([chances[n, token] for n, token in enumerate(path)]) for path in paths)
        tokens = jnp.asarray([[*text, *[PAD] * (4 - len(text))]])
        nats, fits = spelling.nats(told(frames, np.ones((1, 4))), DECODER, tokens)
        assert bool(fits[0])
        np.testing.assert_allclose(np.exp(-np.asarray(nats)[0]), wanted, rtol=1e-4)


def test_a_text_needs_frames_enough_and_one_more_between_equal_tokens():
    frames, heard = np.zeros((1, 4, VOCABULARY)), np.asarray([[1, 1, 0, 0]])
    for text, enough in (((1, 2), True), ((1, 1), False), ((1, 2, 1), False)):
        tokens = jnp.asarray([[*text, *[PAD] * (4 - len(text))]])
        assert bool(spelling.nats(told(frames, heard), DECODER, tokens)[1][0]) is enough


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([0, 1, 1, 0, 1, 2], [1, 1, 2, 0]),  # a blank between them makes two of it
        ([1, 2, 3, 3, 1, 2], [1, 2, 3, 0]),  # nothing behind an end
        ([0, 0, 0, 0, 0, 0], [0, 0, 0, 0]),
        ([1, 2, 1, 2, 1, 2], [1, 2, 1, 2]),  # no more than there is room for
    ],
)
def test_the_likeliest_token_of_each_frame_makes_the_text(path, text):
    frames = 5 * np.eye(VOCABULARY)[path][None]
    found = spelling.likeliest(told(frames, np.ones((1, 6))), DECODER, 4, (END,))
    assert found.tolist() == [text]


def test_what_is_behind_a_recording_spells_nothing():
    frames = 5 * np.eye(VOCABULARY)[[1, 2, 1]][None]
    found = spelling.likeliest(told(frames, np.asarray([[1, 1, 0]])), DECODER, 3, (END,))
    assert found.tolist() == [[1, 2, 0]]


def test_frames_of_a_token_become_their_mean_and_blanks_go():
    frames = np.asarray([[[9, 0, 0, 0], [0, 4, 0, 0], [0, 8, 0, 0], [9, 0, 0, 0], [0, 6, 1, 0], [0, 0, 0, 7]]])
    heard = jnp.asarray([[1, 1, 1, 1, 1, 0]], jnp.float32)
    found, there = spelling.merged(jnp.asarray(frames, jnp.float32), heard, jnp.eye(VOCABULARY))
    assert there.tolist() == [[1, 1, 0, 0, 0, 0]]
    np.testing.assert_allclose(found[0, :2], [[0, 6, 0, 0], [0, 6, 1, 0]])
    assert not np.asarray(found[0, 2:]).any()


@pytest.mark.parametrize("word", ["model.projector.merges=true", "transcription.ctc_weight=0.5"])
def test_frames_that_learn_no_spelling_cannot_spell(word):
    with pytest.raises(UserError, match=r"set model\.projector\.ctc_weight above 0"):
        config("speech.jsonl", word)
