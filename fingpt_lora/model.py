"""The only place where weights are loaded: base, quantization, adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig
from transformers.utils import logging

from fingpt_lora import earlier
from fingpt_lora.checkpoints import check_checkpoint, find_checkpoint
from fingpt_lora.console import quiet
from fingpt_lora.contract import PromptContract
from fingpt_lora.errors import ModelError, RecipeError, did_you_mean
from fingpt_lora.lora import fuse
from fingpt_lora.runs import weights_folder
from fingpt_lora.sections import ModelSection, Recipe

_TASK_TYPES = {"language_model": "CAUSAL_LM", "classification": "SEQ_CLS"}


def load_base(
    section: ModelSection,
    checkpoint: Path,
    *,
    device: str,
    labels: Sequence[str] = (),
    pad_id: int | None = None,
    seed: int = 42,
) -> torch.nn.Module:
    """Load a base model, quantized as the recipe asks, in evaluation mode.

    Args:
        section: a resolved ``model`` section (dtype and attention chosen).
        checkpoint: folder from :func:`fingpt_lora.checkpoints.find_checkpoint`.
        device: ``cpu``, ``mps``, ``cuda`` or ``cuda:N``.
        labels: of a classification head, where the recipe asks for one.
        pad_id: what rows are filled with; the head of a causal model reads the last token before it.
        seed: of that head's first weights.

    Raises:
        ModelError: transformers cannot load it, or the quantization is not possible here.
    """
    dtype = getattr(torch, section.dtype)
    if device.startswith("cuda"):
        # Torch prefers cuDNN's attention on recent cards, which plans anew for every shape, a second each; here nearly
        # every batch has its own.
        torch.backends.cuda.enable_cudnn_sdp(False)
    quantization = quantization_config(section, dtype)
    kind, head = AutoModelForCausalLM, {}
    if section.head == "classification":
        kind = AutoModelForSequenceClassification
        head = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
        # A checkpoint may bring a head for other labels.
        head |= {"num_labels": len(labels), "ignore_mismatched_sizes": True}
    logging.disable_progress_bar()
    try:
        with quiet(), _seeded(seed):
            model = kind.from_pretrained(
                checkpoint,
                **head,
                dtype=dtype,
                attn_implementation=section.attn_implementation,
                quantization_config=quantization,
                device_map={"": device} if quantization is not None or device != "cpu" else None,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        raise ModelError(f"The base model in '{checkpoint}' cannot be loaded: {_first_line(error)}") from error
    finally:
        logging.enable_progress_bar()
    if section.head == "classification":
        model.config.get_text_config().pad_token_id = pad_id
    keep_cpu_weights_unpacked(model)
    model.config.use_cache = False  # training and scoring pass their caches explicitly
    model.eval()
    loaded: torch.nn.Module = model
    if section.adapters:
        with quiet():
            loaded = earlier.put_under(loaded, earlier.folders(section), merge=section.quantization == "none")
    return loaded


def quantization_config(section: ModelSection, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Return the bitsandbytes configuration of a ``model`` section, or None for unquantized weights.

    ``nf4`` is QLoRA's setting (double quantization); it computes in the model's dtype, which is bfloat16 where
    the hardware has it (Dettmers et al. 2023, arXiv 2305.14314).

    Raises:
        RecipeError: transformers refuses the fields.
    """
    if section.quantization == "none":
        return None
    if section.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if section.quantization == "nf4":
        fields: dict[str, Any] = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    else:
        fields = {"bnb_4bit_compute_dtype": dtype, **section.quantization}
    try:
        return BitsAndBytesConfig(**fields)
    except (TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"model.quantization: {_first_line(error)}") from None


def keep_cpu_weights_unpacked(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights at the first evaluation-mode forward on a CPU.

    On machines with AVX512-BF16 it replaces them by a layout for inference; gradients, dequantization and merges
    after that are wrong (seen with bitsandbytes 0.50.2).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def attach_adapter(model: torch.nn.Module, recipe: Recipe) -> Any:
    """Put a fresh, trainable adapter on a base model; with ``peft_type: none``, let all of its own weights train.

    Raises:
        RecipeError: the adapter's fields do not fit together, or name no module of this model.
    """
    if recipe.peft_type == "NONE":
        return model.requires_grad_()
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[recipe.peft_type]]
    fields = {key: value for key, value in recipe.adapter.items() if key != "peft_type"}
    _check_targets(model, fields)
    if fields.get("init_lora_weights") == "loftq" and not torch.cuda.is_available():
        raise RecipeError(
            "adapter.init_lora_weights: the installed peft computes 'loftq' on a CUDA GPU only, and there is none "
            "here. Use olora or pissa, or leave it out."
        )
    try:
        with quiet(), _seeded(seed_of(recipe)):
            if fields.get("loftq_config"):
                from peft import LoftQConfig

                fields["loftq_config"] = LoftQConfig(**fields["loftq_config"])
            config = config_class(task_type=_TASK_TYPES[recipe.model.head], **fields)
            config = fuse(config) if isinstance(config, LoraConfig) else config
            if isinstance(model, PeftModel):  # on top of earlier ones
                model.add_adapter(earlier.OWN, config)
                earlier.activate(model)
                return model
            adapted = get_peft_model(model, config)
    except (
        ValueError,
        TypeError,
        ImportError,
        NotImplementedError,
        RuntimeError,
        AttributeError,
        KeyError,
    ) as error:
        raise RecipeError(f"adapter: the installed peft refuses it: {_first_line(error)}") from error
    if not any(parameter.requires_grad for parameter in adapted.parameters()):
        raise RecipeError("adapter: nothing in it can be trained; it matches no module of this model.")
    return adapted


def seed_of(recipe: Recipe) -> int:
    """Return what adapter and head start from."""
    return int(recipe.training.get("seed", 42))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start an adapter, or a head, from the recipe's seed.

    Some initialisations rewrite the base by a random decomposition (``pissa_niter_16``) and are run again when the
    adapter is loaded; only from the same seed do they come to the same base.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_targets(model: torch.nn.Module, fields: Mapping[str, Any]) -> None:
    """Every name in the module lists and patterns must match something; peft only asks that one of them does."""
    import re

    modules = [name for name, module in model.named_modules() if name]
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if "Linear" in type(m).__name__})
    for key in ("target_modules", "modules_to_save", "exclude_modules"):
        value = fields.get(key)
        if isinstance(value, str) and value != "all-linear" and not any(re.fullmatch(value, name) for name in modules):
            raise RecipeError(
                f"adapter.{key}: '{value}' matches no module. The linear layers are: {', '.join(linear)}."
            )
        for item in value if isinstance(value, (list, tuple)) else ():
            if not any(name == item or name.endswith(f".{item}") for name in modules):
                hint = did_you_mean(str(item), linear)
                raise RecipeError(
                    f"adapter.{key}: '{item}' matches no module.{hint} The linear layers are: {', '.join(linear)}."
                )
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in fields.get(key) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in modules):
                raise RecipeError(
                    f"adapter.{key}: '{pattern}' matches no module. The linear layers are: {', '.join(linear)}."
                )


def save_trained(trained: Any, folder: Path, recipe: Recipe) -> None:
    """Write what was trained: the adapter, or the whole model where all of its weights were."""
    own: dict[str, Any] = {"selected_adapters": [earlier.OWN]} if isinstance(trained, PeftModel) else {}
    trained.save_pretrained(folder / weights_folder(recipe), **own)


def load_trained(
    weights: Path, recipe: Recipe, section: ModelSection, contract: PromptContract, *, device: str, merge: bool = True
) -> torch.nn.Module:
    """Load what a run has trained, for use.

    Args:
        weights: the folder that holds it.
        recipe: that it was trained by.
        section: its ``model`` section, resolved for the machine of use.
        contract: of the run.
        device: where to.
        merge: merge a LoRA adapter where that is exact.

    Raises:
        ModelError: base or adapter are missing, or do not fit each other.
    """
    if recipe.peft_type == "NONE":
        check_checkpoint(weights, writes=section.head != "classification")
        return load_base(section, weights, device=device, labels=contract.labels, pad_id=contract.pad_id)
    checkpoint = find_checkpoint(section.base, section.revision, writes=section.head != "classification")
    head: dict[str, Any] = {"labels": contract.labels, "pad_id": contract.pad_id, "seed": seed_of(recipe)}
    base = load_base(section, checkpoint, device=device, **head)
    adapted = load_adapter(base, weights, recipe)
    return merged_where_exact(adapted, section) if merge else adapted


def load_adapter(model: torch.nn.Module, folder: Path, recipe: Recipe, name: str = earlier.OWN) -> PeftModel:
    """Put a saved adapter on a base model, for use, from the recipe that it was trained by, by a name of its own.

    Raises:
        ModelError: the folder holds no whole adapter, or it does not fit the model.
    """
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"'{folder}' holds no adapter (adapter_config.json and adapter_model.safetensors).")
    try:
        with quiet(), _seeded(seed_of(recipe)):
            if isinstance(model, PeftModel):  # on top of earlier ones, beside those of other runs
                model.load_adapter(str(folder), name)
                earlier.activate(model, name)
                return model.requires_grad_(False).eval()
            adapted = PeftModel.from_pretrained(model, folder, adapter_name=name, is_trainable=False)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise ModelError(f"The adapter in '{folder}' does not fit this base model: {_first_line(error)}") from error
    adapted.eval()
    return adapted


def merged_where_exact(adapted: Any, section: ModelSection) -> torch.nn.Module:
    """Merge a LoRA adapter into its base for use, where that loses nothing: in float32.

    Each forward then costs what the base alone does. In half precision the sum is rounded, and into 4 or 8 bits it
    loses the adapter; there the model is returned as it came.
    """
    exact = section.quantization == "none" and section.dtype == "float32"
    is_adapter = isinstance(adapted, PeftModel)  # else all weights were trained: there is nothing to merge
    if not exact or not is_adapter or adapted.active_peft_config.peft_type != PeftType.LORA:
        unmerged: torch.nn.Module = adapted
        return unmerged
    with quiet():
        merged: torch.nn.Module = adapted.merge_and_unload()
        return merged


def trainable_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Return (trainable, all) parameter counts; packed 4-bit weights count as the weights they hold."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trains in sizes if trains), sum(n for n, _ in sizes)


def adapted_modules(model: torch.nn.Module) -> int:
    """Return how many modules carry an adapter."""
    return sum(isinstance(module, BaseTunerLayer) for module in model.modules())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."
