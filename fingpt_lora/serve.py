"""Start an existing engine with a run and its contract: vLLM where there is a GPU, else ``transformers serve``.

What is served is a folder of links to the weights, with the contract's chat template and greedy decoding: so every
OpenAI-compatible client asks the task by a plain message, and :class:`fingpt_lora.client.Client` by the exact prompt.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from fingpt_lora.atomic import write_json, write_text
from fingpt_lora.console import note
from fingpt_lora.errors import RunError
from fingpt_lora.predict import checkpoint_of, encoder_of, section_here
from fingpt_lora.prompt_files import chat_template
from fingpt_lora.prompts import PromptEncoder
from fingpt_lora.runs import Run, open_run
from fingpt_lora.tasks import TextTask

Engine = Literal["auto", "vllm", "transformers"]
TEMPLATE = "chat_template.jinja"
_SERVING = ("fastapi", "uvicorn", "openai")  # that `transformers serve` imports


@dataclass(frozen=True)
class Server:
    """An engine's command.

    Attributes:
        command: to run in the folder that holds ``name``.
        name: of the model in requests.
        engine: vllm or transformers.
    """

    command: list[str]
    name: str
    engine: str


def serve(folder: str | Path, *, host: str = "127.0.0.1", port: int = 8000, engine: Engine = "auto") -> int:
    """Serve a run until it is stopped, and return the engine's exit code.

    Raises:
        RunError: the run cannot be served, the engine is not installed, or the port is taken.
    """
    run = open_run(folder)
    _check_port(host, port)
    with tempfile.TemporaryDirectory() as place:
        server = prepare(run, Path(place), host, port, engine)
        note(f"'{server.name}' at http://{host}:{port}/v1, by {server.engine} serve; Ctrl-C stops it.")
        process = subprocess.Popen(server.command, cwd=place, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
            return 0 if code == -signal.SIGTERM else code  # as it was asked to
        except KeyboardInterrupt:  # the engine has heard it, too
            process.wait()
            return 0
        finally:
            signal.signal(signal.SIGTERM, before)


def prepare(run: Run, place: Path, host: str, port: int, engine: Engine = "auto") -> Server:
    """Lay out what is served, and return the command.

    Args:
        run: to serve.
        place: an empty folder, to be the engine's working folder.
        host: address to listen at.
        port: to listen at.
        engine: auto takes vLLM where it and a GPU are there.

    Raises:
        RunError: the run cannot be served so, or the engine is not installed.
    """
    if run.recipe.model.head == "classification":
        raise RunError(f"'{run.folder}' has a classification head, and these engines only write. Use predict.")
    encoder = encoder_of(run)
    section, device = section_here(run)
    if engine == "auto":
        engine = "vllm" if device.startswith("cuda") and shutil.which("vllm") else "transformers"
    name = run.folder.resolve().name
    if engine == "vllm":
        if not shutil.which("vllm"):
            raise RunError("vLLM is not installed; pip install vllm brings it. Or take --engine transformers.")
        template = write_template(encoder, place)
        where = {"checkpoint": str(checkpoint_of(run).resolve()), "adapter": str(run.weights.resolve())}
        return Server(vllm_command(run, name, str(template) if template else None, host, port, **where), name, engine)
    missing = [package for package in _SERVING if find_spec(package) is None]
    if missing:
        raise RunError(f"'transformers serve' needs {', '.join(missing)}: pip install 'fingpt-lora[serve]'.")
    if not run.merged:
        raise RunError(
            f"'{run.folder}' is an adapter beside its base, which 'transformers serve' cannot load. Merge it first: "
            f"fingpt-lora merge {run.folder}"
        )
    _link(run, encoder, place / name)
    start = "from transformers.cli.transformers import main; main()"  # its script may not be on the path
    command = [sys.executable, "-c", start, "serve", name, "--host", host, "--port", str(port)]
    return Server([*command, "--device", device, "--dtype", section.dtype], name, engine)


def write_template(encoder: PromptEncoder, folder: Path) -> Path | None:
    """Write the contract's chat template into a folder, where one message can ask the task; else return None."""
    if encoder.task.several or isinstance(encoder.task, TextTask):
        return None  # the base's own stays, for free talk
    write_text(folder / TEMPLATE, chat_template(encoder))
    return folder / TEMPLATE


def vllm_command(
    run: Run, name: str, template: str | None, host: str, port: int, *, checkpoint: str, adapter: str
) -> list[str]:
    """Return the command of vLLM: for a merged run its folder, else its base with the adapter alive beside it.

    Args:
        run: to serve.
        name: in requests.
        template: file of the chat template; None leaves the base's own.
        host: address to listen at.
        port: to listen at.
        checkpoint: folder or hub id of the merged run, or of the base.
        adapter: folder of the adapter of a run that is not merged.
    """
    command = ["vllm", "serve", checkpoint, "--host", host, "--port", str(port)]
    command += ["--max-model-len", str(run.contract.max_length), *(["--chat-template", template] if template else [])]
    if run.merged:
        return [*command, "--served-model-name", name]
    rank = json.loads((run.weights / "adapter_config.json").read_text(encoding="utf-8"))["r"]
    alive = ["--enable-lora", "--max-lora-rank", str(_rank(rank)), "--lora-modules", f"{name}={adapter}"]
    return [*command, *alive, *(["--quantization", "bitsandbytes"] if run.recipe.model.quantization != "none" else [])]


def _rank(rank: int) -> int:
    """Return the least of vLLM's ranks that holds an adapter's."""
    return next(own for own in (8, 16, 32, 64, 128, 256, 320, 512) if own >= rank)


def _link(run: Run, encoder: PromptEncoder, folder: Path) -> None:
    """Make a checkpoint folder of links, with the contract's template and decoding in place of the base's."""
    folder.mkdir()
    for path in run.weights.iterdir():
        if path.is_file() and path.name not in (TEMPLATE, "generation_config.json", "tokenizer_config.json"):
            (folder / path.name).symlink_to(path.resolve())
    settings: dict[str, Any] = json.loads((run.weights / "tokenizer_config.json").read_text(encoding="utf-8"))
    if write_template(encoder, folder) is None:
        if (run.weights / TEMPLATE).is_file():
            shutil.copyfile(run.weights / TEMPLATE, folder / TEMPLATE)
    else:
        settings.pop("chat_template", None)
    write_json(folder / "tokenizer_config.json", settings)
    contract = encoder.contract
    greedy = {"do_sample": False, "eos_token_id": list(contract.stop_ids), "pad_token_id": contract.pad_id}
    write_json(folder / "generation_config.json", greedy)


def _check_port(host: str, port: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(found[0]) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        why = error.strerror or error
        raise RunError(f"Cannot listen at {host}:{port}: {why}. Choose another port: --port N.") from None
