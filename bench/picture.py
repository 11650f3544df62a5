"""Pictures of tables of times, as SVG: bars for each file and model, drawn against the limit, and curves of growth."""

from __future__ import annotations

from html import escape
from itertools import groupby
from math import ceil, floor, log10

WIDTH, LABEL, BAR, GAP = 860, 300, 18, 34
COLOURS = {"limit": "#9aa0a6", "torchgraft": "#1a73e8"}
OTHER = "#e8a33d"
INTO = {
    "model": "loaded into a model",
    "meta": "loaded into a model on meta",
    "build": "constructed and loaded",
    "tenth": "a tenth of it loaded",
    "joined": "loaded with q, k, v and gate, up joined",
    "parted": "loaded with q, k, v and gate, up parted",
    "float32": "loaded into a float32 model",
    "float16": "loaded into a float16 model",
    "busy": "loaded while every core is busy",
    "stripped": "100,000 tensors, loaded, a prefix stripped",
    "header": "names and shapes of 100,000 tensors",
    "renamed": "100,000 tensors, planned, other names throughout",
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
            ratio = f", {line['to_limit']:.1f} x limit" if line["to_limit"] else ""
            said = f"{1000 * line['wall_s']:.0f} ms{ratio}, +{max(line['peak_MiB'], 0):.0f} MiB"
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


LINES = ("#e8a33d", "#1a73e8", "#c5621b", "#0b3d91", "#34a853")


def curves(rows):
    """Return the SVG text of seconds by number of tensors, both in powers of ten, of `rows` with the keys way, tensors, cpu_s."""
    width, high, left = 520, 330, 60
    counts, times = [r["tensors"] for r in rows], [r["cpu_s"] for r in rows]
    low, top = floor(log10(min(times))), ceil(log10(max(times)))
    first, last = log10(min(counts)), log10(max(counts))

    def place(count, seconds):
        x = left + (width - left) * (log10(count) - first) / ((last - first) or 1)
        return x, 10 + (high - 40) * (top - log10(seconds)) / (top - low)

    parts = []
    for power in range(low, top + 1):
        y = place(min(counts), 10.0**power)[1]
        parts.append(f'<path d="M{left} {y:.0f}H{width}" stroke="#dadce0"/>')
        parts.append(text(8, y + 4, f"{10.0**power:g} s"))
    parts += [text(place(count, 10.0**low)[0] - 16, high - 12, f"{count:,}") for count in sorted(set(counts))]
    found = {way: list(group) for way, group in groupby(sorted(rows, key=lambda r: r["way"]), key=lambda r: r["way"])}
    for number, (way, group) in enumerate(found.items()):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(r["tensors"], r["cpu_s"]) for r in group))
        colour = LINES[number % len(LINES)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = 30 + 20 * number
        parts.append(f'<path d="M{width + 24} {y - 4}h20" stroke="{colour}" stroke-width="3"/>')
        parts.append(text(width + 50, y, f"{way}: {group[-1]['cpu_s']:.1f} s"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {high}" width="{WIDTH}" height="{high}" '
        'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
