"""Drawing: the coverage of a cell and the violations of a check, as small PNG images.

Only drawing belongs here; what is drawn comes from `coverage` and `chain`, and how a picture is shown from the caller.
matplotlib is imported when something is drawn, and without pyplot: no display, no global state, safe in threads. A
picture is stored in Dagster's event log with each run, so it has few colours and stays below `MAX_BYTES`.
"""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from expirytrack_dagster.ist import IST
from expirytrack_dagster.quality.rules import number

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from expirytrack_dagster.quality.coverage import Coverage

MAX_BYTES = 36_000
"""Of a PNG; base64 makes 48 kB of it."""

_DPI = 80
_SIZES = ((64, 1.0), (16, 1.0), (16, 0.7), (8, 0.35))
"""Colours and scale of a picture, from the best to what always fits."""
_SHADES = 10
"""Of the map: with steps of ten per cent, a picture has a third of the bytes and its scale can be read."""
_LABELLED_DAYS, _LABELLED_STRIKES = 12, 30
_SIDES = {"CE": "calls", "PE": "puts"}


def coverage_map(coverage: Coverage, title: str) -> bytes | None:
    """Draw the share of session minutes that traded: days across, the future and the strikes down, calls beside puts.

    Returns:
        A PNG, or None where there is nothing to draw.
    """
    from matplotlib import colormaps  # noqa: PLC0415 - heavy, and seldom needed

    days = coverage.days
    if days.empty:
        return None
    # What never traded is left grey: it must not look like what traded now and then.
    share = 100 * days["traded"].where(days["traded"] > 0) / days["minutes"]
    table = days.assign(share=share)
    futures, options = table[table["instrument_type"] == "FUT"], table[table["instrument_type"] != "FUT"]
    strikes = np.sort(options["strike_price"].unique())
    dates = list(dict.fromkeys(days["day"]))
    figure = _figure(width=4.2 + min(len(dates), 60) * 0.12, height=min(3.0 + 0.09 * len(strikes), 9.0))
    axes = figure.subplots(1, 2, sharey=True)
    images, shades = [], colormaps["YlGn"].resampled(_SHADES)
    for side, (kind, name) in zip(axes, _SIDES.items(), strict=True):
        of_side = options[options["instrument_type"] == kind].pivot_table(
            index="strike_price", columns="day", values="share", dropna=False
        )
        rows = [of_side.reindex(index=strikes, columns=dates).to_numpy(dtype=float)]
        labels = [number(strike) for strike in strikes]
        if len(futures):
            top = futures.set_index("day")["share"].reindex(dates).to_numpy(dtype=float)
            thick = max(1, len(strikes) // 24)  # thinner than a line of pixels, it would not be seen
            rows.append(np.tile(top, (thick, 1)))
            labels += [""] * (thick // 2) + ["future"] + [""] * (thick - thick // 2 - 1)
        look = {"origin": "lower", "aspect": "auto", "cmap": shades, "interpolation": "nearest"}
        images.append(side.imshow(np.vstack(rows), vmin=0, vmax=100, **look))
        side.set_facecolor("lightgrey")
        side.set_title(f"{'future and ' if len(futures) else ''}{name}", fontsize=9)
        _label(side.set_xticks, [f"{day:%d %b}" for day in dates], _LABELLED_DAYS // 2, rotation=45)
        _label(side.set_yticks, labels, _LABELLED_STRIKES)
        side.tick_params(length=2)
    axes[0].set_ylabel("strike", fontsize=9)
    bar = figure.colorbar(images[0], ax=list(axes), fraction=0.04, pad=0.02)
    bar.set_label("% of the session's minutes that traded (grey: none)", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return png(figure)


def violations(spots: pd.DataFrame, title: str) -> bytes | None:
    """Draw where violations lie: days across, and within a day its minutes; strikes down.

    Args:
        spots: ts (datetime64[us, UTC]) and strike_price; rows without a strike are not drawn.
        title: above the picture.

    Returns:
        A PNG, or None where there is nothing to draw.
    """
    spots = spots[spots["strike_price"].notna()]
    if spots.empty:
        return None
    times = spots["ts"].dt.tz_convert(IST)
    day, days = pd.factorize(times.dt.date, sort=True)
    minute = (times.dt.hour * 60 + times.dt.minute).to_numpy()
    first, last = int(minute.min()), int(minute.max())
    figure = _figure(width=7.0, height=3.6)
    axes: Axes = figure.subplots()
    # Every day gets the same room, from the earliest to the latest minute with a finding.
    width = last - first + 1
    axes.scatter(day + (minute - first + 0.5) / width, spots["strike_price"], s=9, color="firebrick", linewidths=0)
    axes.set_xlim(0, len(days))
    for edge in range(1, len(days)):
        axes.axvline(edge, color="lightgrey", linewidth=0.6)
    step = -(-len(days) // _LABELLED_DAYS)
    shown = range(0, len(days), step)
    axes.set_xticks([each + 0.5 for each in shown], [f"{days[each]:%d %b}" for each in shown], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel(f"day, each from {_clock(first)} to {_clock(last)} IST", fontsize=8)
    axes.set_ylabel("strike", fontsize=8)
    axes.set_title(title, fontsize=10)
    return png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy, and seldom needed
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _label(set_ticks: Callable[..., object], labels: list[str], most: int, rotation: int = 0) -> None:
    """Label so many of the rows or columns that the text stays readable; one with a name of its own always."""
    step = -(-len(labels) // most)
    named = [at for at, label in enumerate(labels) if label and (at % step == 0 or not label[0].isdigit())]
    set_ticks(named, [labels[at] for at in named], fontsize=7, rotation=rotation)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def png(figure: Figure) -> bytes:
    """Return the picture with a palette, the colours reduced until it is small enough for the event log."""
    from PIL import Image  # noqa: PLC0415 - heavy, and seldom needed

    raw = BytesIO()
    figure.savefig(raw, format="png")
    picture = Image.open(raw).convert("RGB")
    for colours, scale in _SIZES:
        small = BytesIO()
        scaled = picture if scale == 1 else picture.resize((int(picture.width * scale), int(picture.height * scale)))
        # The method that covers most of the colours: the usual one drops a colour that only a few pixels have.
        reduced = scaled.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        reduced.save(small, "PNG", optimize=True)
        if small.tell() <= MAX_BYTES:
            break
    return small.getvalue()
