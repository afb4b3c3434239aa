from __future__ import annotations

from pathlib import Path

import pytest

from fingpt_lora import runs
from fingpt_lora.contract import PromptContract
from fingpt_lora.errors import RunError
from fingpt_lora.recipe import parse_recipe


def test_the_fingerprint_covers_what_is_computed_and_nothing_else(contract: PromptContract) -> None:
    def of(text: str, data: str = "d", base: str = "b") -> str:
        return runs.fingerprint(parse_recipe(text), data, contract, base)

    assert of("") == of("data: {path: moved.csv}") == of("output: elsewhere")
    assert of("") == of("training: {logging_steps: 3, report_to: none, save_steps: 7}")
    others = [
        of("adapter: {r: 3}"),
        of("training: {seed: 1}"),
        of("", data="e"),
        of("", base="c"),
        of("model: {quantization: int8}"),
    ]
    assert len({of(""), *others}) == 6


def test_states_of_a_folder(contract: PromptContract, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert runs.state_of(folder, "a") == "new"
    folder.mkdir()
    assert runs.state_of(folder, "a") == "new"
    runs.begin(folder, parse_recipe(""), contract, {"fingerprint": "a"})
    assert runs.state_of(folder, "a") == "continue"
    runs.finish(folder)
    assert runs.state_of(folder, "a") == "done"
    assert runs.open_run(folder).contract == contract
    with pytest.raises(RunError, match="another recipe, other rows or another base"):
        runs.state_of(folder, "b")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(RunError, match="is not a run folder"):
        runs.state_of(tmp_path, "a")
    file = tmp_path / "thesis.doc"
    with pytest.raises(RunError, match="is a file; a run needs a folder"):
        runs.state_of(file, "a")


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_manifest_is_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match="Remove the folder and train again"):
        runs.state_of(tmp_path, "a")


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert runs.last_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    for step in (9, 10):
        (tmp_path / "checkpoints" / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    found = runs.last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-10"
