"""``fingpt-lora chat``: a prompt on a terminal, or a line in and a line out where the input is piped."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.text import Text

from fingpt_lora.errors import FingptLoraError, RunError, did_you_mean

if TYPE_CHECKING:
    from fingpt_lora.chat import Chat

_COMMANDS = {
    "/raw": "TEXT     talk freely with the model, which remembers what was said",
    "/system": "TEXT  the system message of free talk; without TEXT, the model's own",
    "/use": "NAME     ask another run; without NAME, list them",
    "/base": "TEXT    the answer beside that of the untouched base",
    "/clear": "       forget what was said in free talk",
    "/help": "        this list",
    "/quit": "        leave, as Ctrl-D does; Ctrl-C stops an answer",
}


def converse(chat: Chat, read: Callable[[str], str], console: Console) -> None:
    """Answer what a person types until they leave. A mistake, or Ctrl-C, ends an answer and not the session.

    Args:
        chat: open runs.
        read: shows a prompt and returns a line; EOFError leaves.
        console: where answers go.
    """
    console.print(f"{chat!r}: a line is asked about; /help lists commands, Ctrl-D leaves.", style="dim", markup=False)
    while True:
        try:
            line = read(f"{chat.name}> ").strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\nCtrl-D leaves.", style="dim")
            continue
        if line == "/quit":
            return
        try:
            # Free talk is shown as it comes; what else there is to say, when it is whole.
            answer = _answer(chat, line, lambda piece: console.out(piece, end="", highlight=False))
            if answer is not None:
                console.print(answer)
        except KeyboardInterrupt:
            console.print("\nStopped.", style="dim")
        except FingptLoraError as error:
            console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def answer_lines(chat: Chat, lines: Iterable[str], output: TextIO) -> None:
    """Write one line per line that is read; commands count, and of an empty line the answer is empty.

    Raises:
        FingptLoraError: a line cannot be answered; those before it are.
    """
    for line in map(str.strip, lines):
        if line == "/quit":
            return
        answer = _answer(chat, line, None)
        output.write(" ".join(str("" if answer is None else answer).split()) + "\n")
        output.flush()


def chat_here(chat: Chat) -> None:
    """Talk with whoever is at standard input: a person, or a pipe."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (lets input() edit and recall lines)
        converse(chat, input, Console())
    else:
        answer_lines(chat, sys.stdin, sys.stdout)


def _answer(chat: Chat, line: str, show: Callable[[str], object] | None) -> Any:
    """Carry out a line and return what there is to print, or None.

    Args:
        chat: open runs.
        line: a command, or a text to ask about.
        show: where free talk goes as it comes; without, it is returned.
    """
    command, _, text = line.partition(" ")
    text = text.strip()
    if not line:
        return None
    # A headline may begin with a slash; a command is a slash and a word.
    if not (command.startswith("/") and command[1:].isalpha()):
        return chat(line)
    if command not in _COMMANDS:
        raise RunError(f"There is no command {command}.{did_you_mean(command, _COMMANDS)}")
    if command in ("/raw", "/base") and not text:
        raise RunError(f"{command} needs a text: {command} TEXT.")
    if command == "/raw":
        spoken = chat.raw(text, show)
        if show is None:
            return spoken
        return Text("") if spoken.ended else Text(f" … (cut at {chat.max_new_tokens} tokens)", style="dim")
    if command == "/base":
        return chat.base(text)
    if command == "/use" and text:
        chat.use(text)
    elif command == "/use":
        return Text(", ".join(chat.names))
    elif command == "/system":
        chat.system = text or None
    elif command == "/clear":
        chat.clear()
    else:
        return Text("\n".join(f"{name:8} {what}" for name, what in _COMMANDS.items()))
    return None
