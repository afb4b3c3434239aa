"""Which runs can be merged, and how several adapters become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fingpt_lora.bases import leaves_base_alone
from fingpt_lora.errors import RunError
from fingpt_lora.runs import Run, open_runs

METHODS = (
    "cat", "linear", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd",
    "magnitude_prune", "magnitude_prune_svd",
)  # fmt: skip
_PRUNING = ("ties", "dare", "magnitude")


@dataclass(frozen=True)
class Combination:
    """How several adapters become one, in PEFT's words.

    Attributes:
        weights: of each run.
        method: ``combination_type`` of ``add_weighted_adapter``; ``cat`` is the exact weighted sum.
        density: share of the values that TIES, DARE and magnitude pruning keep.
    """

    weights: tuple[float, ...] = (1.0,)
    method: str = "cat"
    density: float | None = None


def opened(folders: Sequence[str | Path]) -> dict[str, Run]:
    """Open runs by name, every task of a mixture by itself.

    Raises:
        RunError: one of them is not finished, or two have one name.
    """
    runs: dict[str, Run] = {}
    for folder in folders:
        for name, run in open_runs(folder).items():
            if name in runs:
                raise RunError(f"Two of the tasks are called '{name}'. Rename one of their folders.")
            runs[name] = run
    return runs


def check(
    folders: Sequence[str | Path],
    runs: Mapping[str, Run],
    output: Path,
    combination: Combination | None,
    data: str | None,
) -> None:
    """Tell what cannot be merged before anything is loaded.

    Raises:
        RunError: one sentence on what stands in the way.
    """
    if output.exists():
        raise RunError(f"'{output}' exists already; it is not overwritten. Choose another folder: --output DIR.")
    if data is not None and len(runs) > 1:
        raise RunError("--data names the rows of one task, and there are several; leave it out.")
    first, *others = runs.values()
    for run in runs.values():
        if run.merged:
            raise RunError(f"'{run.folder}' is merged already; name the run that it was made from.")
        if run.recipe.peft_type == "NONE":
            raise RunError(
                f"'{run.folder}' has trained all weights: its folder '{run.weights}' is a whole model, and there is no "
                "adapter to merge."
            )
    weights = combination.weights if combination else ()
    if len(folders) == 1:
        if combination is not None:
            raise RunError("--weight, --method and --density belong to several runs; name two at least.")
        return
    if len(weights) != len(folders):
        raise RunError(
            f"{len(folders)} runs need a weight each, in their order (--weight 0.5 --weight 0.5); {len(weights)} "
            f"{'is' if len(weights) == 1 else 'are'} given."
        )
    if len({run.weights for run in runs.values()}) < len(folders):
        raise RunError("The same run is named twice.")
    assert combination is not None
    if combination.method.startswith(_PRUNING) != (combination.density is not None):
        wanted = "needs" if combination.density is None else "takes no"
        raise RunError(f"--method {combination.method} {wanted} --density.")
    same = ("base", "revision", "quantization", "adapters")
    for run in [first, *others]:
        if not leaves_base_alone(run.recipe):
            raise RunError(
                f"'{run.folder}' has changed more of its base than LoRA adds to it, so that its adapter cannot be put "
                "together with others."
            )
        for key in same:
            if getattr(run.recipe.model, key) != getattr(first.recipe.model, key):
                raise RunError(
                    f"'{run.folder}' and '{first.folder}' differ in model.{key}; adapters go together only on one base."
                )
