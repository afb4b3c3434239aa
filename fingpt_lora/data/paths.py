"""Which files a recipe means: names, globs, folders, and folders written by ``datasets.save_to_disk``."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from fingpt_lora.errors import DataError, did_you_mean

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".txt": "phrasebank",
    ".conll": "conll",
    ".bio": "conll",
    ".iob": "conll",
}
BINARY = ("parquet", "arrow")

PACKAGE = "package:"  # a file that an installed Python package brings along

# What lies beside data in a folder and is none.
_BESIDE = {"readme", "license", "licence", "notice", "copying", "changelog", "dataset_info", "dataset_infos"}


def _packaged(name: str, key: str) -> Path:
    """Find ``package:NAME/FILE`` without importing the package."""
    package, _, wanted = name.removeprefix(PACKAGE).partition("/")
    try:
        owned = files(package) or []
    except PackageNotFoundError:
        raise DataError(
            f"{key}: the package '{package}' is not installed. Bring it with: pip install {package}"
        ) from None
    match = next((path for path in owned if str(path) == wanted or path.name == wanted), None)
    if match is None:
        raise DataError(f"{key}: the package '{package}' has no file '{wanted}'.")
    return Path(str(match.locate()))


def format_of(path: Path) -> str | None:
    """Return the format that a file's name tells, ``.gz`` aside; None where it tells nothing."""
    return FORMATS.get(_extension(path))


def expand(paths: str | Sequence[str], *, base_dir: Path | None = None, key: str = "data.path") -> list[Path]:
    """Return the files that names, globs and folders stand for, each once, sorted within each.

    Args:
        paths: one or several; relative ones start at ``base_dir``.
        base_dir: the current directory where it is None.
        key: what the user wrote them under, for error messages.

    Raises:
        DataError: one of them stands for nothing.
    """
    found: list[Path] = []
    for name in [paths] if isinstance(paths, str) else paths:
        if name.startswith(PACKAGE):
            found.append(_packaged(name, key))
            continue
        path = Path(name).expanduser()
        path = path if base_dir is None else base_dir / path
        if path.is_dir():
            found += _folder(path, key)
        elif path.is_file():  # before the glob: a name may hold brackets
            found.append(path)
        elif glob.has_magic(name):
            matches = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
            if not matches:
                raise DataError(f"{key}: no file matches '{name}'{_looked_in(name, base_dir)}.")
            found += matches
        else:
            raise DataError(
                f"{key}: there is no file or folder '{name}'{_looked_in(name, base_dir)}.{_neighbour(path)}"
            )
    once: dict[Path, Path] = {}
    for path in found:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def saved_split(path: Path) -> str | None:
    """Return the split of a file inside a saved ``DatasetDict``; None for any other file."""
    return path.parent.name if (path.parent.parent / "dataset_dict.json").is_file() else None


def _folder(folder: Path, key: str) -> list[Path]:
    saved = _saved(folder)
    if saved is not None:
        return saved
    inside = [p for p in folder.rglob("*") if _extension(p) in FORMATS and p.is_file() and not _apart(p, folder)]
    if not inside:
        raise DataError(f"{key}: the folder '{folder}' holds no data file ({', '.join(FORMATS)}, or these with .gz).")
    return sorted(inside)


def _saved(folder: Path) -> list[Path] | None:
    """Return what ``save_to_disk`` wrote: the listed Arrow files, not the caches that may lie beside them."""
    try:
        if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
            state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            return [folder / str(entry["filename"]) for entry in state["_data_files"]]
        if (folder / "dataset_dict.json").is_file():
            splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
            return [path for split in splits for path in _saved(folder / str(split)) or []]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{folder}' looks like a saved data set, but its state cannot be read: {error!r}.") from None
    return None


def _apart(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return hidden or path.name.lower().split(".")[0] in _BESIDE


def _extension(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _looked_in(name: str, base_dir: Path | None) -> str:
    relative = not Path(name).expanduser().is_absolute()
    return f" (looked in '{(base_dir or Path()).resolve()}')" if relative else ""


def _neighbour(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, names) if names else ""
    return hint if hint.startswith(" Did") else ""
