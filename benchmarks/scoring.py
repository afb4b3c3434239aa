"""Label scoring against greedy generation of the answer, by the same trained model, each side in a process of its own.

    python -m benchmarks.scoring --run runs/phrasebank --phrasebank Sentences_50Agree.txt

``--run`` is a finished run of ``recipes/phrasebank.yaml``. Rows come from its test split. Measured with the run's own
short instruction and with a long one, as an event schema has. Generation takes its batches in the file's order, as
FinGPT's benchmark does, and of near lengths, as ours does. Writes ``benchmarks/results/scoring.json`` and prints the
table that the README shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from benchmarks.common import in_own_process, matmul_peak, write_results
from fingpt_lora import capability
from fingpt_lora.console import note
from fingpt_lora.contract import load_tokenizer, make_contract
from fingpt_lora.prompts import PromptEncoder

BATCH = 32
SIDES = {
    "generate": "greedy generation, merged, batches in the file's order",
    "generate_sorted": "greedy generation, merged, batches of near lengths",
    "score_unmerged": "label scoring, adapter beside the base",
    "score": "label scoring, merged: what evaluate and predict do",
}
_EVENTS = {
    "merger": "two companies join, or one takes over another, whether announced, completed or called off",
    "earnings": "a company reports revenue, profit or loss of a period, or says what it expects of the next",
    "dividend": "a payment to shareholders is proposed, raised, cut or left out",
    "order": "a customer places, extends or cancels an order, or a contract is signed or lost",
    "staff": "people are hired, dismissed or laid off for a time, or talks about that begin or end",
    "management": "a member of the board or the management comes, goes or takes another office",
    "financing": "shares or bonds are issued or bought back, or a loan is agreed, extended or repaid",
    "rating": "a bank or an agency raises, lowers or confirms its view of a share or of a debt",
    "product": "a product or service is launched, withdrawn, approved or found to be faulty",
    "legal": "a court, an authority or an opponent files, decides or settles a case about the company",
    "site": "a plant, shop, mine or office is opened, enlarged, closed, sold or put out of work",
}
LONG = (
    "You read news of companies for an investor. First find out which of these events a sentence tells of. "
    + " ".join(f"{name}: {meaning}." for name, meaning in _EVENTS.items())
    + " Then judge how the event bears on the company that the sentence is about, and on no other."
)


def measure(side: str, run: str, data: str, rows: int, long: bool) -> dict[str, Any]:
    """Answer the rows in one way and return its figures; runs in a process of its own."""
    import torch

    from fingpt_lora import checkpoints
    from fingpt_lora import model as models
    from fingpt_lora.data import load_splits
    from fingpt_lora.generate import generate_answers
    from fingpt_lora.plan import labels, texts
    from fingpt_lora.predict import Predictor
    from fingpt_lora.scoring import score_labels

    predictor = Predictor.load(run, merge=side != "score_unmerged")
    model, encoder = predictor.model, predictor.encoder
    recipe = capability.for_inference(predictor.run.recipe, capability.detect())
    checkpoint = checkpoints.find_checkpoint(recipe.model.base, recipe.model.revision)
    test = load_splits(recipe.data.model_copy(update={"path": data}), encoder.task).test[:rows]
    if long:
        contract = make_contract(
            encoder.task, checkpoint, template="chat", system=LONG, max_length=encoder.contract.max_length
        )
        encoder = PromptEncoder(contract, load_tokenizer(checkpoint), encoder.task)
    torch.set_num_threads(capability.detect().cores)
    longest = max(len(ids) for ids in encoder.answer_ids("en").values())

    def answers(some: list[str]) -> list[str | None]:
        if side.startswith("generate"):
            parts = [some] if side == "generate_sorted" else [some[i : i + BATCH] for i in range(0, len(some), BATCH)]
            written = [
                answer
                for part in parts
                for answer in generate_answers(model, encoder, part, batch_size=BATCH, max_new_tokens=longest)
            ]
            return [encoder.task.parse(answer, "en") for answer in written]
        scores = score_labels(model, encoder, some, batch_size=BATCH)
        return [encoder.contract.labels[i] for i in scores.argmax(axis=1)]

    answers(texts(test)[:BATCH])
    start = time.perf_counter()
    found = answers(texts(test))
    seconds = time.perf_counter() - start
    prompts = encoder.prompts(texts(test))
    return {
        "rows_per_second": len(test) / seconds,
        "tokens_per_second": sum(len(prompt.ids) for prompt in prompts) / seconds,
        "prompt_tokens": statistics.mean(len(prompt.ids) for prompt in prompts),
        "accuracy": statistics.mean(a == b for a, b in zip(found, labels(test), strict=True)),
        "answers": found,
        "matmul_peak_gflops": matmul_peak(recipe.model.dtype) / 1e9,
        "peak_memory_gib": capability.peak_memory_gib(),
        "adapted_modules": models.adapted_modules(model),
    }


def table(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return the README's table."""
    lines = [
        "| instruction | side | rows/s | times generation | accuracy | same answers | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, sides in results.items():
        first = sides["generate"]
        for side, figures in sides.items():
            lines.append(
                f"| {name}, {figures['prompt_tokens']:.0f} tokens | {SIDES[side]} | {figures['rows_per_second']:.1f} "
                f"| {figures['rows_per_second'] / first['rows_per_second']:.1f} | {figures['accuracy']:.3f} "
                f"| {figures['agreement']:.1%} | {figures['peak_memory_gib']:.1f} GiB |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure all sides in alternating rounds, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="a finished run of recipes/phrasebank.yaml")
    parser.add_argument("--phrasebank", required=True, help="Sentences_50Agree.txt")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for name in ("short", "long"):
        rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(arguments.rounds):
            for side in SIDES:
                given = (side, arguments.run, arguments.phrasebank, arguments.rows, name == "long")
                rounds[side].append(in_own_process(measure, *given))
                note(f"{name} instruction, {SIDES[side]}: {rounds[side][-1]['rows_per_second']:.1f} rows/s")
        generated = rounds["generate"][0]["answers"]
        results[name] = {}
        for side, measured in rounds.items():
            found = measured[0].pop("answers")
            figures = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
            agreement = statistics.mean(a == b for a, b in zip(found, generated, strict=True))
            results[name][side] = {**figures, "agreement": agreement}
    settings = {"rows": arguments.rows, "rounds": arguments.rounds, "batch": BATCH}
    write_results("scoring", {"results": results, "settings": settings})
    sys.stdout.write(table(results) + "\n")


if __name__ == "__main__":
    main()
