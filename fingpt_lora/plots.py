"""PNG plots of a run. Drawn with matplotlib's object interface, so that no global state is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#999999"


def write_plots(folder: Path, test: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Draw what the figures allow and return the files: confusion matrix, reliability, coverage, training."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_confusion(folder / "confusion_matrix.png", test["confusion_matrix"])]
    if "reliability" in test:
        drawn.append(_reliability(folder / "reliability.png", test))
        drawn.append(_coverage(folder / "coverage.png", test["coverage"]))
    if any("loss" in entry for entry in log_history):
        drawn.append(_training(folder / "training.png", log_history))
    return drawn


def _figure(width: float = 5.2, height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _confusion(path: Path, matrix: Mapping[str, Any]) -> Path:
    import numpy as np

    counts = np.array(matrix["counts"])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = _figure()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(matrix["predicted"])), matrix["predicted"], rotation=20, ha="right")
    axes.set_yticks(range(len(matrix["gold"])), matrix["gold"])
    for row, column in np.ndindex(counts.shape):
        dark = shares[row, column] > 0.5
        text = f"{counts[row, column]}\n{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
    axes.set(xlabel="predicted", ylabel="gold", title="Confusion matrix (share of the gold label)")
    return _save(figure, path)


def _reliability(path: Path, test: Mapping[str, Any]) -> Path:
    bins = test["reliability"]
    most = max(b["rows"] for b in bins)
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", linewidth=1, label="perfect calibration")
    sizes = [20 + 180 * b["rows"] / most for b in bins]
    points = ([b["confidence"] for b in bins], [b["accuracy"] for b in bins])
    axes.plot(*points, color=_BLUE, linewidth=1)
    axes.scatter(*points, s=sizes, color=_BLUE, alpha=0.8, label="rows (area = how many)")
    axes.set(xlim=(0.25, 1.02), ylim=(0, 1.02), xlabel="stated probability", ylabel="share right")
    axes.set_title(f"Reliability (ECE {test['ece']:.3f})")
    axes.legend(frameon=False, loc="upper left")
    return _save(figure, path)


def _coverage(path: Path, coverage: Mapping[str, Any]) -> Path:
    figure, axes = _figure()
    axes.plot(coverage["coverage"], coverage["accuracy"], color=_BLUE, marker="o")
    axes.set(xlabel="share of rows answered, most certain first", ylabel="accuracy on them", xlim=(0, 1.03))
    axes.set_title("Accuracy when the model may abstain")
    axes.grid(alpha=0.3)
    return _save(figure, path)


def _training(path: Path, log_history: Sequence[Mapping[str, Any]]) -> Path:
    figure, axes = _figure(6.6)
    losses = [(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry]
    axes.plot(*zip(*losses, strict=True), color=_BLUE, label="training loss")
    axes.set(xlabel="step", ylabel="loss (nats per answer token)", title="Training", ylim=(0, None))
    lines = list(axes.lines)
    validation = [(entry["step"], entry["eval_macro_f1"]) for entry in log_history if "eval_macro_f1" in entry]
    if validation:
        right = axes.twinx()
        right.spines[["top"]].set_visible(False)
        lines += right.plot(*zip(*validation, strict=True), color=_ORANGE, marker="o", label="validation macro-F1")
        right.set(ylabel="macro-F1", ylim=(0, 1))
    axes.legend(handles=lines, frameon=False)
    return _save(figure, path)


def _save(figure: Any, path: Path) -> Path:
    figure.savefig(path)
    return path
