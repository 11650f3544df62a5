"""A picture of a table of times, as SVG: one group of bars for each file and model, drawn against the limit."""

from __future__ import annotations

from html import escape
from itertools import groupby

WIDTH, LABEL, BAR, GAP = 860, 300, 18, 34
COLOURS = {"limit": "#9aa0a6", "torchgraft": "#1a73e8"}
OTHER = "#e8a33d"
INTO = {
    "model": "loaded into a model",
    "meta": "loaded into a model on meta",
    "build": "constructed and loaded",
    "tenth": "a tenth of it loaded",
    "joined": "loaded with q, k, v and gate, up joined",
    "float32": "loaded into a float32 model",
}


def bars(rows):
    """Return the SVG text of `rows` with the keys model, MiB, file, into, way, wall_s, to_limit and peak_MiB."""
    parts, y = [], 10
    most = 0.0
    groups = [list(found) for _, found in groupby(rows, key=lambda r: (r["model"], r["file"], r["into"]))]
    for group in groups:
        most = max(r["wall_s"] for r in group)
        first = group[0]
        what = INTO[first["into"]]
        y += GAP - BAR
        parts.append(text(8, y, f"{first['model']}, {first['MiB']} MiB, {first['file']}: {what}", bold=True))
        y += 8
        for line in group:
            long = (WIDTH - LABEL - 250) * line["wall_s"] / most
            colour = next((c for start, c in COLOURS.items() if line["way"].startswith(start)), OTHER)
            parts.append(text(24, y + 13, line["way"]))
            parts.append(f'<rect x="{LABEL}" y="{y}" width="{long:.1f}" height="{BAR - 4}" fill="{colour}"/>')
            said = (
                f"{1000 * line['wall_s']:.0f} ms, {line['to_limit']:.1f} x limit, +{max(line['peak_MiB'], 0):.0f} MiB"
            )
            parts.append(text(LABEL + long + 6, y + 12, said))
            y += BAR
    y += 12
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def text(x, y, words, *, bold=False):
    """Return one line of text."""
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.0f}" y="{y:.0f}"{weight}>{escape(words)}</text>'
