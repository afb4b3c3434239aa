"""fingpt_lora: from a YAML recipe to a financial LLM adapter you can trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fingpt_lora.chat import Chat
    from fingpt_lora.client import Client

__all__ = ["Chat", "Client", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for, so that ``check`` and ``--help`` answer at once."""
    if name in ("Chat", "Client"):
        from importlib import import_module

        from fingpt_lora.console import quiet

        with quiet():  # some libraries say on import what they lack
            return getattr(import_module(f"fingpt_lora.{name.lower()}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
