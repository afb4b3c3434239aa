"""What ``fingpt-lora check`` prints about a plan."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fingpt_lora import runs
from fingpt_lora.contract import CONTRACT_FILE
from fingpt_lora.data.audit import counted
from fingpt_lora.data.rows import NONE, labels_of
from fingpt_lora.plan import Plan
from fingpt_lora.prompts import IGNORED, Example
from fingpt_lora.recipe import dump_recipe
from fingpt_lora.runs import TASKS
from fingpt_lora.tasks import TextTask
from fingpt_lora.tasks.base import OneAnswer

_BINS = 10
_SHOWN = 120  # tokens of a document


def show_plan(plan: Plan) -> None:
    """Print settings, rows, prompts, lengths, steps and what will be written."""
    console = Console()
    console.rule("recipe, every value filled in")
    console.print(Text(dump_recipe(plan.recipe).rstrip()))
    console.rule("filled in for this machine")
    for item in plan.filled:
        console.print(Text(f"{item.key} = {item.value}"), Text(f"({item.reason})", style="dim"))
    for name, part in plan.tasks.items():
        of = f"{name}: " if name else ""
        console.rule(f"{of}rows")
        console.print(_row_table(part))
        console.print(_counts(part))
        for warning in part.splits.audit.warnings:
            console.print(Text(warning))
        console.rule(f"{of}prompts: what is supervised is marked")
        for number in _sample(part):
            console.print(
                Panel(_rendered(part, part.train[number]), title=f"training row {number + 1}", title_align="left")
            )
        console.rule(f"{of}tokens per training row")
        console.print(_histogram(part))
    console.rule("plan")
    console.print(_closing(plan))


def _row_table(plan: Plan) -> Table:
    one_each = isinstance(plan.task, OneAnswer)
    splits = {"train": plan.splits.train, "validation": plan.splits.validation, "test": plan.splits.test}
    counts = [Counter(label for row in rows for label in labels_of(row)) for rows in splits.values()]
    may_be_none = not one_each and any(count[NONE] for count in counts)
    shown = (*plan.contract.labels, NONE) if may_be_none else plan.contract.labels
    # One line per label: there may be dozens.
    table = Table("label", box=box.SIMPLE_HEAD)
    for name in splits:
        table.add_column(name, justify="right")
    for label in shown:
        table.add_row(label, *(f"{count[label]:,}" for count in counts))
    table.add_row("all", *(f"{len(rows):,}" for rows in splits.values()), style="bold")
    return table


def _counts(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    for what, count in counted(plan.splits.audit.as_dict()):
        if count:
            table.add_row(f"{count:,}", what)
    return table


def _sample(plan: Plan) -> list[int]:
    """Return three training rows, of different labels where there are as many."""
    seen: dict[str, int] = {}
    for number, row in enumerate(plan.splits.train):
        seen.setdefault(labels_of(row)[0], number)
    return [*seen.values(), *(n for n in range(len(plan.train)) if n not in seen.values())][:3]


def _rendered(plan: Plan, example: Example) -> Text:
    if plan.contract.template == "bare":
        shares = zip(plan.contract.labels, example.labels, strict=False)
        own = [label for label, applies in shares if applies] if plan.task.several else []
        shown = ", ".join(own) or NONE if plan.task.several else plan.contract.labels[example.labels[0]]
        return Text(f"{plan.encoder.text(example.ids)}  ").append(shown, style="bold black on green")
    text = Text()
    ids, labels = example.ids, example.labels
    if isinstance(plan.task, TextTask):
        ids, labels = ids[:_SHOWN], labels[:_SHOWN]
    pieces = itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED)
    for supervised, pairs in pieces:
        text.append(plan.encoder.text([i for i, _ in pairs]), style="bold black on green" if supervised else "")
        if supervised and example.branches:
            text.append("  ")
    return text


def _histogram(plan: Plan) -> Text:
    lengths = sorted(len(example.ids) for example in plan.train)
    low, high = lengths[0], lengths[-1]
    width = max(1, -(-(high - low + 1) // _BINS))
    counts = Counter((length - low) // width for length in lengths)
    most = max(counts.values())
    lines = [
        f"{low + b * width:>6} - {low + (b + 1) * width - 1:<6} {'█' * round(40 * counts[b] / most)} {counts[b]}"
        for b in range(max(counts) + 1)
    ]
    middle, late = lengths[len(lengths) // 2], lengths[int(len(lengths) * 0.95)]
    lines.append(f"median {middle}, 95th percentile {late}, longest {high}, limit {plan.contract.max_length}")
    return Text("\n".join(lines))


def _closing(plan: Plan) -> Group:
    folder = Path(plan.recipe.output)
    state = runs.state_of(folder, plan.identity)
    words = {
        "new": "will be written anew",
        "continue": "holds this run, unfinished: training goes on from its last checkpoint",
        "done": "holds this run, finished: nothing will be computed again",
    }
    names = [runs.RECIPE, runs.MANIFEST, runs.METRICS, f"{runs.weights_folder(plan.recipe)}/"]
    own = [CONTRACT_FILE, *([runs.THRESHOLDS] if plan.task.several else []), "plots/", "report.html", "README.md"]
    shortened = sum(part.shortened for part in plan.tasks.values())
    rows = sum(len(part.train) for part in plan.tasks.values())
    files = ", ".join([*names, *([f"{TASKS}/"] if plan.parts else own)])
    return Group(
        Text(f"base       {plan.recipe.model.base} in {plan.checkpoint}"),
        Text(f"steps      {plan.steps}"),
        Text(f"shortened  {shortened:,} of {rows:,} training rows"),
        *[Text(f"contract   {part.contract.hash[:16]}  {name}".rstrip()) for name, part in plan.tasks.items()],
        Text(f"run        {plan.identity[:16]}"),
        Text(
            f"folder     {folder} {words[state]}: {files}" if state == "new" else f"folder     {folder} {words[state]}"
        ),
    )
