"""Rows from anywhere -> clean, split, audited rows. Imports neither torch nor pandas."""

from fingpt_lora.data.audit import Audit
from fingpt_lora.data.load import Splits, load_labelled, load_splits, rows_in_memory, stream_rows
from fingpt_lora.data.rows import BadRow, Row

__all__ = ["Audit", "BadRow", "Row", "Splits", "load_labelled", "load_splits", "rows_in_memory", "stream_rows"]
