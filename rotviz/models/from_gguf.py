"""A model from one GGUF file, de-quantized to float.

GGUF is llama.cpp's single-file format: magic "GGUF", a version, key-value metadata (architecture, tokenizer), a table of tensors, the
tensors. transformers maps the architectures it knows, turns every block of codes back into floats and undoes llama.cpp's reordering
of the query and key rows. Two things are put right afterwards:

- the model is a float model now, so the mark "quantized with gguf" goes (it would forbid saving the model);
- transformers splits text as GPT-2 does whatever `tokenizer.ggml.pre` says; where the original splits digits first ("smollm"), that
  is restored. Otherwise "a  12" would come out as other tokens than the model was trained on.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rotviz.errors import BadInput, BrokenCheckpoint
from rotviz.models.checkpoint import check_memory, quiet

MAGIC = b"GGUF"
DIGITS_FIRST = ("smollm",)
LOW_BITS = ("Q", "IQ", "TQ", "MXFP", "NVFP")


def read_gguf(path: Path, dtype: torch.dtype, attention: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """Model, tokenizer and notes of a GGUF file.

    Raises:
        BrokenCheckpoint: the file is missing, truncated, no GGUF, or of an architecture that transformers cannot map.
        BadInput: the packages that read GGUF are not installed.
        OutOfRoom: it would not fit into memory.
    """
    reader = open_gguf(path)
    check_metadata(reader, path)
    check_memory(sum(int(tensor.n_elements) for tensor in reader.tensors), torch.float32, path.name)
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, output_loading_info=True,
                                                               attn_implementation=attention, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    except ImportError as error:
        raise BadInput(_packages()) from error
    except (ValueError, KeyError, RuntimeError, OSError, NotImplementedError) as error:
        raise BrokenCheckpoint(f"transformers cannot load {path} ({_first_line(error)}); convert it to a safetensors folder, or use the "
                               "model's original checkpoint") from error
    if info["missing_keys"]:
        raise BrokenCheckpoint(f"{path} lacks weights of its architecture, {sorted(info['missing_keys'])[0]} first; use the whole file")
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None
        del model.config.quantization_config
    if _text_field(reader, "tokenizer.ggml.pre") in DIGITS_FIRST:
        split_digits_first(tokenizer)
    return model, tokenizer, (quantization_note(reader),)


def open_gguf(path: Path) -> Any:
    """A gguf.GGUFReader on the file, every tensor of which lies inside the file.

    Raises:
        BrokenCheckpoint, BadInput: as read_gguf.
    """
    if not path.is_file():
        raise BrokenCheckpoint(f"there is no file {path}; give a .gguf file or a folder with config.json and safetensors files")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BrokenCheckpoint(f"{path} does not start with {MAGIC.decode()}: it is no GGUF file; download it again")
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise BadInput(_packages()) from error
    try:
        reader = GGUFReader(path)
        end = max(int(tensor.data_offset) + int(tensor.n_bytes) for tensor in reader.tensors)
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise BrokenCheckpoint(f"{path} is truncated or damaged ({_first_line(error)}); download it again") from error
    if end > path.stat().st_size:
        raise BrokenCheckpoint(f"{path} has {path.stat().st_size} bytes and its table asks for {end}: it is truncated; download it again")
    return reader


def check_metadata(reader: Any, path: Path) -> None:
    """Refuse a file that does not say how large its model is: transformers would make one of 7 billion parameters, its default.

    Raises:
        BrokenCheckpoint: the architecture, the number of blocks or the width is missing.
    """
    architecture = _text_field(reader, "general.architecture")
    for name in ("block_count", "embedding_length", "attention.head_count"):
        if f"{architecture}.{name}" not in reader.fields:
            raise BrokenCheckpoint(f"{path} holds no whole language model ({architecture}.{name} is missing from its metadata); use a file "
                                   "that llama.cpp's converter wrote")


def quantization_note(reader: Any) -> str:
    """What the weights have been through, from the types that hold most of the numbers."""
    counts: Counter[str] = Counter()
    for tensor in reader.tensors:
        counts[tensor.tensor_type.name] += int(tensor.n_elements)
    main = counts.most_common(1)[0][0]
    if not main.startswith(LOW_BITS):
        return f"its weights come from a GGUF file in {main}"
    bits = next(character for character in main if character.isdigit())
    return f"its weights have been through {bits} bits once (GGUF {main})"


def split_digits_first(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make every digit a piece of its own before the byte-level split, as SmolLM's own tokenizer.json does. In place."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])


def _text_field(reader: Any, name: str) -> str | None:
    field = reader.fields.get(name)
    return None if field is None else str(field.contents())


def _packages() -> str:
    return ("reading a GGUF file needs the packages gguf and accelerate; install them (pip install gguf accelerate), "
            "or use a safetensors folder")


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
