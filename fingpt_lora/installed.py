"""Field names and types of the installed ``SFTConfig``, PEFT configs and ``BitsAndBytesConfig``, by their source.

Importing torch, transformers and peft takes seconds; checking a recipe should not. Their config classes are
plain dataclasses (and one ``__init__``), so their source says which fields the installed version has, of which
type and with which default. Importing stays the last word: the real config is built before training starts.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fingpt_lora.errors import ModelError, RecipeError, did_you_mean

_SIMPLE_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "dict": (dict,),
    "list": (list, tuple),
    "set": (list, tuple),
    "tuple": (list, tuple),
    "None": (type(None),),
}


@dataclass(frozen=True)
class Field:
    """One field of a config class: its accepted simple types (empty = anything), choices and written default."""

    name: str
    types: tuple[type, ...]
    choices: tuple[str, ...]
    default: Any

    def problem(self, value: object) -> str | None:
        """Say why ``value`` cannot be this field's, or None where it can."""
        if self.choices and isinstance(value, str) and not self._is_choice(value):
            if len(self.choices) > 12:
                hint = did_you_mean(value, self.choices)
                return f"'{value}' is not one of its {len(self.choices)} values.{hint}".rstrip(".")
            return f"must be one of {', '.join(self.choices)}, not '{value}'"
        if not self.types:
            return None
        # bool is an int to Python; a true where a number belongs is a mistake to its writer.
        if isinstance(value, bool) and bool not in self.types:
            return f"must be {self.expected}, not {str(value).lower()}"
        if not isinstance(value, self.types):
            return f"must be {self.expected}, not {value!r}"
        return None

    def _is_choice(self, value: str) -> bool:
        # PEFT writes one choice as a pattern: "pissa_niter_[number of iters]".
        return any(value == c or ("[" in c and value.startswith(c.split("[")[0])) for c in self.choices)

    @property
    def expected(self) -> str:
        """The accepted types in words."""
        words = {
            int: "a whole number",
            float: "a number",
            bool: "true or false",
            str: "a text",
            dict: "a mapping",
        }
        words |= {list: "a list", type(None): "null"}
        seen = [words[t] for t in self.types if t in words]
        if float in self.types and int in self.types:
            seen = [word for word in seen if word != "a whole number"]
        return " or ".join(dict.fromkeys(seen))


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"The package '{name}' is not installed. Install the project with its dependencies: pip install -e ."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _types(annotation: ast.expr) -> tuple[tuple[type, ...], tuple[str, ...]]:
    """Read an annotation: the simple types it admits and the strings of its Literals; () where it is not simple."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if isinstance(annotation, ast.BinOp):  # A | B
        left, right = _types(annotation.left), _types(annotation.right)
        known = left[0] and right[0]
        return (left[0] + right[0] if known else ()), left[1] + right[1]
    if isinstance(annotation, ast.Constant):
        return (type(None),) if annotation.value is None else (), ()
    if isinstance(annotation, ast.Name):
        if annotation.id in _enums():
            return (str,), _enums()[annotation.id]
        return _SIMPLE_TYPES.get(annotation.id, ()), ()
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        outer, inner = annotation.value.id, annotation.slice
        parts = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
        if outer == "Literal":
            values = [part.value for part in parts if isinstance(part, ast.Constant)]
            kinds = tuple(_SIMPLE_TYPES["None" if v is None else type(v).__name__] for v in values)
            return tuple(t for kind in kinds for t in kind), tuple(v for v in values if isinstance(v, str))
        if outer in ("Optional", "Union"):
            parts = [*parts, ast.Constant(None)] if outer == "Optional" else parts
            read = [_types(part) for part in parts]
            known_all = all(kinds for kinds, _ in read)
            return (
                tuple(t for kinds, _ in read for t in kinds) if known_all else (),
                tuple(choice for _, choices in read for choice in choices),
            )
        return _SIMPLE_TYPES.get(outer.lower(), ()), ()
    return (), ()


def _default(node: ast.expr | None) -> Any:
    if isinstance(node, ast.Call):  # field(default=...)
        node = next((k.value for k in node.keywords if k.arg == "default"), None)
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _fields(body: list[ast.stmt]) -> Iterator[Field]:
    for node in body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            value = node.value
            hidden = isinstance(value, ast.Call) and any(
                k.arg == "init" and isinstance(k.value, ast.Constant) and k.value.value is False for k in value.keywords
            )
            if not name.startswith("_") and not hidden and "ClassVar" not in ast.unparse(node.annotation):
                types, choices = _types(node.annotation)
                # Literals beside a plain str are suggestions, not the whole choice.
                names = {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)}
                open_ended = "str" in names and not names & _enums().keys()
                yield Field(name, types, () if open_ended else choices, _default(value))


def _classes(path: Path) -> dict[str, ast.ClassDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


@functools.cache
def _enums() -> dict[str, tuple[str, ...]]:
    """Values of the string enums that annotate training arguments."""
    found = {}
    for module in ("trainer_utils", "training_args"):
        for name, node in _classes(_package("transformers") / f"{module}.py").items():
            if any(ast.unparse(base) == "ExplicitEnum" for base in node.bases):
                values = [_default(item.value) for item in node.body if isinstance(item, ast.Assign)]
                found[name] = tuple(str(value) for value in values)
    return found


@functools.cache
def sft_fields() -> dict[str, Field]:
    """Fields of the installed ``trl.SFTConfig``, those of ``TrainingArguments`` included."""
    trl = _package("trl") / "trainer"
    sources = [
        _classes(_package("transformers") / "training_args.py")["TrainingArguments"],
        _classes(trl / "base_config.py")["_BaseConfig"],
        _classes(trl / "sft_config.py")["SFTConfig"],
    ]
    return {field.name: field for source in sources for field in _fields(source.body)}


@functools.cache
def peft_methods() -> dict[str, tuple[Path, str]]:
    """Return PEFT's method names (``LORA``, ``IA3``, ...) -> (source file, config class) of the installed version."""
    found: dict[str, tuple[Path, str]] = {}
    for path in sorted((_package("peft") / "tuners").glob("*/config.py")):
        for method, name in _methods_in(path).items():
            found.setdefault(method, (path, name))
    return found


def _methods_in(path: Path) -> dict[str, str]:
    """Return the PEFT methods that a file configures -> config class."""
    text = path.read_text(encoding="utf-8")
    return {
        method: node.name
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef)
        for method in _assigned_peft_types(ast.get_source_segment(text, node) or "")
    }


def _config_of(method: str) -> tuple[Path, str]:
    """Return (source file, config class) of a method, by the folder of its name where there is one."""
    path = _package("peft") / "tuners" / method.lower() / "config.py"
    named = _methods_in(path) if path.is_file() else {}
    return (path, named[method]) if method in named else peft_methods()[method]


def _assigned_peft_types(source: str) -> list[str]:
    marker = "self.peft_type = PeftType."
    return [part.split()[0].strip() for part in source.split(marker)[1:]]


def _peft_class(name: str) -> ast.ClassDef | None:
    """Find a class that a config inherits from another method or from what methods share."""
    for path in sorted((_package("peft") / "tuners").rglob("*.py")):
        if f"class {name}" in path.read_text(encoding="utf-8"):
            return _classes(path).get(name)
    return None


@functools.cache
def peft_fields(method: str) -> dict[str, Field]:
    """Fields of the PEFT config class of ``method`` (upper case), its bases included."""
    path, name = _config_of(method)
    known = _classes(_package("peft") / "config.py") | _classes(path)
    fields: dict[str, Field] = {}

    def collect(class_name: str) -> None:
        node = known.get(class_name) or _peft_class(class_name)
        if node is None:
            return  # Python's own (Generic, ABC)
        for base in node.bases:
            collect(ast.unparse(base))
        fields.update({field.name: field for field in _fields(node.body)})

    collect(name)
    for internal in (
        "task_type",
        "inference_mode",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
    ):
        fields.pop(internal, None)
    return fields


@functools.cache
def bits_and_bytes_fields() -> dict[str, Field]:
    """Arguments of the installed ``transformers.BitsAndBytesConfig``; their types are not annotated there."""
    node = _classes(_package("transformers") / "utils" / "quantization_config.py")["BitsAndBytesConfig"]
    init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    defaults = [_default(value) for value in init.args.defaults]
    names = [argument.arg for argument in init.args.args if argument.arg != "self"]
    return {
        name: Field(name, (bool,) if isinstance(default, bool) else (), (), default)
        for name, default in zip(names, defaults, strict=True)
    }


def need_llguidance() -> None:
    """Check that constrained decoding is possible here.

    Raises:
        RecipeError: llguidance is not installed.
    """
    if importlib.util.find_spec("llguidance") is None:
        raise RecipeError(
            "evaluation.mode: constrained needs llguidance. Bring it with: pip install 'fingpt-lora[constrained]'"
        )
