"""Shared by all tests: the hub is offline, and the real embedded model is loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from fingpt_lora import checkpoints
from fingpt_lora.contract import PromptContract, load_tokenizer, make_contract
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.tasks import SentimentTask
from fingpt_lora.tasks.event import event_task

TEXTS = [
    "Net profit rose to EUR 12 million from EUR 8 million a year earlier.",
    "The board convenes on Thursday.",
    "The lender cut its dividend after a record loss.",
    "公司净利润同比下降三成。",
    "董事会将于周四召开会议。",
    "Orders doubled and guidance was raised for the second time this year, the company said in a statement.",
]
LABELS = ["positive", "neutral", "negative", "negative", "neutral", "positive"]
Train = Callable[..., Path]
EVENTS: list[tuple[str, ...]] = [("Profit",), (), ("Profit", "Debt"), ("Profit",), (), ("ShareRepurchase",)]


def tiny_llama(**adapter: Any) -> Any:
    """Return a random Llama of three narrow layers with our LoRA layers, in training mode: milliseconds a step."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from fingpt_lora.lora import fuse

    torch.manual_seed(0)
    heads = {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, **heads))
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **adapter)
    return get_peft_model(base, fuse(config)).train()


def tiny_examples(rows: int, longest: int) -> list[dict[str, list[int]]]:
    """Return rows for :func:`tiny_llama`: four common ids, each row one shorter than the last, two supervised ids."""
    examples = []
    for row in range(rows):
        ids = [1, 2, 3, 4, *(5 + (row * 7 + i) % 80 for i in range(longest - row))]
        examples.append({"input_ids": ids, "labels": [-100] * (len(ids) - 2) + ids[-2:]})
    return examples


def random_model(kind: str, **settings: Any) -> Any:
    """Return a random narrow model of another family, wide enough for the embedded tokenizer, in evaluation mode."""
    import torch
    import transformers

    torch.manual_seed(0)
    size = {"hidden_size": 64, "num_hidden_layers": 2}
    if kind != "Mamba":
        size |= {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50_000, **size, **settings)
    attention = {} if kind == "Mamba" else {"attn_implementation": "eager"}
    return transformers.AutoModelForCausalLM.from_config(config, **attention).eval()


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The embedded base model, converted into the user's cache at its first use."""
    return checkpoints.find_checkpoint("smollm2")


@pytest.fixture(scope="session")
def task() -> SentimentTask:
    return SentimentTask(3)


@pytest.fixture(scope="session")
def contract(task: SentimentTask, checkpoint: Path) -> PromptContract:
    return make_contract(task, checkpoint, template="chat", system=None, max_length=256)


@pytest.fixture(scope="session")
def encoder(contract: PromptContract, checkpoint: Path, task: SentimentTask) -> PromptEncoder:
    return PromptEncoder(contract, load_tokenizer(checkpoint), task)


@pytest.fixture
def shallow(checkpoint: Path) -> Iterator[Callable[..., object]]:
    """Load the real model's first layers in float32: the real computation at a tenth of the time."""
    import torch
    from transformers import AutoModelForCausalLM

    def load(layers: int = 3, attention: str = "eager") -> object:
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation=attention, num_hidden_layers=layers
        ).eval()

    yield load


@pytest.fixture(scope="session")
def small_base(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with the real model's first two layers and its tokenizer, for whole runs in seconds."""
    import shutil

    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("small_base")
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, num_hidden_layers=2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(checkpoint / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def train(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train a recipe for two steps on the real model's first layers, at a rate that leaves its mark."""

    from fingpt_lora.train import run_recipe

    def run(recipe: str, name: str, *overrides: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / name
        common = [
            f"model.base={small_base}", "model.quantization=none", "model.dtype=float32", "adapter.r=4",
            "adapter.layers_to_transform=null", "data.limit=8", "training.max_steps=2", "training.learning_rate=0.01", "training.warmup_steps=0", "training.lr_scheduler_type=constant",
            "training.per_device_train_batch_size=4", "evaluation.bootstrap=100", "evaluation.base_model=false",
        ]  # fmt: skip
        return run_recipe(
            Path(__file__).parents[1] / "recipes" / f"{recipe}.yaml", [*common, *overrides, f"output={folder}"]
        )

    return run


@pytest.fixture(scope="session")
def events(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that asks yes or no to each of two event types."""
    import json

    rows = [{"text": f"Profit rose by {i} %", "events": ["Profit"]} for i in range(8)]
    rows += [{"text": f"It buys rival number {i}", "events": ["Deal"]} for i in range(8)]
    path = tmp_path_factory.mktemp("rows") / "events.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return train("events", "events", "task.types=[Profit, Deal]", f"data.path={path}", "data.split.test=0.5")


@pytest.fixture(scope="session")
def event_encoder(checkpoint: Path) -> PromptEncoder:
    task = event_task({"Profit": "profit", "ShareRepurchase": "share buyback", "Debt": "debt"}, "auto")
    contract = make_contract(task, checkpoint, template="chat", system=None, max_length=400)
    return PromptEncoder(contract, load_tokenizer(checkpoint), task)
