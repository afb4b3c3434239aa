"""One run in every form in which it is used, on the same held-out rows: adapter, merged, GGUF in llama.cpp, served.

    python -m benchmarks.deployment runs/phrasebank

takes a finished run of a task with one listed answer, merges and exports it (into ``--work``), and asks each form,
alone on the machine, in a process of its own. Writes ``benchmarks/results/deployment.json`` and prints the README's
table. Agreement is with the answers of the adapter on its own base, as it was trained.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import ROOT, in_own_process, write_results
from fingpt_lora import capability, llama_cpp
from fingpt_lora.client import Client
from fingpt_lora.merge import merge
from fingpt_lora.plan import texts
from fingpt_lora.predict import Predictor, encoder_of
from fingpt_lora.proof import answers, probe_rows
from fingpt_lora.runs import open_run
from fingpt_lora.tasks.base import OneAnswer

FORMS = {
    "adapter": "adapter on its base, as trained",
    "merged": "merged",
    "gguf_f16": "GGUF f16, llama.cpp",
    "gguf_q8_0": "GGUF q8_0, llama.cpp",
    "served": "served, `transformers serve`",
}


def predicted(run: str, rows: int) -> dict[str, Any]:
    """Ask a run as ``fingpt-lora predict`` does, without merging it on the way."""
    began = time.perf_counter()
    predictor = Predictor.load(run, merge=False)
    loaded = time.perf_counter() - began
    found = answers(predictor, probe_rows(predictor.run, predictor.encoder, rows=rows), run)
    return {
        "said": list(found.said),
        "seconds": found.seconds,
        "load_seconds": loaded,
        "peak_memory_gib": capability.peak_memory_gib(),
        "bytes": sum(path.stat().st_size for path in predictor.run.weights.glob("*.safetensors")),
    }


def in_llama_cpp(run: str, kind: str, file: Path, rows: int) -> dict[str, Any]:
    """Convert a merged run and ask the file."""
    opened = open_run(run)
    encoder = encoder_of(opened)
    began = time.perf_counter()
    llama_cpp.convert(opened.weights, file, kind, None)
    made = time.perf_counter() - began
    asked = texts(probe_rows(opened, encoder, rows=rows))
    prompts = [prompt.ids for prompt in encoder.prompts(asked)]
    found = llama_cpp.continued(file, prompts, new_tokens=8, context=opened.contract.max_length)
    task = encoder.task
    assert isinstance(task, OneAnswer)
    return {
        "said": [task.parse(answer, task.language(text)) for answer, text in zip(found.texts, asked, strict=True)],
        "seconds": found.seconds,
        "load_seconds": found.load_seconds,
        "peak_memory_gib": found.peak_memory_gib,
        "bytes": file.stat().st_size,
        "make_seconds": made,
    }


def served(run: str, rows: int) -> dict[str, Any]:
    """Serve a merged run and ask it one row after another."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    opened = open_run(run)
    asked = texts(probe_rows(opened, encoder_of(opened), rows=rows))
    began = time.perf_counter()
    command = [sys.executable, "-c", "from fingpt_lora.cli import main; main()", "serve", run, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"{url}/health", process)
        loaded = time.perf_counter() - began
        client = Client(run, url)
        began = time.perf_counter()
        said = [client(text).label for text in asked]
        seconds = time.perf_counter() - began
        (engine,) = psutil.Process(process.pid).children()
        peak = max(int(line.split()[1]) for line in _status(engine.pid) if line.startswith("VmHWM"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    return {"said": said, "seconds": seconds, "load_seconds": loaded, "peak_memory_gib": peak / 1024**2}


def _status(pid: int) -> Sequence[str]:
    return Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit("the server ended before it answered")
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server does not answer")


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the README's table."""
    lines = [
        "| form | agreement | accuracy | rows/s | loading | peak memory | weights |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in results.items():
        size = f"{found['bytes'] / 1e6:.0f} MB" if "bytes" in found else ""
        lines.append(
            f"| {FORMS[name]} | {found['agreement']:.1%} | {found['accuracy']:.3f} | {found['rows_per_second']:.1f} | "
            f"{found['load_seconds']:.1f} s | {found['peak_memory_gib']:.1f} GiB | {size} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure every form of a run, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "deployment")
    given = parser.parse_args()
    shutil.rmtree(given.work, ignore_errors=True)
    given.work.mkdir(parents=True)
    merged = given.work / "merged"
    report = in_own_process(merge, [given.run], merged)
    found = {
        "adapter": in_own_process(predicted, given.run, given.rows),
        "merged": in_own_process(predicted, str(merged), given.rows),
        "gguf_f16": in_llama_cpp(str(merged), "f16", given.work / "f16.gguf", given.rows),
        "gguf_q8_0": in_llama_cpp(str(merged), "q8_0", given.work / "q8_0.gguf", given.rows),
        "served": served(str(merged), given.rows),
    }
    run = open_run(given.run)
    gold = [row.label for row in probe_rows(run, encoder_of(run), rows=given.rows)]
    trained = found["adapter"]["said"]
    results: dict[str, dict[str, Any]] = {}
    for name, own in found.items():
        said = own.pop("said")
        results[name] = {
            **own,
            "agreement": sum(a == b for a, b in zip(said, trained, strict=True)) / len(gold),
            "accuracy": sum(a == b for a, b in zip(said, gold, strict=True)) / len(gold),
            "rows_per_second": len(gold) / own["seconds"],
        }
    base = {"base": run.recipe.model.base, "quantization": run.recipe.model.quantization, "rows": len(gold)}
    write_results("deployment", {"results": results, "merge": report, **base})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
