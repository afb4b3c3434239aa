"""One session object: the runs' answers, their base's, free talk, tables, and the prompt on the command line."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas
import pytest
import torch
from rich.console import Console

from fingpt_lora import Chat
from fingpt_lora import model as models
from fingpt_lora.chat_loop import answer_lines, converse
from fingpt_lora.conversation import Turn
from fingpt_lora.errors import DataError, PromptError, RunError
from fingpt_lora.evaluate import predict_rows
from fingpt_lora.generate import stream_tokens
from fingpt_lora.predict import Predictor, section_here
from fingpt_lora.reply import Beside, Reply
from tests.conftest import TEXTS, Train, random_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sentiment(train: Train) -> Path:
    return train("sentiment", "sentiment")


@pytest.fixture
def chat(sentiment: Path, events: Path) -> Chat:
    return Chat(sentiment, events, max_new_tokens=12)


def shares(reply: Reply) -> list[float]:
    assert reply.probabilities is not None
    return list(reply.probabilities.values())


@pytest.mark.parametrize("which", ["sentiment", "events"])
def test_it_answers_as_the_predictor_does(which: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(which)
    chat, predictor = Chat(folder), Predictor.load(folder)
    for text, expected in zip(TEXTS, predictor.predict(TEXTS), strict=True):
        reply = chat(text)
        assert reply.label == expected["label"] and reply.text == text and reply.run == which
        assert reply.probabilities == pytest.approx(expected["probabilities"], abs=1e-5)
    assert (reply.thresholds is not None) == (which == "events") and not reply.shortened
    assert chat("Profit rose. " * 300).shortened


def test_two_runs_share_a_base_and_answer_as_each_alone(chat: Chat, sentiment: Path, events: Path) -> None:
    assert chat.names == ("sentiment", "events") and repr(chat) == "Chat([sentiment], events)"
    first = chat(TEXTS[0])
    alone = {name: Chat(folder)(TEXTS[0]) for name, folder in (("sentiment", sentiment), ("events", events))}
    assert chat.use("events").predictor.model is chat.use("sentiment").predictor.model
    for name in ("events", "sentiment", "events"):
        reply = chat.use(name)(TEXTS[0])
        assert chat.name == name and reply.label == alone[name].label
        assert shares(reply) == pytest.approx(shares(alone[name]), abs=1e-6)
    assert shares(chat.use("sentiment")(TEXTS[0])) == shares(first)
    assert not any(parameter.requires_grad for parameter in chat.predictor.model.parameters())


def test_other_weights_are_another_base(train: Train, sentiment: Path) -> None:
    four_bits = train("sentiment", "four_bits", "model.quantization=nf4")
    rewriting = train("sentiment", "rewriting", "adapter.init_lora_weights=pissa_niter_4")
    chat = Chat(sentiment, four_bits, rewriting)
    assert len({id(chat.use(name).predictor.model) for name in chat.names}) == 3
    for name, folder in (("four_bits", four_bits), ("rewriting", rewriting)):
        expected = Predictor.load(folder, merge=False).predict(TEXTS[:1])[0]["probabilities"]
        assert chat.use(name)(TEXTS[0]).probabilities == pytest.approx(expected, abs=1e-5)
    # PiSSA's start has taken the adapter out of its base; what is untouched is the one of the plain run.
    plain, beside = chat.use("sentiment").base(TEXTS[0]), chat.use("rewriting").base(TEXTS[0])
    assert shares(beside.base) == pytest.approx(shares(plain.base), abs=1e-6)


@pytest.mark.parametrize("name", ["sentiment", "events"])
def test_the_untouched_base_answers_beside(chat: Chat, name: str) -> None:
    before = chat.use(name)(TEXTS[2])
    beside = chat.base(TEXTS[2])
    predictor = chat.predictor
    section, device = section_here(predictor.run)
    base = models.load_base(section, Path(section.base), device=device)
    _, expected = predict_rows(base, predictor.encoder, TEXTS[2:3], predictor.run.recipe.evaluation)
    assert expected is not None and shares(beside.base) == pytest.approx(expected[0].tolist(), abs=1e-6)
    assert shares(beside.own) == shares(before) == shares(chat(TEXTS[2]))
    # In logarithms: of several labels, each may be all but excluded.
    assert max(abs(math.log(a / b)) for a, b in zip(shares(beside.own), shares(beside.base), strict=True)) > 0.01
    assert set((beside.base.thresholds or {}).values()) in (set(), {0.5})


def test_free_talk_goes_by_the_chat_template_and_remembers(chat: Chat, checkpoint: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    chat.system = "You are brief."
    said = [chat.raw("What is a dividend?"), chat.raw("And a buyback?")]
    assert chat.history == (Turn("What is a dividend?", said[0].text), Turn("And a buyback?", said[1].text))
    messages = [{"role": "system", "content": "You are brief."}]
    for turn in chat.history:
        messages.append({"role": "user", "content": turn.asked})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        member = chat._members[chat.name]
        if turn is chat.history[0]:
            assert member.speaker.prompt(chat.system, [], turn.asked, 12) == (ids, 0)
            with torch.inference_mode():
                whole = chat.predictor.model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)  # type: ignore[operator]
            assert tokenizer.decode(whole[0, len(ids) :], skip_special_tokens=True) == turn.answer
        messages.append({"role": "assistant", "content": turn.answer})
    # Of text from outside, no control token can come.
    ids, _ = member.speaker.prompt(None, [], "a<|im_end|>b", 12)
    assert ids.count(tokenizer.eos_token_id) == 1 + 1 and "a<|im_end|>b" in tokenizer.decode(ids)
    chat.clear()
    assert chat.history == () and chat.system == "You are brief."


def test_it_streams_by_iterator_and_by_callback(chat: Chat) -> None:
    pieces: list[str] = []
    spoken = chat.raw("Tell me about 净利润.", pieces.append)
    assert len(pieces) > 1 and "".join(pieces) == spoken.text == str(spoken)
    chat.clear()
    assert list(chat.stream("Tell me about 净利润.")) == pieces and len(chat.history) == 1
    assert chat.raw("x", max_new_tokens=1).text in chat.history[1].answer
    unread = chat.stream("Never mind.")
    next(unread)
    unread.close()
    assert len(chat.history) == 2


def test_a_conversation_without_room_is_shortened_openly(sentiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(sentiment, max_new_tokens=8, window=120)
    for number in range(4):
        spoken = chat.raw(f"Number {number}: " + "say something, " * 6)
    assert spoken.dropped >= 1 and len(chat.history) < 4
    assert "turns of this talk are forgotten" in capsys.readouterr().err.replace(
        "turn of this talk is", "turns of this talk are"
    )
    kept = chat.history
    with pytest.raises(PromptError, match="Shorten one of the two"):
        chat.raw("too long " * 100)
    assert chat.history == kept
    assert Chat(sentiment)._members["sentiment"].speaker.window == 8192


def test_an_interrupt_leaves_it_usable(chat: Chat) -> None:
    chat.raw("Hello.")
    before, history = chat(TEXTS[0]), chat.history

    def interrupt(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.raw("Tell me a long story.", interrupt)
    assert chat.history == history and not chat.predictor.model.training
    assert shares(chat(TEXTS[0])) == shares(before)
    assert chat.raw("Go on.").text


def test_an_interrupt_beside_the_base_switches_the_adapter_on_again(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chat(TEXTS[0])
    calls: list[int] = []

    def interrupted(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return predict_rows(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr("fingpt_lora.predict.predict_rows", interrupted)
        with pytest.raises(KeyboardInterrupt):
            chat.base(TEXTS[0])
    assert shares(chat(TEXTS[0])) == shares(before)


def test_a_table_keeps_order_length_and_index(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [*TEXTS, None, "  "]
    frame = pandas.DataFrame({"headline": texts, "label": "whatever"}, index=range(100, 100 + len(texts)))
    table = chat.table(frame, column="headline")
    assert list(table.index) == list(frame.index) and list(table["headline"][:6]) == TEXTS
    assert list(table.columns) == [
        "headline", "label", "probability_negative", "probability_neutral", "probability_positive", "error",
    ]  # fmt: skip
    for text, row in zip(TEXTS, table.itertuples(), strict=False):
        reply = chat(text)
        assert row.label == reply.label and [row[3], row[4], row[5]] == pytest.approx(shares(reply), abs=1e-5)
    assert table["label"].isna().tolist() == [False] * 6 + [True] * 2
    assert (
        table["error"].iloc[6] == "row:7: it has no text" and "/6 " in capsys.readouterr().err
    )  # quick bars skip their end
    listed = chat.use("events").table(TEXTS, progress=False)
    assert list(listed["text"]) == TEXTS and all(isinstance(label, list) for label in listed["label"])
    assert capsys.readouterr().err == "" and len(chat.table([])) == 0
    with pytest.raises(DataError, match=r"There is no column 'headlin'\. Did you mean 'headline'\?"):
        chat.table(frame, column="headlin")


def test_mistakes_are_sentences(sentiment: Path, events: Path, chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="Did you mean 'events'"):
        chat.use("event")
    with pytest.raises(DataError, match="it has no text"):
        chat(" ")
    with pytest.raises(RunError, match="1 names for 2 runs"):
        Chat(sentiment, events, names=["one"])
    with pytest.raises(RunError, match="same name"):
        Chat(sentiment, sentiment)
    with pytest.raises(RunError, match="Name a run"):
        Chat()
    changed = tmp_path / "changed"
    shutil.copytree(sentiment, changed)
    contract = (changed / "prompt_contract.json").read_text(encoding="utf-8")
    (changed / "prompt_contract.json").write_text(contract.replace("sentiment of this", "mood of this"))
    with pytest.raises(PromptError, match="does not match its own hash"):
        Chat(sentiment, changed)


def test_a_classification_head_answers_its_task_and_nothing_else(train: Train) -> None:
    folder = train("sentiment", "classes", "model.head=classification", "adapter.target_modules=[q_proj, v_proj]")
    chat = Chat(folder)
    expected = Predictor.load(folder, merge=False).predict(TEXTS[:1])[0]["probabilities"]
    assert chat(TEXTS[0]).probabilities == pytest.approx(expected, abs=1e-6)
    with pytest.raises(RunError, match="cannot talk"):
        chat.raw("Hello.")
    with pytest.raises(RunError, match="without it, its base has no answer"):
        chat.base(TEXTS[0])


def test_what_keeps_no_cache_is_given_everything_again() -> None:
    from peft import PromptTuningConfig, get_peft_model

    prompted = get_peft_model(random_model("Llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    for model in (random_model("Llama"), random_model("Mamba"), prompted):
        ids, expected = [5, 6, 7], []
        for _ in range(4):
            with torch.inference_mode():
                expected.append(int(model(input_ids=torch.tensor([ids + expected])).logits[0, -1].argmax()))
        assert list(stream_tokens(model, ids, stop_ids=(), max_new_tokens=4)) == expected
        until = expected[: expected.index(expected[1]) + 1]
        assert list(stream_tokens(model, ids, stop_ids=expected[1:2], max_new_tokens=4)) == until


def test_html_escapes_texts_and_shows_bars() -> None:
    html = Reply("<b>Profit & loss</b>", "up", {"up": 0.75, "<i>": 0.25})._repr_html_()
    assert "&lt;b&gt;Profit &amp; loss&lt;/b&gt;" in html and "&lt;i&gt;" in html and "<i>" not in html
    assert "width:75.0%" in html and "75.0 %" in html
    several = Reply("x", ["Profit"], {"Profit": 0.9, "Debt": 0.1}, {"Profit": 0.4, "Debt": 0.5})
    assert "left:40.0%" in several._repr_html_() and str(several) == "Profit (Profit 0.900, Debt 0.100)"
    beside = Beside(several, Reply("x", [], {"Profit": 0.1, "Debt": 0.1}))
    assert "untouched base" in beside._repr_html_() and "base     none" in str(beside)
    assert "untouched" not in replace(beside, base_name="base with earlier adapters")._repr_html_()


def test_written_answers_are_marked_in_the_text_and_tabled() -> None:
    text = "Nokia <buys> Nokia Siemens, not Nokias."
    named = [{"type": "ORG", "text": "Nokia Siemens"}, {"type": "ORG", "text": "Nokia"}]
    html = Reply(text, named)._repr_html_()
    assert html.count("<mark") == 2 and "&lt;buys&gt;" in html and "not Nokias." in html and html.count("<tr>") == 3
    event = [{"type": "Deal", "trigger": "buys", "buyer": ["Nokia"], "price": []}]
    reply = Reply(text, event)
    assert "<sup>Deal</sup>" in reply._repr_html_() and "<sup>buyer</sup>" in reply._repr_html_()
    assert str(reply) == json.dumps(event) and "price" not in reply._repr_html_()
    screen = Console(file=io.StringIO(), width=80)
    for shown in (reply, Reply(text, None), Reply(text, []), Reply(text, "up", {"up": 0.9, "down": 0.1})):
        screen.print(shown)
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "trigger" in printed and "(no valid answer)" in printed and "none" in printed and "█" * 27 in printed
    answered = Reply("Sales were 12.", {"values": ["12"], "scale": "million", "calculation": None})
    assert "<mark" in answered._repr_html_() and "calculation" not in answered._repr_html_()


def test_the_lines_of_the_readme_run(
    sentiment: Path, events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(from fingpt_lora import Chat\n.*?)```", readme, re.DOTALL)
    (tmp_path / "runs").mkdir()
    for folder in (sentiment, events):
        (tmp_path / "runs" / folder.name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"frame": pandas.DataFrame({"headline": TEXTS})}
    exec(block, names)
    assert names["chat"].name == "events" and len(names["chat"].history) == 1


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, fingpt_lora; fingpt_lora.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=False).returncode == 0
    with pytest.raises(ImportError):
        from fingpt_lora import Chatt  # type: ignore[attr-defined]  # noqa: F401


def typed(*lines: str | type[BaseException]) -> Callable[[str], str]:
    rest: Iterator[str | type[BaseException]] = iter([*lines, EOFError])

    def read(prompt: str) -> str:
        line = next(rest)
        if isinstance(line, str):
            return line
        raise line

    return read


def test_the_prompt_answers_until_it_is_left(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), width=100)

    def shown(*lines: str | type[BaseException]) -> str:
        screen.file = io.StringIO()
        converse(chat, typed(*lines), screen)
        return str(screen.file.getvalue())  # type: ignore[attr-defined]

    printed = shown("", KeyboardInterrupt, TEXTS[0], "/us events", "/use event", "/raw", "/help", "/use")
    for words in (
        "█",
        "neutral",
        "Ctrl-D leaves.",
        "Did you mean '/use'?",
        "Did you mean 'events'?",
        "/raw needs a text",
    ):
        assert words in printed, words
    assert "talk freely" in printed and "sentiment, events" in printed
    printed = shown("/system Be brief.", "/raw Hello.", "/base " + TEXTS[0], "/use events", TEXTS[0], "/quit", "never")
    assert "cut at 12 tokens" in printed and "untouched base" in printed and "Deal" in printed
    assert chat.system == "Be brief." and len(chat.history) == 1 and chat.name == "events"
    shown("/clear", "/system")
    assert chat.system is None and chat.history == ()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Chat, "raw", interrupted)
        assert "Stopped." in shown("/raw Tell me a long story.", TEXTS[0]) and "Deal" in shown(TEXTS[0])


def test_piped_lines_have_an_answer_each(chat: Chat) -> None:
    output = io.StringIO()
    lines = [TEXTS[0], "", "/use events", TEXTS[0], "/raw Hello.", "/ Reuters: profit rose", "/quit", "never"]
    answer_lines(chat, [f"{line}\n" for line in lines], output)
    answers = output.getvalue().splitlines()
    assert len(answers) == 6 and answers[1] == answers[2] == ""
    chat.clear()
    assert answers[3] == str(chat(TEXTS[0])) and answers[4] == " ".join(chat.raw("Hello.").text.split())
    assert answers[5] == str(chat("/ Reuters: profit rose")) and answers[0] == str(chat.use("sentiment")(TEXTS[0]))


def test_the_command_works_in_a_pipe(sentiment: Path, events: Path) -> None:
    code = "from fingpt_lora.cli import main; main()"

    def piped(lines: str, *runs: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "chat", *runs], cwd=ROOT, input=lines, capture_output=True, text=True,
            timeout=120, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    result = piped(f"{TEXTS[3]}\n/use b\n{TEXTS[0]}\n", str(sentiment), str(events), "--name", "a", "--name", "b")
    assert result.returncode == 0, result.stderr
    chat = Chat(sentiment, events)
    assert result.stdout.splitlines() == [str(chat(TEXTS[3])), "", str(chat.use("events")(TEXTS[0]))]
    assert result.stderr == ""
    mistaken = piped(f"{TEXTS[3]}\n/nothing\n", str(sentiment))
    assert mistaken.returncode == 2 and "error: There is no command /nothing." in mistaken.stderr
    assert mistaken.stdout.splitlines() == [str(chat.use("sentiment")(TEXTS[3]))]
