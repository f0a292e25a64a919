"""Paper: figures that are written to a file whole, in one style."""

from __future__ import annotations

from typing import TYPE_CHECKING

from expirytrack_dagster.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UP, DOWN, QUIET = "#2e7d5b", "#b23a48", "#8a8f98"
"""Green, red and grey that stay apart for the colour-blind by their lightness."""
CALL, PUT = "#1f6fb2", "#c4622d"
_SUFFIXES = (".png", ".svg")
DOTS = 110


def check_file(target: Path, *, overwrite: bool) -> Path:
    """Return the file that a picture is written to.

    Raises:
        ConfigurationError: its name ends neither in .png nor in .svg, or it stands and may not be replaced.
    """
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(f"{target} is neither a .png nor a .svg file: name the picture by one of them.")
    if target.exists() and not overwrite:
        raise ConfigurationError(f"{target} exists: give --overwrite to replace it, or choose another name.")
    return target.absolute()


def sheet(width: float, height: float, dots: int = DOTS) -> Figure:
    """Return an empty figure, its size in inches of so many pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy, and seldom needed
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(width, height), dpi=dots, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, label: str) -> None:
    """Give axes the common look: a faint grid, no box, a label for what is up."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#e3e5e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel(label, fontsize=9)
    axes.tick_params(labelsize=8, length=3)


def save(figure: Figure, target: Path) -> None:
    """Write a figure in the place of the file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    part = target.with_name(f".{target.stem}.part{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part)
        part.replace(target)
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
