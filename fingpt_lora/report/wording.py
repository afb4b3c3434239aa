"""How figures are written for people."""

from __future__ import annotations


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with a true minus sign, or a dash where there is none."""
    # Adding 0.0 turns a rounded -0.0 into 0.0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    """Return ``low to high``, or nothing where there is no interval."""
    return f"{number(bounds[0], digits)} to {number(bounds[1], digits)}" if bounds else ""


def percent(share: float, digits: int = 1) -> str:
    """Return a share as a percentage; the space before the sign does not break."""
    # The nudge rounds a half up, as it comes out for the same share in other columns.
    return f"{100 * share + 1e-9:.{digits}f}\u00a0%"


def points(difference: float) -> str:
    """Return a difference of shares in signed percentage points."""
    return f"{round(100 * difference, 1) + 0.0:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
