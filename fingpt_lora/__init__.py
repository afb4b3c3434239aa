"""fingpt_lora: from a YAML recipe to a financial LLM adapter you can trust."""

__version__ = "0.1.0"
