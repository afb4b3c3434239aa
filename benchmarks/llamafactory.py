"""LLaMA-Factory as a side of the training benchmark: in its own environment, by its own command, with its defaults.

It asks for versions of transformers, peft and trl other than ours, and imports torchvision and torchaudio, which text
does not need (where their builds do not fit torch's, an empty package of the name serves):

    python -m venv lf && lf/bin/pip install torch==2.13.0 llamafactory==0.9.5
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from fingpt_lora import model as models
from fingpt_lora.console import note
from fingpt_lora.plan import Plan, labels, texts


def train(executable: str, plan: Plan, folder: Path) -> list[float]:
    """Train one epoch of the plan's rows with ``llamafactory-cli`` and return the seconds of each step.

    Its log tells whole seconds, so single steps are coarse and their mean is not.

    Raises:
        RuntimeError: the command failed; the end of its output is in the message.
    """
    training = plan.recipe.training
    settings: dict[str, Any] = {
        "model_name_or_path": str(_in_precision(plan, folder / "base")),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": plan.recipe.adapter["r"],
        "lora_alpha": plan.recipe.adapter["lora_alpha"],
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "template": "chatml",
        "cutoff_len": training["max_length"],
        "per_device_train_batch_size": training["per_device_train_batch_size"],
        "num_train_epochs": 1,
        "learning_rate": training["learning_rate"],
        "dataloader_drop_last": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": plan.machine.device == "cpu",
        "bf16": plan.machine.bf16,
        "output_dir": str(folder / "output"),
    }
    (folder / "rows.json").write_text(json.dumps(conversations(plan)), encoding="utf-8")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    described = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**tags, "system_tag": "system"},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"rows": described}), encoding="utf-8")
    config = folder / "train.yaml"  # JSON is YAML, and its reader of .json files fails
    config.write_text(json.dumps(settings), encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": str(plan.machine.cores), "HF_DATASETS_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [executable, "train", str(config)], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{executable} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    log = (folder / "output" / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in log]
    elapsed = [_seconds(entry["elapsed_time"]) for entry in entries if "loss" in entry]
    note(f"llamafactory: {len(elapsed)} steps, loss {entries[0]['loss']:.3f}")
    return [after - before for before, after in zip([0.0, *elapsed], elapsed, strict=False)]


def _in_precision(plan: Plan, folder: Path) -> Path:
    """Save the base in the precision of all sides: LLaMA-Factory computes in that of the checkpoint."""
    models.load_base(plan.recipe.model, plan.checkpoint, device="cpu").save_pretrained(folder)
    AutoTokenizer.from_pretrained(plan.checkpoint).save_pretrained(folder)
    return folder


def conversations(plan: Plan) -> list[dict[str, Any]]:
    """Return the training rows as messages that its ``chatml`` template renders to the plan's very tokens.

    The template of the embedded model is ChatML with a system message, so the frame's text tells both.
    """
    rows = []
    for text, label in zip(texts(plan.splits.train), labels(plan.splits.train), strict=True):
        frame = plan.contract.frames[plan.task.language(text)]
        system, _, user = frame.before.removeprefix("<|im_start|>system\n").partition("<|im_end|>\n<|im_start|>user\n")
        rows.append(
            {
                "messages": [
                    {"role": "system", "content": system},
                    {"role": "user", "content": user + text.strip()},
                    {"role": "assistant", "content": frame.answers[label]},
                ]
            }
        )
    return rows


def _seconds(clock: str) -> float:
    time = datetime.strptime(clock, "%H:%M:%S")
    return timedelta(hours=time.hour, minutes=time.minute, seconds=time.second).total_seconds()
