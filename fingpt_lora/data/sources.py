"""Where rows come from: the embedded sample, files and hub data sets, each with its digest and licence."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fingpt_lora.data.documents import unfold
from fingpt_lora.data.encodings import UTF, encoding_of
from fingpt_lora.data.files import read_records
from fingpt_lora.data.hub import PREFIX, hub_records, load_hub
from fingpt_lora.data.paths import BINARY, expand, format_of
from fingpt_lora.data.rows import BadRow, Record
from fingpt_lora.errors import DataError
from fingpt_lora.sections import DataSection

SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "sentiment.jsonl"

_CARD = re.compile(r"\A---\s*\n(?P<head>.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_LICENCE = re.compile(r"^license:[ \t]*['\"]?(?P<name>[\w.-]+)['\"]?[ \t]*$", re.MULTILINE)
# Keys that only a data card has; the README beside a file may be that of a model or of a program.
_OF_DATA = re.compile(r"^(?:task_categories|dataset_info|size_categories|annotations_creators|configs):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one split of a hub data set."""

    name: str
    records: Callable[[], Iterator[Record | BadRow]]
    digest: Callable[[], str]
    licence: str | None = None
    note: str | None = None  # something about it that a person should know
    file: Path | None = None  # resolved


def open_sources(
    paths: str | Sequence[str],
    data: DataSection,
    *,
    key: str = "data.path",
    hub_split: str = "train",
    base_dir: Path | None = None,
    own: bool = True,
    prose: bool = False,
) -> list[Source]:
    """Return what names, globs, folders, ``sample`` and ``hub:owner/name`` stand for, in order.

    Args:
        paths: as in ``data.path``.
        data: format, encoding and hub settings.
        key: what the user wrote the paths under, for error messages.
        hub_split: split of a hub data set.
        base_dir: where relative paths start.
        own: whether ``data`` was written for these files. Without it their names and bytes tell format and
            encoding first, and ``data`` only where they do not.
        prose: whether a ``.txt`` file is one document, and not sentences.

    Raises:
        DataError: one of them stands for nothing, or cannot be read.
    """
    sources: list[Source] = []
    for name in [paths] if isinstance(paths, str) else paths:
        if name == SAMPLE:
            sources.append(_file(SAMPLE_FILE, "jsonl", "utf-8", SAMPLE))
        elif name.startswith(PREFIX):
            sources.append(_hub(name, data, hub_split))
        else:
            files = expand(name, base_dir=base_dir, key=key)
            sources += [_configured(path, data, own, prose) for path in files]
    once: dict[Path | str, Source] = {}
    for source in sources:
        once.setdefault(source.file or source.name, source)
    return list(once.values())


def _configured(path: Path, data: DataSection, own: bool, prose: bool) -> Source:
    kind: str = data.format
    encoding = data.encoding
    # A .txt file may hold anything: there the recipe knows better.
    if not own and format_of(path) and not (format_of(path) == "phrasebank" and kind in ("conll", "text")):
        kind = "auto"
    if prose and kind == "auto" and format_of(path) == "phrasebank":
        kind = "text"
    text = (format_of(path) if kind == "auto" else kind) not in BINARY
    if text and (encoding == "auto" or not own):
        latin = (format_of(path) if kind == "auto" else kind) == "phrasebank"  # as PhraseBank is published
        named = None if encoding == "auto" else encoding
        try:
            encoding = encoding_of(path, otherwise=named or ("latin-1" if latin else None))
        except (OSError, EOFError) as error:
            raise DataError(f"'{path}' cannot be read: {error}.") from None
        guessed = encoding not in UTF and not latin and encoding != named
        if guessed:
            note = f"'{path}' is not UTF-8 and was read as {encoding}; if that is wrong, set data.encoding"
            return _file(path, kind, encoding, str(path), note)
    return _file(path, kind, encoding, str(path))


def _file(path: Path, kind: str, encoding: str, name: str, note: str | None = None) -> Source:
    def records() -> Iterator[Record | BadRow]:
        return unfold(read_records(path, kind, encoding))

    return Source(name, records, lambda: _sha256(path), _licence(path.parent), note, path.resolve())


def _hub(name: str, data: DataSection, split: str) -> Source:
    rows = load_hub(name.removeprefix(PREFIX), split, config=data.name, revision=data.revision)
    shown = f"{name}[{split}]"
    licence = str(getattr(rows.info, "license", "") or "").strip() or None
    return Source(
        shown,
        lambda: unfold(hub_records(rows, shown)),
        lambda: data.revision or "latest",
        licence,
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _licence(folder: Path) -> str | None:
    """Return the licence that a data card (README.md with a YAML head) or a saved data set states."""
    try:
        card = _CARD.match((folder / "README.md").read_text(encoding="utf-8"))
        if card and _OF_DATA.search(card["head"]):
            stated = _LICENCE.search(card["head"])
            return stated["name"] if stated else None
    except (OSError, UnicodeDecodeError):
        pass
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        return str(info.get("license") or "").strip() or None
    except (OSError, ValueError, AttributeError):
        return None
