"""A recipe: everything that determines a result, frozen; TOML and JSON; the same recipe and code give the same numbers.

Every key has a default and an unknown key is an error that names the nearest known one. The settings of a method stand in a table of its own
below its section ([rotation.hadamard]); tables of methods that are not chosen are checked and dropped, since they determine nothing.

The keys are a promise to scripts: they are added to, never renamed.
"""

import copy
import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from rotviz.allocation import ALLOCATIONS, CHOICES, is_budgeted
from rotviz.allocation.sensitivity import KINDS
from rotviz.config import fingerprint, from_mapping, setting, settings_of, to_mapping
from rotviz.device import DTYPES
from rotviz.errors import BadInput
from rotviz.quantizers import QUANTIZERS, is_calibrated
from rotviz.registry import Registry
from rotviz.rotations import ROTATIONS
from rotviz.types import BITS, FLOAT_BITS, FORMATS, Granularity, QuantSpec, Slot, check_clip


@dataclass(frozen=True, slots=True)
class TextTable:
    """Which texts are read, and how much of them."""

    calibration: str = setting("wikitext2:validation", "text that methods learn from: wikitext2:SPLIT, pydoc, c4:validation, or a .txt file")
    evaluation: str = setting("wikitext2:test", "text that perplexity is measured on")
    samples: int = setting(16, "calibration windows", minimum=1)
    length: int = setting(2048, "tokens in a window", minimum=2)
    windows: int = setting(16, "evaluation windows; 0 = all", minimum=0)


@dataclass(frozen=True, slots=True)
class ImagesTable:
    """Which images a vision model reads, in place of the texts."""

    calibration: str = setting("shapes:validation", "images that methods learn from: shapes:SPLIT (drawn), or a folder of images")
    evaluation: str = setting("shapes:test", "images that top-1 agreement is measured on")
    samples: int = setting(64, "calibration images", minimum=1)
    count: int = setting(512, "evaluation images; 0 = all of a folder", minimum=0)


@dataclass(frozen=True, slots=True)
class RotationTable:
    """Which rotation acts where."""

    method: str = setting("hadamard", "how the rotations are made", choices_from=ROTATIONS)
    slots: tuple[str, ...] = setting(tuple(s.value for s in Slot), "slots in which a rotation acts", choices=tuple(s.value for s in Slot))
    load: str = setting("", "a saved rotation (.safetensors) that is used as it is, in place of one that the method makes")


class OrNone:
    """The names of a registry and "none", for a setting's choices."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def __iter__(self) -> Iterator[str]:
        yield "none"
        yield from self.registry


ABLATION_UNITS = ("none", "block", "module")
_ESTIMATE = 2
"""How importance is estimated (allocation/sensitivity.py): counted up where the same recipe comes to other bits."""
ACTIVATION_FORMATS = tuple(name for name in FORMATS if name != "power")
"""A power grid needs its exponent before the numbers come."""


@dataclass(frozen=True, slots=True)
class ScalingTable:
    """How range is moved from activations to weights before anything is rounded."""

    method: str = setting("none", "scaling of channels that folds into the norms", choices=("none", "smoothquant"))
    alpha: float = setting(0.5, "share of a channel's range that goes to the weights", minimum=0, maximum=1)


@dataclass(frozen=True, slots=True)
class WeightTable:
    """How weights are quantized."""

    method: str = setting("rtn", "weight quantizer", choices_from=QUANTIZERS)
    bits: int = setting(4, "bits a weight; 16 = float", choices=BITS)
    symmetric: bool = setting(True, "a grid symmetric about zero")
    group: int = setting(0, "inputs that share a scale; 0 = a whole output channel", minimum=0)
    clip: float | str = setting("mse", "none, mse (searched), or the share of the range that is kept")
    format: str = setting("int", "number format", choices=tuple(FORMATS))

    def spec(self) -> QuantSpec:
        """The QuantSpec of the weights; float where the method is none."""
        bits = FLOAT_BITS if self.method == "none" else self.bits
        return QuantSpec(bits, self.symmetric, Granularity.GROUP if self.group else Granularity.CHANNEL, self.group, self.clip,
                         self.format)


@dataclass(frozen=True, slots=True)
class ActivationTable:
    """How the inputs of linear layers are quantized, token by token."""

    bits: int = setting(4, "bits an activation; 16 = float", choices=BITS)
    symmetric: bool = setting(False, "a grid symmetric about zero")
    group: int = setting(0, "channels that share a scale; 0 = a whole token", minimum=0)
    clip: float | str = setting(1.0, "none, mse (searched), or the share of the range that is kept")
    format: str = setting("int", "number format", choices=ACTIVATION_FORMATS)

    def spec(self) -> QuantSpec:
        """The QuantSpec of the activations. A format's own blocks, named or not, stay those of a token."""
        group = 0 if self.format in FORMATS and self.group == FORMATS[self.format].block else self.group
        return QuantSpec(self.bits, self.symmetric, Granularity.GROUP if group else Granularity.TOKEN, group, self.clip, self.format)


@dataclass(frozen=True, slots=True)
class CacheTable:
    """How keys (after RoPE) and values are quantized, head by head."""

    bits: int = setting(FLOAT_BITS, "bits a number of the KV cache; 16 = float", choices=BITS)
    group: int = setting(0, "channels that share a scale; 0 = a whole head", minimum=0)
    symmetric: bool = setting(False, "a grid symmetric about zero")
    clip: float | str = setting(0.95, "none, mse (searched), or the share of the range that is kept; 0.95 suits 4 bits, none suits 6 and more")

    def spec(self) -> QuantSpec:
        """The QuantSpec of the KV cache."""
        return QuantSpec(self.bits, self.symmetric, Granularity.HEAD, self.group, self.clip)


@dataclass(frozen=True, slots=True)
class AllocationTable:
    """Mixed precision: which weights get how many bits, at a given average."""

    method: str = setting("none", "how bits are shared out; none = weights.bits for all", choices_from=OrNone(ALLOCATIONS))
    budget: float = setting(0.0, "average bits a weight; 0 = weights.bits", minimum=0, maximum=FLOAT_BITS)
    unit: str = setting("tensor", "what gets bits of its own: a whole weight, or each of its output channels", choices=("tensor", "channel"))
    sensitivity: str = setting("curvature", "what importance estimates: curvature, the first order, or their sum", choices=KINDS)


@dataclass(frozen=True, slots=True)
class AblationTable:
    """Which layer hurts: units quantized one at a time, and all but one (pipeline/ablation.py). It changes nothing of the run's other numbers."""

    unit: str = setting("none", "what is quantized one at a time: whole blocks, or modules (block x role); none = nothing", choices=ABLATION_UNITS)
    kind: str = setting("both", "only this one quantized, all but this one, or both", choices=("both", "only", "all_but"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a result.

    `rotation_settings`, `weight_settings` and `allocation_settings` are the chosen methods' own configurations (allocation none has none).
    """

    model: str = setting("smollm2-135m", "an embedded name, a hub id, a folder, or a .gguf file")
    seed: int = setting(0, "seed of every random choice", minimum=0, maximum=2**31 - 1)
    device: str = setting("auto", "where it runs", choices=("auto", "cpu", "cuda"))
    dtype: str = setting("float32", "dtype of the float model", choices=DTYPES)
    text: TextTable = field(default_factory=TextTable)
    images: ImagesTable = field(default_factory=ImagesTable)
    rotation: RotationTable = field(default_factory=RotationTable)
    scaling: ScalingTable = field(default_factory=ScalingTable)
    weights: WeightTable = field(default_factory=WeightTable)
    allocation: AllocationTable = field(default_factory=AllocationTable)
    activations: ActivationTable = field(default_factory=ActivationTable)
    kv: CacheTable = field(default_factory=CacheTable)
    ablation: AblationTable = field(default_factory=AblationTable)
    rotation_settings: Any = None
    weight_settings: Any = None
    allocation_settings: Any = None

    def __post_init__(self) -> None:
        for table in (self.weights, self.activations, self.kv):
            check_clip(table.clip)
        if self.rotation_settings is None:
            object.__setattr__(self, "rotation_settings", ROTATIONS[self.rotation.method]())
        if self.weight_settings is None:
            object.__setattr__(self, "weight_settings", QUANTIZERS[self.weights.method]())
        if self.allocation_settings is None and self.allocation.method != "none":
            object.__setattr__(self, "allocation_settings", ALLOCATIONS[self.allocation.method]())
        self._check_formats()
        self._check_allocation()
        self._check_ablation()

    def _check_formats(self) -> None:
        for section, table in (("weights", self.weights), ("activations", self.activations), ("kv", self.kv)):
            try:
                table.spec()
            except BadInput as error:
                raise BadInput(f"{section}: {error}") from error
        spec = self.weights.spec()
        refusal = self.weight_settings.refusal(spec) if is_calibrated(self.weight_settings) and spec.quantizes else None
        if refusal:
            raise BadInput(f"weights.method = {self.weights.method}: {refusal}")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of settings that are allowed and seldom meant."""
        kv = self.kv.spec()
        if kv.bits in range(6, FLOAT_BITS) and not isinstance(kv.clip, str) and kv.clip < 1:
            return (f"kv.clip = {kv.clip} suits 4 bits: with {kv.bits} it cuts off more than rounding loses; kv.clip = none cuts off nothing",)
        return ()

    def _check_allocation(self) -> None:
        if self.allocation.method == "none":
            return
        if not is_budgeted(self.allocation_settings):
            self._check_listed()
            return
        if not self.weights.spec().quantizes:
            raise BadInput("allocation shares out bits of quantized weights: choose a weights.method and weights.bits below 16, "
                           "or allocation.method = none")
        if len(FORMATS[self.weights.format].bits) == 1:
            raise BadInput(f"weights.format = {self.weights.format} has one number of bits, so there is nothing to allocate; use int or power")
        if self.average_bits < min(CHOICES) or self.average_bits > max(CHOICES):
            raise BadInput(f"allocation.budget = {self.average_bits:g} cannot be met; units get {', '.join(map(str, CHOICES))} bits")

    def _check_listed(self) -> None:
        """Something is kept at more bits than it would have, and there is a grid of so many bits."""
        kept = self.allocation_settings
        if self.allocation.budget:
            raise BadInput("allocation.budget has no meaning with allocation.method = listed: what is not listed gets weights.bits; leave it at 0")
        if not kept.keep:
            raise BadInput("allocation.listed.keep is empty: name what is kept at more bits, such as 11 (a block), 7.down (a linear) or o "
                           "(a role in all blocks), or set allocation.method = none")
        raised = {"weights": self.weights.spec()} | ({"activations": self.activations.spec()} if kept.inputs else {})
        raised = [(section, spec, bits) for section, spec in raised.items() for bits in kept.levels if spec.bits < bits]
        if not raised:
            raise BadInput(f"allocation.listed.bits = {kept.bits} keeps nothing: weights have {self.weights.spec().bits} bits and activations "
                           f"{self.activations.bits}; take more bits for what is listed, or fewer for the rest")
        for section, spec, bits in raised:
            if bits not in (FLOAT_BITS, *FORMATS[spec.number_format].bits):
                raise BadInput(f"{section}.format = {spec.number_format} has no {bits} bits: set allocation.listed.bits = 16 to keep in float")

    def _check_ablation(self) -> None:
        if self.ablation.unit == "none":
            return
        if not any(spec.quantizes for spec in (self.weights.spec(), self.activations.spec(), self.kv.spec())):
            raise BadInput("an ablation needs something that is quantized: set weights.bits, activations.bits or kv.bits below 16, "
                           "or ablation.unit = none")

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Recipe":
        """A recipe from plain nested values.

        Raises:
            BadInput: an unknown key (with the nearest known), a wrong type, a value out of range.
        """
        plain = {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}
        rotation_tables = _method_tables(plain, "rotation", ROTATIONS)
        weight_tables = _method_tables(plain, "weights", QUANTIZERS)
        allocation_tables = _method_tables(plain, "allocation", ALLOCATIONS)
        listed = plain.pop("allocation", {})  # checked together with its method's own table, below
        recipe = from_mapping(cls, plain)
        if not isinstance(listed, Mapping):
            raise BadInput(f"allocation is a table, not {listed!r}")
        allocation = from_mapping(AllocationTable, listed, "allocation")
        return replace(recipe, rotation_settings=rotation_tables.get(recipe.rotation.method) or recipe.rotation_settings,
                       weight_settings=weight_tables.get(recipe.weights.method) or recipe.weight_settings,
                       allocation=allocation, allocation_settings=allocation_tables.get(allocation.method))

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, methods' tables below their sections. The images are left out at their defaults: a language model reads none, and its
        recipes stay as they were before there were vision models."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("_settings")}
        if self.images == ImagesTable():
            del plain["images"]
        plain = {k: v if isinstance(v, (str, int)) else to_mapping(v) for k, v in plain.items()}
        if self.ablation.unit == "none":
            del plain["ablation"]  # a measurement that is not made determines nothing
        for section, method, settings in (("rotation", self.rotation.method, self.rotation_settings),
                                          ("weights", self.weights.method, self.weight_settings),
                                          ("allocation", self.allocation.method, self.allocation_settings)):
            table = to_mapping(settings) if settings is not None else {}
            if table:
                plain[section][method] = table
        return plain

    def to_toml(self) -> str:
        """The recipe as a TOML document."""
        return tomli_w.dumps(self.to_dict())

    def anchored(self) -> "Recipe":
        """The same recipe with every path in it absolute, so that a worker that started elsewhere finds the same files."""
        text = replace(self.text, calibration=_anchored(self.text.calibration), evaluation=_anchored(self.text.evaluation))
        images = replace(self.images, calibration=_anchored(self.images.calibration), evaluation=_anchored(self.images.evaluation))
        rotation = replace(self.rotation, load=_anchored(self.rotation.load))
        settings = self.rotation_settings
        if hasattr(settings, "start"):
            settings = replace(settings, start=_anchored(settings.start))
        return replace(self, model=_anchored(self.model), text=text, images=images, rotation=rotation, rotation_settings=settings)

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with any key that determines the result."""
        plain = self.to_dict()
        if self.allocation.method != "none" and self.allocation_settings.needs_costs:
            plain["allocation"]["estimate"] = _ESTIMATE
        else:  # the kind of a cost that nobody looks at decides nothing, and its default was another once: older fingerprints stay
            plain["allocation"]["sensitivity"] = "both"
        return fingerprint(plain)

    @property
    def average_bits(self) -> float:
        """Bits a weight, scales apart: weights.bits, or the budget where bits are allocated."""
        if self.allocation.method != "none" and self.allocation.budget:
            return self.allocation.budget
        return self.weights.spec().bits

    @property
    def calibrates(self) -> bool:
        """Whether the walk over the blocks needs calibration windows."""
        return self.scaling.method != "none" or (is_calibrated(self.weight_settings) and self.weights.spec().quantizes)

    @property
    def bits_title(self) -> str:
        """The field's short form, such as W4A4KV16."""
        return f"W{self.average_bits:g}A{self.activations.bits}KV{self.kv.bits}"

    @property
    def title(self) -> str:
        """A few words for a table: rotation, slots, bits, weight method, and what else is not as usual."""
        slots = "" if self.rotation.method == "none" else " " + "".join(self.rotation.slots).replace("R", "") if self.rotation.slots else ""
        slots = f" R{slots.strip()}" if slots else ""
        quantizer = f" {self.weights.method}" if self.weights.spec().quantizes else ""
        groups = [f"{part}g{spec.group}" for part, spec in (("W", self.weights.spec()), ("A", self.activations.spec()), ("KV", self.kv.spec()))
                  if spec.quantizes and spec.group]
        extras = [self.scaling.method, *groups, *(name for name in dict.fromkeys((self.weights.format, self.activations.format)) if name != "int"),
                  getattr(self.allocation_settings, "title", self.allocation.method),
                  "none" if self.ablation.unit == "none" else f"one {self.ablation.unit} at a time"]
        return f"{self.rotation.method}{slots} {self.bits_title}{quantizer}" + "".join(f" {name}" for name in extras if name != "none")

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots that act: none for the method none."""
        return () if self.rotation.method == "none" else tuple(s for s in Slot if s.value in self.rotation.slots)


def load_recipe(path: Path) -> Recipe:
    """A recipe from a .toml or .json file."""
    return Recipe.from_dict(read_recipe_file(path))


def read_recipe_file(path: Path) -> dict[str, Any]:
    """The plain values of a recipe file, unchecked.

    Raises:
        BadInput: no such file, or it is neither TOML nor JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the recipe {path}: {error}") from error
    try:
        return json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"the recipe {path} is not valid {'JSON' if path.suffix == '.json' else 'TOML'}: {error}") from error


def with_changes(plain: Mapping[str, Any], changes: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Plain values with dotted keys set: ("weights.bits", 3).

    Raises:
        BadInput: a key that runs through something that is not a table.
    """
    result = copy.deepcopy(dict(plain))
    for key, value in changes:
        table = result
        *path, last = key.split(".")
        for name in path:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise BadInput(f"{key}: {name} is not a table of the recipe")
        table[last] = value
    return result


def _anchored(name: str) -> str:
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _method_tables(plain: dict[str, Any], section: str, registry: Registry) -> dict[str, Any]:
    table = plain.get(section)
    if not isinstance(table, dict):
        return {}
    found = {}
    for name in [k for k in table if k in registry and isinstance(table[k], Mapping)]:
        found[name] = from_mapping(registry[name], table.pop(name), f"{section}.{name}")
    return found


def recipe_settings() -> dict[str, Any]:
    """Every settable key in dotted form, with what is known about it: for flags, forms and documentation."""
    found = {}
    for top in settings_of(Recipe):
        if is_dataclass(top.type):
            found |= {f"{top.name}.{inner.name}": inner for inner in settings_of(top.type)}
        elif top.help:
            found[top.name] = top
    for section, registry in (("rotation", ROTATIONS), ("weights", QUANTIZERS), ("allocation", ALLOCATIONS)):
        for name, method in registry.items():
            found |= {f"{section}.{name}.{s.name}": s for s in settings_of(method)}
    return found

