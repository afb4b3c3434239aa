"""Take a run to other engines: GGUF for llama.cpp, proved by asking it; Ollama; the files of a model hub."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fingpt_lora import llama_cpp
from fingpt_lora.atomic import new_folder, write_json, write_text
from fingpt_lora.console import note, quiet
from fingpt_lora.contract import CONTRACT_FILE
from fingpt_lora.data import Row
from fingpt_lora.errors import ExportError, RunError
from fingpt_lora.merged_folder import REPORT as MERGE_REPORT
from fingpt_lora.merged_folder import TOKENIZER
from fingpt_lora.multilabel import applying
from fingpt_lora.plan import texts
from fingpt_lora.predict import Predictor, checkpoint_of, encoder_of
from fingpt_lora.prompt_files import modelfile, prompt_page
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.proof import asked_twice, probe_rows, same_answer
from fingpt_lora.report import ReportContext
from fingpt_lora.runs import MANIFEST, THRESHOLDS, Run, open_run
from fingpt_lora.serve import vllm_command, write_template
from fingpt_lora.tasks import TextTask, Written
from fingpt_lora.tasks.base import OneAnswer

Target = Literal["gguf", "ollama", "vllm", "hf"]
REPORT = "export_report.json"
PROMPT = "PROMPT.md"
ROWS = 128


def export(
    folder: str | Path,
    to: Target,
    output: str | Path,
    *,
    quantize: str = "q8_0",
    converter: Path | None = None,
    data: str | None = None,
    rows: int = ROWS,
    agreement: float | None = None,
) -> dict[str, Any]:
    """Write a run's export and return what is in ``export_report.json``.

    Args:
        folder: of the run; to GGUF and Ollama, of a merged one.
        to: gguf, ollama (a GGUF file and its Modelfile), vllm (chat template and commands, the weights stay where they
            are) or hf (what a model hub shows).
        output: the folder, which must not exist.
        quantize: f16, bf16 or q8_0; with llama.cpp's ``llama-quantize`` on the path, its others.
        converter: folder with the converter to GGUF.
        data: labelled file to compare on instead of the test rows.
        rows: at most.
        agreement: share of the answers that must be kept; by default the recipe's ``evaluation.merge_agreement``.

    Raises:
        ExportError: the export cannot be made, or answers otherwise; nothing of it is kept.
        FingptLoraError: the run is unfinished, or cannot be exported so.
    """
    output, run = Path(output), open_run(folder)
    encoder = encoder_of(run)
    if output.exists():
        raise RunError(f"'{output}' exists already; it is not overwritten. Choose another folder: --output DIR.")
    if to in ("hf", "vllm"):
        write = _publishable if to == "hf" else _for_vllm
        with new_folder(output) as building:
            return write(run, encoder, building, output.name)
    if run.recipe.model.head == "classification":
        raise RunError(f"'{run.folder}' has a classification head of its own, which GGUF does not know. Use --to hf.")
    if not run.merged:
        raise RunError(f"'{run.folder}' is an adapter beside its base. Merge it first: fingpt-lora merge {run.folder}")
    name = f"{run.folder.resolve().name}-{quantize}.gguf"
    modelfiles = {}
    if to == "ollama":
        for language in encoder.contract.frames:
            modelfiles[language] = modelfile(encoder, language, name)
    with new_folder(output) as building:
        began = time.perf_counter()
        llama_cpp.convert(run.weights, building / name, quantize, converter)
        report: dict[str, Any] = {"file": name, "quantize": quantize, "bytes": (building / name).stat().st_size}
        report["convert_seconds"] = time.perf_counter() - began
        report |= _checked(run, encoder, building / name, data, rows, agreement)
        for language, text in modelfiles.items():
            write_text(building / ("Modelfile" if len(modelfiles) == 1 else f"Modelfile.{language}"), text)
        commands = _commands(output.name, name, list(modelfiles))
        write_text(building / PROMPT, prompt_page(encoder, output.name, commands))
        write_json(building / CONTRACT_FILE, run.contract.to_json())
        write_json(building / REPORT, report)
    return report


def _commands(name: str, file: str, languages: Sequence[str]) -> str:
    lines = [f"llama-server --model {file} --host 127.0.0.1 --port 8080   # POST /completion"]
    if languages:
        single = len(languages) == 1
        for language in languages:
            model = name if single else f"{name}-{language}"
            lines.append(f"ollama create {model} -f {'Modelfile' if single else f'Modelfile.{language}'}")
            lines.append(f'ollama run {model} "TEXT"')
    return "\n".join(lines)


def _checked(
    run: Run, encoder: PromptEncoder, file: Path, data: str | None, rows: int, agreement: float | None
) -> dict[str, Any]:
    """Ask the file what the merged run is asked, and compare."""
    if isinstance(encoder.task, TextTask):
        return {"checked": False, "why": "raw text asks nothing"}
    if not llama_cpp.can_run():
        note("Not checked: llama.cpp is not installed here (pip install 'fingpt-lora[gguf]').")
        return {"checked": False, "why": "xllamacpp is not installed"}
    chosen = probe_rows(run, encoder, data, rows)
    with quiet():
        predictor = Predictor.load(run.folder)
        merged = asked_twice(predictor, chosen, "Merged model")
    said, asked = _asked(predictor, chosen, file)
    same, near_ties = merged.agreement(said)
    needed = run.recipe.evaluation.merge_agreement if agreement is None else agreement
    if same + near_ties < needed:
        raise ExportError(
            f"'{file.name}' keeps {same + near_ties:.1%} of the merged model's answers, and {needed:.1%} are asked for "
            "(evaluation.merge_agreement, or --agreement). Nothing was kept; try --quantize f16."
        )
    return {
        "checked": True,
        "rows": len(chosen),
        "rows_from": "the test rows" if data is None else Path(data).name,
        "agreement": same,
        "near_ties": near_ties,
        "accuracy": float(np.mean([same_answer(own, row.label) for own, row in zip(said, chosen, strict=True)])),
        "accuracy_merged": float(np.mean(merged.first.right or ())),
        "rows_per_second": len(chosen) / asked.seconds,
        "rows_per_second_merged": len(chosen) / merged.first.seconds,
        "load_seconds": asked.load_seconds,
        "peak_memory_gib": asked.peak_memory_gib,
    }


def _asked(predictor: Predictor, rows: Sequence[Row], file: Path) -> tuple[list[Any], llama_cpp.Continued]:
    """Return the answers of a GGUF file: written and strictly parsed, or yes against no for each label."""
    encoder, contract = predictor.encoder, predictor.encoder.contract
    asked = texts(rows)
    prompts = [prompt.ids for prompt in encoder.prompts(asked)]
    languages = [encoder.task.language(text) for text in asked]
    if encoder.task.several:
        questions = [
            [*ids, *question]
            for ids, language in zip(prompts, languages, strict=True)
            for question in encoder.answer_ids(language).values()
        ]
        found = llama_cpp.continued(file, questions, new_tokens=1, context=contract.max_length)
        heads = {language: [verdict[0] for verdict in encoder.verdict_ids(language)] for language in contract.frames}
        yes = [_yes(first, *heads[languages[i // len(contract.labels)]]) for i, first in enumerate(found.first)]
        shares = np.array(yes).reshape(len(rows), -1)
        return [applying(row >= predictor.thresholds, contract.labels) for row in shares], found
    longest = max(len(ids) for language in contract.frames for ids in (*encoder.answer_ids(language).values(), []))
    found = llama_cpp.continued(
        file, prompts, new_tokens=contract.answer_tokens or longest + 4, context=contract.max_length
    )
    task = encoder.task
    if isinstance(task, Written):
        return [task.read(answer, text) for answer, text in zip(found.texts, asked, strict=True)], found
    assert isinstance(task, OneAnswer)  # what is left of tasks
    return [task.parse(answer, language) for answer, language in zip(found.texts, languages, strict=True)], found


def _yes(first: Mapping[int, float], yes: int, no: int) -> float:
    """Return the probability of yes against no; what is not among the most probable tokens has none."""
    a, b = math.exp(first.get(yes, -math.inf)), math.exp(first.get(no, -math.inf))
    return a / (a + b) if a + b else 0.0


def _publishable(run: Run, encoder: PromptEncoder, folder: Path, name: str) -> dict[str, Any]:
    """Copy what a stranger needs: weights, tokenizer, contract, card. No row of the data, no path of this machine."""
    checkpoint = checkpoint_of(run)
    for path in sorted(run.weights.iterdir()):
        if path.is_file() and path.suffix in (".safetensors", ".json") and path.name not in (MANIFEST, MERGE_REPORT):
            shutil.copyfile(path, folder / path.name)
    for file in TOKENIZER:
        if (checkpoint / file).is_file():
            shutil.copyfile(checkpoint / file, folder / file)
    for file in (CONTRACT_FILE, THRESHOLDS, "README.md"):
        if (run.folder / file).is_file():
            shutil.copyfile(run.folder / file, folder / file)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        config = json.loads(adapter.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = _base_id(run)
        write_json(adapter, config)
    write_text(folder / PROMPT, prompt_page(encoder, name, f"hf upload YOUR_NAME/{name} ."))
    return {"files": sorted(path.name for path in folder.iterdir())}


def _for_vllm(run: Run, encoder: PromptEncoder, folder: Path, name: str) -> dict[str, Any]:
    """Write the contract's chat template and the commands; what they name is for the reader to put there."""
    if run.recipe.model.head == "classification":
        raise RunError(f"'{run.folder}' has a classification head, and vLLM is asked to write. Use --to hf.")
    own = run.folder.resolve().name
    template = write_template(encoder, folder)
    where = {"checkpoint": own if run.merged else _base_id(run), "adapter": f"{own}/{run.weights.name}"}
    lines = [shlex.join(vllm_command(run, own, template.name if template else None, "127.0.0.1", 8000, **where))]
    if run.merged:
        lines.append(f"fingpt-lora serve {own}   # transformers serve, where there is no vLLM")
    write_json(folder / CONTRACT_FILE, run.contract.to_json())
    write_text(folder / PROMPT, prompt_page(encoder, name, "\n".join(lines)))
    return {"files": sorted(path.name for path in folder.iterdir())}


def _base_id(run: Run) -> str:
    return ReportContext(name="", task="", recipe_yaml="", base_model=run.recipe.model.base).base_name
