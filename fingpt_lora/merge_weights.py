"""The arithmetic of a merge: base weight + adapter, in float32, one module at a time, rounded once to what is saved.

The base is read from its checkpoint tensor by tensor and the sums are written shard by shard, so that a model merges in
the memory of one shard. PEFT does the sum itself, on a model without weights in which each adapted module is given its
own for that moment; so whatever it can merge (DoRA, rsLoRA, IA3, ...) merges here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from fingpt_lora import earlier
from fingpt_lora import model as models
from fingpt_lora.atomic import write_json
from fingpt_lora.errors import ModelError
from fingpt_lora.predict import checkpoint_of
from fingpt_lora.runs import Run

_SHARD = "2GB"
_QUANTIZED = ("Params4bit", "Int8Params")  # bitsandbytes' parameters
_COMBINED = "combined"

# Tensor's name -> what gives its weights in place of those of the checkpoint.
Instead = Mapping[str, Callable[[], torch.Tensor]]


class Weights:
    """The tensors of a checkpoint, read one at a time, some of them from elsewhere."""

    def __init__(self, checkpoint: Path, instead: Instead) -> None:
        """Open the checkpoint; nothing is read yet."""
        index = checkpoint / "model.safetensors.index.json"
        files = ["model.safetensors"]
        if index.is_file():
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        opened: list[Any] = [safe_open(checkpoint / name, framework="pt") for name in files]
        self._place = {name: one for one in opened for name in one.keys()}  # noqa: SIM118
        self._instead = instead

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the tensors."""
        return iter(self._place)

    def __contains__(self, name: str) -> bool:
        """Return whether there is such a tensor."""
        return name in self._place

    def __getitem__(self, name: str) -> torch.Tensor:
        """Read a tensor, numbers with a fraction as float32."""
        found: torch.Tensor = self._instead[name]() if name in self._instead else self._place[name].get_tensor(name)
        return found.float() if found.is_floating_point() else found

    def empty(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """Return what stands for a tensor as it will be saved, without its weights."""
        part = self._place[name].get_slice(name)
        whole_numbers = part.get_dtype().startswith(("I", "U", "BOOL"))
        return torch.empty(part.get_shape(), dtype=torch.int64 if whole_numbers else dtype, device="meta")


def weights_in(model: Any, *, all_of_them: bool) -> Instead:
    """Return, for a model loaded for use, what gives the base weights that it really computes with.

    Args:
        model: base, with its adapters if it has any.
        all_of_them: of every module; else of the quantized ones alone, the rest being those of the checkpoint.
    """
    return {
        name: partial(_computed_with, module, key)
        for name, module, key in _base_parameters(model)
        if all_of_them or (key == "weight" and type(module.weight).__name__ in _QUANTIZED)
    }


def _base_parameters(model: Any) -> Iterator[tuple[str, Any, str]]:
    """Yield of each parameter of the base its name in a checkpoint, and the module and the key that hold it."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    own = {id(p) for m in base.modules() if isinstance(m, BaseTunerLayer) for p in _of_adapters(m)}
    for name, module in base.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in own:
                yield f"{name.removesuffix('.base_layer')}.{key}", module, key


def _of_adapters(layer: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    base = {id(parameter) for parameter in layer.get_base_layer().parameters()}  # type: ignore[operator]
    return (parameter for parameter in layer.parameters() if id(parameter) not in base)


def _computed_with(module: Any, key: str) -> torch.Tensor:
    found = dequantize_module_weight(module) if key == "weight" else getattr(module, key)
    weight: torch.Tensor = found.detach().cpu()
    return weight


class Adapters:
    """Adapters on a model without weights, ready to be added to those of a checkpoint."""

    def __init__(self, checkpoint: Path, folders: Sequence[Path]) -> None:
        """Load the adapters.

        Args:
            checkpoint: of the base model.
            folders: of the adapters, in the order in which they are added.

        Raises:
            ModelError: an adapter does not fit the base.
        """
        model = _hollow(checkpoint)
        self.names = [f"adapter_{number}" for number in range(len(folders))]
        try:
            for name, folder in zip(self.names, folders, strict=True):
                config = PeftConfig.from_pretrained(folder)
                if hasattr(config, "init_lora_weights"):
                    config.init_lora_weights = True  # other starts compute with the base's weights; it is loaded anyway
                if isinstance(model, PeftModel):
                    model.load_adapter(str(folder), name, peft_config=config)
                else:
                    model = PeftModel.from_pretrained(model, folder, name, config=config)
        except (ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
            raise ModelError(f"The adapter in '{folder}' does not fit this base model: {error}") from error
        self._model: Any = model
        named = model.get_base_model().named_modules()
        self._modules = {name: module for name, module in named if isinstance(module, BaseTunerLayer)}

    def combine(self, weights: Sequence[float], method: str, density: float | None) -> None:
        """Put the sum of the last adapters, each times its weight, in their place.

        Args:
            weights: of the last adapters; those before stay as they are.
            method: PEFT's ``combination_type``.
            density: share of the values that TIES and DARE keep.

        Raises:
            ModelError: PEFT cannot combine these.
        """
        last = self.names[-len(weights) :]
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # DARE drops values at random
                self._model.base_model.add_weighted_adapter(
                    last, list(weights), _COMBINED, combination_type=method, density=density
                )
        except (ValueError, NotImplementedError, AttributeError, RuntimeError) as error:
            raise ModelError(f"--method {method}: peft cannot combine these adapters: {error}") from error
        for module in self._modules.values():
            if _COMBINED in getattr(module, "scaling", {}):
                module.scaling[_COMBINED] = 1.0  # it holds the products scaled; PEFT scales them again for rsLoRA
        self.names[-len(weights) :] = [_COMBINED]

    def fit(self, weights: Weights) -> bool:
        """Return whether every adapted module has its tensor in the checkpoint by the same name."""
        return all(f"{name}.weight" in weights for name in self._modules)

    def added_to(self, weights: Weights, names: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensors of the merged model, all of a module together, in the order in which they are first asked for.

        Args:
            weights: of the base.
            names: of the tensors, in the order in which they are wanted.

        Raises:
            ModelError: PEFT cannot merge such an adapter, or it holds values that are no numbers.
        """
        done: set[str] = set()
        for name in names:
            if name in done:
                continue
            owner = name.rpartition(".")[0]
            module = self._modules.get(owner)
            if module is None:
                yield name, weights[name]
                continue
            own = [key for key in ("weight", "bias") if f"{owner}.{key}" in weights]
            merged = self._merged(module, {key: weights[f"{owner}.{key}"] for key in own})
            for key, tensor in merged.items():
                done.add(f"{owner}.{key}")
                yield f"{owner}.{key}", tensor

    def _merged(self, module: Any, given: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        base = module.get_base_layer()
        hollow = {key: getattr(base, key) for key in given}
        try:
            for key, tensor in given.items():
                setattr(base, key, torch.nn.Parameter(tensor, requires_grad=False))
            module.merge(safe_merge=True, adapter_names=self.names)
            return {key: getattr(base, key).data for key in given}
        except (ValueError, NotImplementedError, AttributeError) as error:
            raise ModelError(f"peft cannot merge this adapter: {error}") from error
        finally:
            for key, parameter in hollow.items():
                setattr(base, key, parameter)
            module.merged_adapters.clear()


def _hollow(checkpoint: Path) -> Any:
    """Return a model whose weights have shape but no size: one zero each, seen again and again."""
    config = AutoConfig.from_pretrained(checkpoint, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            zero = torch.zeros(()).expand(parameter.shape)
            setattr(module, key, torch.nn.Parameter(zero, requires_grad=False))
    return model


def in_shards(folder: Path) -> bool:
    """Return whether an adapter is all in layers of its own, so that it can be added module by module."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as saved:
        keys: list[str] = list(saved.keys())
    config = PeftConfig.from_pretrained(folder)
    as_a_whole = any(getattr(config, key, None) for key in ("modules_to_save", "trainable_token_indices"))
    biases = getattr(config, "bias", "none") != "none"
    # An adapted embedding is saved together with its base.
    return not as_a_whole and not biases and not any(".base_layer." in key for key in keys)


def write_shards(weights: Weights, adapters: Adapters, folder: Path, dtype: torch.dtype) -> None:
    """Write the merged weights as sharded safetensors.

    Args:
        weights: of the base.
        adapters: that are added.
        folder: where to; it exists.
        dtype: of the result.

    Raises:
        ModelError: PEFT cannot merge such an adapter.
    """
    plan = split_torch_state_dict_into_shards(
        {name: weights.empty(name, dtype) for name in weights}, max_shard_size=_SHARD
    )
    order = [name for names in plan.filename_to_tensors.values() for name in names]
    coming = adapters.added_to(weights, order)
    waiting: dict[str, torch.Tensor] = {}
    for file, names in plan.filename_to_tensors.items():
        shard: dict[str, torch.Tensor] = {}
        while len(shard) < len(names):
            found = {name: waiting.pop(name) for name in names if name in waiting}
            if not found:
                name, tensor = next(coming)
                tensor = tensor.to(dtype) if tensor.is_floating_point() else tensor
                waiting[name] = tensor.contiguous()
            shard |= found
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)  # as every other file; they come private
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(folder / "model.safetensors.index.json", index)


def write_in_memory(run: Run, instead: Instead, folder: Path, dtype: torch.dtype, *, changed: bool) -> None:
    """Write what :func:`write_shards` cannot: a whole model that is in memory at once.

    So it is with a classification head, with modules that were trained as a whole, and where the names of a
    checkpoint's tensors are not those of the modules.

    Args:
        run: that is merged.
        instead: weights in place of those of the checkpoint.
        folder: where to; it exists.
        dtype: of the result.
        changed: the adapter has changed the base, and ``instead`` is that.

    Raises:
        ModelError: base or adapter are missing, or do not fit each other.
    """
    recipe, contract = run.recipe, run.contract
    plain = {"quantization": "none", "dtype": "float32", "attn_implementation": "eager", "adapters": ()}
    section = recipe.model.model_copy(update=plain)
    head: dict[str, Any] = {"labels": contract.labels, "pad_id": contract.pad_id, "seed": models.seed_of(recipe)}
    model: Any = models.load_base(section, checkpoint_of(run), device="cpu", **head)
    if not changed:
        _put(model, instead)
        model = earlier.put_under(model, earlier.folders(recipe.model), merge=True)
    model = models.load_adapter(model, run.weights, recipe)
    if changed:
        _put(model, instead)
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, AttributeError) as error:
        raise ModelError(f"peft cannot merge this adapter: {error}") from error
    merged.to(dtype).save_pretrained(folder, max_shard_size=_SHARD)


def _put(model: Any, instead: Instead) -> None:
    for name, module, key in list(_base_parameters(model)):
        if name in instead:
            getattr(module, key).data.copy_(instead[name]())
