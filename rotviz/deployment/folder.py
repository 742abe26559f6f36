"""A deployed model as a folder that stands on its own, and back.

    model.safetensors        codes, steps and zeros of every packed linear, and everything that stays in float
    rotations.safetensors    the online rotations R3 and R4: signs and base of a Hadamard rotation, a dense matrix otherwise; Gemma's R1
    deployment.json          which modules differ from transformers' own, and how: what is needed to build them again
    config.json, tokenizer   as transformers writes them
    recipe.toml, README.txt  what it was made from

Nothing of the original model is needed to load it. The skeleton is made from the configuration without memory for its weights, the modules that the
rewrite changed are put in their places, and the tensors are assigned; buffers that transformers computes and does not save (RoPE's frequencies) are
kept with the rest, so that they come back as they were.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rotviz.deployment.build import Deployed, is_tied, with_packed_cache
from rotviz.deployment.cache import CacheCoder
from rotviz.deployment.linear import LinearInput, PackedLinear, RoundedLinear
from rotviz.deployment.shelf import DESCRIPTION, VERSION, description_in, refuse_filled
from rotviz.deployment.size import CONTEXT, weigh
from rotviz.device import resolve_device, resolve_dtype
from rotviz.errors import BrokenCheckpoint
from rotviz.home import fill_folder_atomically
from rotviz.kernels.online import kernels_know
from rotviz.kernels.packed import Packed, code_dtype, two_a_byte
from rotviz.models.attention import set_edit
from rotviz.models.families import family_for
from rotviz.models.family import ATTENTION, block_views
from rotviz.models.norms import GainRMSNorm, UnitRMSNorm
from rotviz.numerics.rotation import DenseRotation, HadamardRotation, Rotation
from rotviz.pipeline.recipe import Recipe, load_recipe
from rotviz.surgery.steps import RotatedOutput, linearize_experts
from rotviz.types import Granularity, QuantSpec

WEIGHTS, ROTATIONS = "model.safetensors", "rotations.safetensors"


def save(deployed: Deployed, target: Path) -> list[str]:
    """Write the folder; the names of the files in it.

    Raises:
        BadInput: the target is there already and not empty.
        OutOfRoom: the disk is full; nothing is left behind.
    """
    refuse_filled(target)
    tensors = _tensors(deployed.model)
    rotations: dict[str, Tensor] = {}
    description = {"version": VERSION, "architecture": type(deployed.model).__name__, "dtype": str(deployed.model.dtype).removeprefix("torch."),
                   "tied": is_tied(deployed.model), "cache": {"spec": asdict(deployed.coder.spec), "r3": deployed.coder.rotation is not None},
                   "context": CONTEXT, "bytes": [part.to_dict() for part in weigh(deployed)],
                   "modules": _modules(deployed, rotations), "buffers": sorted(set(_passing_buffers(deployed.model)))}
    if deployed.coder.rotation is not None:
        rotations |= _stored("r3", deployed.coder.rotation.rotation)

    def fill(folder: Path) -> None:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        save_file(rotations, folder / ROTATIONS, metadata={"format": "pt"})
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        _config_to_save(deployed.model).save_pretrained(folder)
        if deployed.model.generation_config is not None:
            deployed.model.generation_config.save_pretrained(folder)
        deployed.tokenizer.save_pretrained(folder)
        (folder / "recipe.toml").write_text(deployed.recipe.to_toml(), encoding="utf-8")
        (folder / "README.txt").write_text(_words(deployed.recipe), encoding="utf-8")

    fill_folder_atomically(target, fill)
    return sorted(file.name for file in target.iterdir())


def load(folder: Path, device: str = "auto") -> Deployed:
    """The deployed model in a folder.

    Raises:
        BrokenCheckpoint: no such folder, none that `save` wrote, or one that is not whole.
        BadInput: no such device.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = resolve_device(device)
    description = description_in(folder)
    recipe = load_recipe(folder / "recipe.toml")
    tensors, rotations = _read(folder / WEIGHTS), _read(folder / ROTATIONS)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    family = family_for(description["architecture"], config)
    model = _skeleton(config, resolve_dtype(description["dtype"]))
    views = block_views(model, family)
    for view in views:
        linearize_experts(view)
    r4 = _put_modules(model, description["modules"], rotations)
    _assign(model, tensors, description, folder)
    coder = CacheCoder(_spec(description["cache"]["spec"]), _rotation("r3", rotations) if description["cache"]["r3"] else None)
    for view in views:
        set_edit(view.attention, coder.edit() if coder.acts else None)
    model.eval().requires_grad_(False).to(place)
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.find_sums()
    with_packed_cache(model, coder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    return Deployed(model, tokenizer, recipe, family, coder, r4)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything to save by name, each storage once."""
    found = dict(model.state_dict())
    if is_tied(model):
        found.pop(_name_of(model, model.get_output_embeddings()) + ".weight")
    found |= {name: buffer.clone() for name, buffer in _passing_buffers(model).items()}  # some of them are one tensor under two names
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _passing_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state dict leaves out, but for sums that can be had again."""
    kept = model.state_dict().keys()
    ours = {f"{name}.sums" for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept and name not in ours}


def _modules(deployed: Deployed, rotations: dict[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The modules that are not transformers' own, by path; the rotations that they carry out are collected."""
    sources: dict[int, int] = {}
    found = {}
    for path, module in deployed.model.named_modules():
        if isinstance(module, (PackedLinear, RoundedLinear)):
            source = module.source
            number = sources.setdefault(id(source), len(sources))
            width = None
            if source.rotation is not None:
                width = source.rotation.rotation.size
                rotations |= _stored(f"r4.{width}", source.rotation.rotation)
            found[path] = _linear(module) | {"source": number, "activations": asdict(source.spec), "r4": width}
        elif isinstance(module, GainRMSNorm):
            found[path] = {"kind": "GainRMSNorm", "width": len(module.weight), "epsilon": module.eps, "plus_one": module.plus_one}
        elif isinstance(module, UnitRMSNorm):
            found[path] = {"kind": "UnitRMSNorm", "epsilon": module.eps}
        elif isinstance(module, RotatedOutput):
            rotations |= _stored("r1", module.rotation.rotation)
            found[path] = {"kind": "RotatedOutput"}
    head = deployed.model.get_output_embeddings()
    if head.bias is not None:
        found[_name_of(deployed.model, head)] = {"kind": "Linear", "inputs": head.in_features, "outputs": head.out_features}
    return found


def _linear(module: PackedLinear | RoundedLinear) -> dict[str, Any]:
    if isinstance(module, RoundedLinear):
        outputs, inputs = module.weight.shape
        return {"kind": "RoundedLinear", "inputs": inputs, "outputs": outputs, "bias": module.bias is not None}
    return {"kind": "PackedLinear", "inputs": module.in_features, "outputs": module.out_features, "bias": module.bias is not None,
            "groups": module.step.shape[-1], "weights": asdict(module.spec), "product": module.product}


def _put_modules(model: nn.Module, described: dict[str, dict[str, Any]], tensors: dict[str, Tensor]) -> dict[int, Rotation]:
    """Build the described modules, without memory, and put them in their places; the online rotations by width."""
    widths = {entry["r4"] for entry in described.values() if entry.get("r4") is not None}
    r4 = {width: _rotation(f"r4.{width}", tensors) for width in sorted(widths)}
    sources: dict[int, LinearInput] = {}
    for entry in described.values():
        if "source" in entry and entry["source"] not in sources:
            sources[entry["source"]] = LinearInput(_spec(entry["activations"]), r4.get(entry["r4"]))
    for path, entry in described.items():
        if entry["kind"] == "RotatedOutput":
            module = RotatedOutput(model.get_submodule(path), _rotation("r1", tensors))
        else:
            with torch.device("meta"):  # modules alone: rotations are computed with
                module = _BUILDERS[entry["kind"]](entry, sources.get(entry.get("source")))
        model.set_submodule(path, module)
    return r4


def _packed_linear(entry: dict[str, Any], source: LinearInput) -> nn.Module:
    spec, inputs, outputs = _spec(entry["weights"]), entry["inputs"], entry["outputs"]
    data = torch.empty(outputs, inputs // 2 if two_a_byte(spec) else inputs, dtype=code_dtype(spec))
    step = torch.empty(outputs, entry["groups"])
    packed = Packed(data, step, None if spec.symmetric else torch.empty_like(step), spec, inputs, torch.float32)
    return PackedLinear(packed, torch.empty(outputs) if entry["bias"] else None, source)


def _plain_linear(entry: dict[str, Any], bias: bool) -> nn.Linear:
    return nn.Linear(entry["inputs"], entry["outputs"], bias=bias)


_BUILDERS: dict[str, Callable[[dict[str, Any], LinearInput | None], nn.Module]] = {
    "PackedLinear": _packed_linear,
    "RoundedLinear": lambda entry, source: RoundedLinear(_plain_linear(entry, entry["bias"]), source),
    "Linear": lambda entry, source: _plain_linear(entry, True),
    "GainRMSNorm": lambda entry, source: GainRMSNorm(torch.empty(entry["width"]), entry["epsilon"], entry["plus_one"]),
    "UnitRMSNorm": lambda entry, source: UnitRMSNorm(entry["epsilon"]),
}


def _skeleton(config: Any, dtype: torch.dtype) -> nn.Module:
    from transformers import AutoModelForCausalLM

    import rotviz.models.attention  # noqa: F401 - makes ATTENTION known to transformers

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION, dtype=dtype, trust_remote_code=False)


def _assign(model: nn.Module, tensors: dict[str, Tensor], description: dict[str, Any], folder: Path) -> None:
    passing = {name: tensors.pop(name) for name in description["buffers"] if name in tensors}
    for name, buffer in passing.items():
        path, _, last = name.rpartition(".")
        owner = model.get_submodule(path)
        owner.register_buffer(last, buffer, persistent=False)
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    if description["tied"]:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
        missing = [name for name in missing if name != _name_of(model, model.get_output_embeddings()) + ".weight"]
    elsewhere = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta and not name.endswith(".sums")]
    if missing or unexpected or elsewhere:
        odd = [*missing, *unexpected, *elsewhere]
        raise BrokenCheckpoint(f"{folder / WEIGHTS} does not hold what {DESCRIPTION} asks for: {', '.join(odd[:3])}; deploy the run again")


def _stored(name: str, rotation: Rotation) -> dict[str, Tensor]:
    if not isinstance(rotation, HadamardRotation):
        return {f"{name}.matrix": rotation.dense()}
    signs = {} if rotation.signs is None else {f"{name}.signs": rotation.signs}
    return {f"{name}.base": rotation.base_orthogonal.clone(), f"{name}.size": torch.tensor(rotation.size)} | signs


def _rotation(name: str, tensors: dict[str, Tensor]) -> Rotation:
    if f"{name}.matrix" in tensors:
        return DenseRotation(tensors[f"{name}.matrix"], name="from a deployed model")
    if f"{name}.base" not in tensors:
        raise BrokenCheckpoint(f"{ROTATIONS} lacks {name}, which {DESCRIPTION} asks for; deploy the run again")
    size, signs = int(tensors[f"{name}.size"]), tensors.get(f"{name}.signs")
    rotation = HadamardRotation(size, signs, base=tensors[f"{name}.base"])
    return HadamardRotation(size, signs) if kernels_know(rotation) else rotation  # the same to the last bit as before it was saved


def _spec(plain: dict[str, Any]) -> QuantSpec:
    return QuantSpec(**(plain | {"granularity": Granularity(plain["granularity"])}))


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, other in model.named_modules() if other is module)


def _config_to_save(model: Any) -> Any:
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = is_tied(model)
    return config


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt"):
            pass
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read ({error}); deploy the run again") from error


def _words(recipe: Recipe) -> str:
    return (f"rotviz: {recipe.title} of {recipe.model}, deployed\n\n"
            "Load it with:\n  from pathlib import Path\n  from rotviz.deployment.folder import load\n  deployed = load(Path('this folder'))\n"
            "  deployed.model.generate(**deployed.tokenizer('The', return_tensors='pt'), max_new_tokens=20)\n\n"
            "A packed linear holds data (uint8: two 4-bit codes a byte, the earlier input in the low half; or one 8-bit code a byte),\n"
            "step and, if asymmetric, zero, both float32 by output and group: w = step (code - zero).\n")
