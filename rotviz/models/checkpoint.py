"""What a checkpoint folder must be before a weight of it is read.

A safetensors file is an 8-byte little-endian length n, n bytes of JSON that give each tensor its dtype, shape and byte range, then
the bytes:

    | n | {"model.norm.weight": {"dtype": "F32", "shape": [576], "data_offsets": [0, 2304]}, ...} | data |

So a truncated download shows in the header alone: the file must be as long as 8 + n + the largest offset. Nothing here runs code
from the folder: pickles (`.bin`, `.pt`) can, and `auto_map` asks for it, so both are refused.
"""

import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rotviz.errors import BrokenCheckpoint, OutOfRoom

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "merges.txt", "spiece.model")
PROCESSOR = "preprocessor_config.json"
CLASSIFIER = "ForImageClassification"  # in the name of every such architecture of transformers
HEADER_LIMIT = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class Checkpoint:
    """A folder that passed: its configuration, its weight files and how many numbers they hold."""

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    elements: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that determines the loaded model: configuration, tokenizer and weights."""
        others = [self.folder / name for name in ("config.json", *TOKENIZER_FILES, PROCESSOR)]
        return (*(path for path in others if path.is_file()), *self.weights)


def check_folder(folder: Path) -> Checkpoint:
    """Inspect a checkpoint without loading it.

    Raises:
        BrokenCheckpoint: the folder, its configuration, a weight file or the tokenizer is missing, truncated or not trusted.
    """
    if not folder.is_dir():
        raise BrokenCheckpoint(f"there is no folder {folder}; give a folder with config.json and safetensors files, or a .gguf file")
    config = read_config(folder)
    weights = _weight_files(folder)
    elements = sum(prod(tensor["shape"]) for path in weights for tensor in read_header(path).values())
    _check_reader(folder, config)
    return Checkpoint(folder, config, weights, elements)


def reads_images(config: dict[str, Any]) -> bool:
    """Whether a config.json is an image classifier's."""
    return any(CLASSIFIER in str(name) for name in config.get("architectures") or [])


def _check_reader(folder: Path, config: dict[str, Any]) -> None:
    """A language model needs a tokenizer, an image classifier an image processor."""
    processor = (folder / PROCESSOR).is_file()
    if reads_images(config):
        if not processor:
            raise BrokenCheckpoint(f"{folder} has no {PROCESSOR}, which says how images are scaled; copy it from the model into it")
    elif not any((folder / name).is_file() for name in TOKENIZER_FILES):
        if processor:
            what = ", ".join(map(str, config.get("architectures") or ["no architecture"]))
            raise BrokenCheckpoint(f"{folder} reads images but is no classifier ({what}); of vision models those with a classifier head are read, "
                                   "such as ViTForImageClassification")
        raise BrokenCheckpoint(f"{folder} has no tokenizer; copy tokenizer.json and tokenizer_config.json of the model into it")


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json, if it needs neither remote code nor a quantizer's own kernels.

    Raises:
        BrokenCheckpoint: it is missing, is not JSON, names an architecture that transformers lacks, or is already quantized.
    """
    path = folder / "config.json"
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        hint = ("it holds an adapter: merge it into its base model (peft's merge_and_unload) and save that" if adapter else
                "give the folder that save_pretrained wrote")
        raise BrokenCheckpoint(f"{folder} has no config.json; {hint}")
    config = _read_json(path)
    _refuse_remote_code(config, folder)
    quantization = config.get("quantization_config")
    if quantization:
        method = quantization.get("quant_method", "an unnamed method") if isinstance(quantization, dict) else quantization
        raise BrokenCheckpoint(f"{folder} is already quantized with {method}; rotviz quantizes by itself and starts from the float "
                               "checkpoint, so give the model that this one was made from")
    return config


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors that a safetensors file holds: name to dtype, shape and data_offsets.

    Raises:
        BrokenCheckpoint: the header is no header, or the file is shorter or longer than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if not 2 <= length <= min(size - 8, HEADER_LIMIT):
            raise BrokenCheckpoint(f"{path} is no complete safetensors file (its first 8 bytes announce a header of {length} bytes, "
                                   f"the file has {size}); download or save it again")
        raw = file.read(length)
    try:
        header = json.loads(raw)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise BrokenCheckpoint(f"{path} has a broken safetensors header; download or save it again") from error
    if size != end:
        raise BrokenCheckpoint(f"{path} has {size} bytes where its header asks for {end}: it is truncated or damaged; "
                               "download or save it again")
    return tensors


def check_memory(elements: int, dtype: torch.dtype, name: str) -> None:
    """Refuse a model that would not fit beside what else is in memory; a guess, made where the system tells what is free.

    Raises:
        OutOfRoom: the weights alone need more than is free.
    """
    needed, free = elements * dtype.itemsize, free_memory()
    if free is not None and needed > free:
        kind = str(dtype).removeprefix("torch.")
        raise OutOfRoom(f"{name} needs {needed / 1e9:.1f} GB for its weights in {kind} and {free / 1e9:.1f} GB are free; use"
                        " dtype = 'bfloat16', a smaller model or a machine with more memory")


def free_memory() -> int | None:
    """Bytes of main memory that could be had now, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_finite(model: nn.Module, name: str) -> None:
    """Refuse weights with NaN or infinity, naming the first such tensor.

    Raises:
        BrokenCheckpoint: a tensor holds one.
    """
    for tensor_name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)  # NaN passes through both; no mask as large as the tensor is made
            if not (torch.isfinite(low) and torch.isfinite(high)):
                what = "NaN" if torch.isnan(low) else f"an infinity (in {str(tensor.dtype).removeprefix('torch.')})"
                raise BrokenCheckpoint(f"{name}: the weight {tensor_name} holds {what}; download or save the checkpoint again, "
                                       "or load it with dtype = 'float32' if it was trained in a wider one")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and load reports out of the terminal; what they had been is restored."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)  # what would be reported is checked here and raised in words of our own
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise BrokenCheckpoint(f"{folder / INDEX} names no weight files; download or save the checkpoint again")
        paths = tuple(folder / str(name) for name in sorted(set(weight_map.values())))
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise BrokenCheckpoint(f"{folder} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
                                   + f" of the {len(paths)} weight files that its index names; download the missing files")
        return paths
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise BrokenCheckpoint(f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code when it is read; convert it: "
                               "load it where you trust it and save_pretrained(..., safe_serialization=True)")
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"found {others[0]}, which is not a name that transformers loads" if others else "it holds no weights"
    raise BrokenCheckpoint(f"{folder} has no {SINGLE} or {INDEX} ({found}); save the model with save_pretrained")


def _refuse_remote_code(config: dict[str, Any], folder: Path) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = config.get("model_type")
    if kind in CONFIG_MAPPING:
        return  # an auto_map may be left over from before transformers had the model: its own class is used
    if config.get("auto_map"):
        raise BrokenCheckpoint(f"{folder} (model_type {kind!r}) needs Python code from its own repository, which rotviz does not run; "
                               "use a model whose architecture transformers has")
    raise BrokenCheckpoint(f"{folder / 'config.json'} names the model_type {kind!r}, which this version of transformers does not know; "
                           "upgrade transformers or use another model")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BrokenCheckpoint(f"{path} is not JSON ({error}); download or save it again") from error
    if not isinstance(content, dict):
        raise BrokenCheckpoint(f"{path} does not hold a JSON object; download or save it again")
    return content
