"""Shared by all tests: the hub is offline, and the real embedded model is loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest

from fingpt_lora import checkpoints
from fingpt_lora.prompts import PromptContract, PromptEncoder, load_tokenizer, make_contract
from fingpt_lora.tasks import SentimentTask

TEXTS = [
    "Net profit rose to EUR 12 million from EUR 8 million a year earlier.",
    "The board convenes on Thursday.",
    "The lender cut its dividend after a record loss.",
    "公司净利润同比下降三成。",
    "董事会将于周四召开会议。",
    "Orders doubled and guidance was raised for the second time this year, the company said in a statement.",
]
LABELS = ["positive", "neutral", "negative", "negative", "neutral", "positive"]


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
