"""The notebooks run from top to bottom on the embedded model, and what they show is short and from here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FAST = "quickstart"  # the others take as long each


def cells(path: Path) -> list[dict[str, Any]]:
    book = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=() if path.stem == FAST else pytest.mark.slow) for path in NOTEBOOKS],
)
def test_it_runs(path: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    book = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(book, timeout=300, resources=place).execute()
    done = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in done] == list(range(1, len(done) + 1)) and done[-1].outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_saved_as_it_ran(path: Path) -> None:
    own = cells(path)
    assert [cell["execution_count"] for cell in own] == list(range(1, len(own) + 1))
    outputs = [output for cell in own for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 40_000 and not any(place in text for place in ("/root", "/home", "/tmp", "/Users"))
