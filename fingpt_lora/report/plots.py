"""Plots as PNG files, by matplotlib's object interface: no pyplot, no display, no global state."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fingpt_lora.atomic import write_bytes
from fingpt_lora.report.findings import NAMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette ("Color Universal Design", 2008), which colour-blind readers can tell apart.
COLOURS = {"test": "#0072B2", "tfidf_logreg": "#D55E00", "base_model": "#009E73", "majority": "#767676"}
COLOURS |= {"shuffled": "#CC79A7", "persistence": "#56B4E9", "by_heart": "#E69F00"}
COLOURS["earlier_adapters"] = COLOURS["base_model"]  # a run is compared with one of the two
_STYLES: dict[str, Any] = {"test": "-", "tfidf_logreg": "--", "base_model": "-.", "majority": ":"}
_STYLES |= {"shuffled": (0, (1, 1)), "persistence": (0, (5, 1)), "by_heart": (0, (3, 1, 1, 1))}
_STYLES["earlier_adapters"] = _STYLES["base_model"]
_READABLE = 20  # labels in a confusion matrix
_INK, _FAINT = "#222222", "#D9D9D9"
_DPI = 160


def write_plots(folder: Path, metrics: Mapping[str, Any], log_history: Sequence[Mapping[str, Any]] = ()) -> list[Path]:
    """Draw what there is to draw and return the files.

    Args:
        folder: made if missing.
        metrics: the content of ``metrics.json``. Without probabilities there is nothing to say about
            reliability and coverage.
        log_history: the Trainer's ``state.log_history``; without a loss in it there is no training plot.

    Returns:
        ``confusion_matrix.png``, ``reliability.png``, ``coverage.png``, ``training.png``, as far as they apply.
    """
    test = metrics.get("test") or {}
    figures: dict[str, Figure] = {}
    if test.get("confusion_matrix") and len(test["confusion_matrix"]["gold"]) <= _READABLE:
        figures["confusion_matrix"] = _confusion_matrix(test["confusion_matrix"])
    if test.get("reliability"):
        figures["reliability"] = _reliability(test)
    if test.get("coverage"):
        figures["coverage"] = _coverage(metrics)
    if _series(log_history, "loss"):
        figures["training"] = _training(log_history)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        stream = io.BytesIO()
        # Without the version of matplotlib in it, the same figures give the same bytes.
        figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
        write_bytes(folder / f"{name}.png", stream.getvalue())
        paths.append(folder / f"{name}.png")
    return paths


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure (inches) with its own canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, *, xlabel: str = "", ylabel: str = "", title: str = "") -> None:
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=10)
    axes.tick_params(colors=_INK, labelsize=9, length=3)
    axes.grid(True, color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#999999")


def _confusion_matrix(matrix: Mapping[str, Any]) -> Figure:
    counts = np.array(matrix["counts"])  # (gold labels, predicted labels)
    gold, predicted = matrix["gold"], matrix["predicted"]
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    figure = _figure(max(5.6, 1.7 + 1.05 * len(predicted)), max(4.6, 1.5 + 0.85 * len(gold)))
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    _dress(axes, xlabel="Answer", ylabel="Right label", title="Confusion matrix")
    axes.grid(False)
    long = max(len(label) for label in predicted) > 9
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(predicted)), predicted, **turned)
    axes.set_yticks(range(len(gold)), [f"{label}\n{n:,} rows" for label, n in zip(gold, totals[:, 0], strict=True)])
    for (row, column), count in np.ndenumerate(counts):
        colour = "white" if shares[row, column] > 0.55 else _INK if count else "#8A8A8A"
        place: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
        axes.text(column, row - 0.1 * bool(count), f"{count:,}", fontsize=12, **place)
        if count:
            axes.text(column, row + 0.23, f"{100 * shares[row, column]:.0f} %", fontsize=8, **place)
    # White lines between the cells.
    axes.set_xticks(np.arange(len(predicted) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(gold) + 1) - 0.5, minor=True)
    axes.grid(True, which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _wilson(accuracy: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of the 95 % score interval (Wilson 1927) of each share of ``rows``."""
    from scipy.stats import binomtest

    pairs = zip(accuracy, rows, strict=True)
    bounds = [binomtest(round(a * n), int(n)).proportion_ci(0.95, method="wilson") for a, n in pairs]
    return np.array([b.low for b in bounds]), np.array([b.high for b in bounds])


def _reliability(test: Mapping[str, Any]) -> Figure:
    bins = test["reliability"]
    confidence, accuracy, rows = (np.array([b[key] for b in bins]) for key in ("confidence", "accuracy", "rows"))
    low, high = _wilson(accuracy, rows)
    figure = _figure(5.6, 4.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    title = f"Reliability (ECE {test['ece']:.3f})"
    _dress(upper, ylabel="Accuracy", title=title)
    upper.plot([0, 1], [0, 1], color="#888888", linewidth=1, linestyle="--", label="perfectly calibrated")
    errors = np.clip(np.stack([accuracy - low, high - accuracy]), 0, None)
    upper.errorbar(
        confidence, accuracy, errors, color=COLOURS["test"], marker="o", markersize=5, linewidth=1.4,
        elinewidth=0.9, capsize=2, label="this run, 95 % intervals",
    )  # fmt: skip
    upper.set_ylim(-0.02, 1.04)
    upper.legend(loc="upper left", fontsize=8, frameon=False)
    _dress(lower, xlabel="Confidence (largest probability)", ylabel="Rows")
    width = 1 / 15  # the bins of fingpt_lora.metrics
    centres = (np.minimum(np.floor(confidence / width + 1e-9), 14) + 0.5) * width
    lower.bar(centres, rows, width=0.9 * width, color=COLOURS["test"], alpha=0.75)
    lower.set_xlim(0, 1)
    figure.align_ylabels([upper, lower])
    return figure


def _coverage(metrics: Mapping[str, Any]) -> Figure:
    figure = _figure(5.6, 4.6)
    axes = figure.add_subplot()
    _dress(
        axes, xlabel="Share of rows answered, most confident first (%)", ylabel="Accuracy of the answers",
        title="Accuracy when the model may abstain",
    )  # fmt: skip
    shown = {"test": metrics["test"], **(metrics.get("baselines") or {})}
    lowest = 1.0
    for key in (key for key in NAMES if (shown.get(key) or {}).get("coverage")):
        share = np.array(shown[key]["coverage"]["coverage"])
        accuracy = np.array(shown[key]["coverage"]["accuracy"])
        lowest = min(lowest, accuracy.min())
        main = key == "test"
        axes.plot(
            100 * share, accuracy, color=COLOURS[key], linestyle=_STYLES[key], linewidth=2 if main else 1.3,
            marker="o" if main else None, markersize=4, label=NAMES[key], zorder=3 if main else 2,
        )  # fmt: skip
        if main:
            low, high = _wilson(accuracy, np.maximum(1, np.round(share * shown[key]["rows"])))
            lowest = min(lowest, low.min())
            axes.fill_between(100 * share, low, high, color=COLOURS[key], alpha=0.13, linewidth=0)
    axes.set_xlim(8, 102)
    axes.set_xticks(range(10, 101, 10))
    axes.set_ylim(max(0, math.floor(lowest * 20) / 20 - 0.02), 1.02)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def _training(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    loss, rate = _series(log_history, "loss"), _series(log_history, "learning_rate")
    validation = next(
        (
            (key, found)
            for key in ("eval_macro_f1", "eval_accuracy", "eval_loss")
            if (found := _series(log_history, key))
        ),
        None,
    )
    panels = 1 + bool(validation) + bool(rate)
    figure = _figure(5.6, 4.6)
    grid = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[2.2, *[1.0] * (panels - 1)])
    axes: list[Axes] = list(grid[:, 0])
    _dress(axes[0], ylabel="Loss (nats/token)", title="Training")
    steps, values = np.array(loss).T
    smooth = len(values) > 20
    axes[0].plot(
        steps, values, color=COLOURS["test"], linewidth=1 if smooth else 1.8, alpha=0.35 if smooth else 1,
        marker=None if len(values) > 1 else "o", label="as logged" if smooth else None,
    )  # fmt: skip
    if smooth:
        axes[0].plot(steps, _smoothed(values), color=COLOURS["test"], linewidth=2, label="smoothed")
        axes[0].legend(loc="upper right", fontsize=8, frameon=False)
    axes[0].set_ylim(bottom=0)
    if validation:
        key, points = validation
        _dress(axes[1], ylabel="Validation\n" + key.removeprefix("eval_").replace("_", "-").replace("f1", "F1"))
        axes[1].plot(*np.array(points).T, color=COLOURS["tfidf_logreg"], marker="o", markersize=4, linewidth=1.6)
        axes[1].margins(y=0.25)
    if rate:
        _dress(axes[-1], ylabel="Learning rate")
        axes[-1].plot(*np.array(rate).T, color=COLOURS["majority"], linewidth=1.6)
        axes[-1].set_ylim(bottom=0)
        axes[-1].ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes[-1].yaxis.get_offset_text().set_fontsize(8)
    axes[-1].set_xlabel("Step", color=_INK)
    figure.align_ylabels(axes)
    return figure


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return a centred moving average, which unlike an exponential one does not lag behind."""
    from scipy.ndimage import gaussian_filter1d

    smoothed: np.ndarray = gaussian_filter1d(values, sigma=max(1.5, len(values) / 40), mode="nearest")
    return smoothed


def _series(log_history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (step, value) of one quantity, without what is not a finite number."""
    found = []
    for entry in log_history:
        try:
            step, value = float(entry["step"]), float(entry[key])
        except (KeyError, TypeError, ValueError):
            continue
        if math.isfinite(value):
            found.append((step, value))
    return found
