from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fingpt_lora.contract import CONTRACT_FILE, PromptContract, load_tokenizer, make_contract
from fingpt_lora.errors import PromptError
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.tasks import SentimentTask


def test_a_system_message_replaces_the_templates_default(checkpoint: Path, task: SentimentTask) -> None:
    contract = make_contract(task, checkpoint, template="chat", system="You grade news.", max_length=256)
    assert contract.frames["en"].before.startswith("<|im_start|>system\nYou grade news.<|im_end|>")
    assert "SmolLM" not in contract.frames["en"].before


def test_the_contract_survives_saving(contract: PromptContract, tmp_path: Path) -> None:
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(contract.to_json()))
    assert PromptContract.load(tmp_path) == contract
    assert PromptContract.load(tmp_path).hash == contract.hash


def test_a_contract_changed_by_hand_is_refused(contract: PromptContract, tmp_path: Path) -> None:
    saved = contract.to_json()
    saved["frames"]["en"]["before"] += " "
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(saved))
    with pytest.raises(PromptError, match="changed after training"):
        PromptContract.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"hash": "x"}', "nonsense"])
def test_a_damaged_contract_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / CONTRACT_FILE).write_text(content)
    with pytest.raises(PromptError, match="cannot be read as a prompt contract"):
        PromptContract.load(tmp_path)


def _copy(checkpoint: Path, to: Path, template: str) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(checkpoint / name, to / name)
    (to / "chat_template.jinja").write_text(template)
    return to


def test_a_bos_in_the_template_is_not_doubled(checkpoint: Path, task: SentimentTask, tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{{ eos_token if m.role == 'assistant' }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    contract = make_contract(task, _copy(checkpoint, tmp_path, template), template="chat", system=None, max_length=200)
    encoder = PromptEncoder(contract, load_tokenizer(checkpoint), task)
    ids = encoder.prompts(["Profit fell."])[0].ids
    assert ids.count(1) == 1 and ids[0] == 1


def test_a_template_that_never_ends_the_answer_gets_the_eos(
    checkpoint: Path, task: SentimentTask, tmp_path: Path
) -> None:
    template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    contract = make_contract(task, _copy(checkpoint, tmp_path, template), template="chat", system=None, max_length=200)
    assert contract.end == "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "cannot render this prompt: roles must alternate"),
        ("{% for m in messages", "cannot render this prompt"),
        ("nothing", "drops or rewrites"),
    ],
)
def test_an_unusable_template_is_one_sentence(
    checkpoint: Path, task: SentimentTask, tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        make_contract(task, _copy(checkpoint, tmp_path, template), template="chat", system=None, max_length=200)


def test_a_base_model_without_a_template_is_told_of_the_plain_prompt(
    checkpoint: Path, task: SentimentTask, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match="model.prompt: fingpt"):
        make_contract(task, _copy(checkpoint, tmp_path, ""), template="chat", system=None, max_length=200)


def test_the_hash_covers_every_field(contract: PromptContract) -> None:
    for field in dataclasses.fields(contract):
        changed = dataclasses.replace(contract, **{field.name: "other"})
        assert changed.hash != contract.hash, field.name


def test_a_contract_of_yes_and_no_survives_saving(
    event_encoder: PromptEncoder, encoder: PromptEncoder, tmp_path: Path
) -> None:
    (tmp_path / CONTRACT_FILE).write_text(json.dumps(event_encoder.contract.to_json()))
    assert PromptContract.load(tmp_path) == event_encoder.contract
    # Contracts of before there were such tasks keep their hash.
    assert "verdicts" not in json.dumps(encoder.contract.to_json())
