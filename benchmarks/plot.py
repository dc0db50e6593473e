"""A bar chart as SVG: for each workload and scenario how long one builder takes in terms of another."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BAR, GAP, GROUP_GAP, LEFT, WIDTH, TOP = 14, 3, 14, 130, 520, 46
COLOURS = ("#3b6ea5", "#7aa6c2", "#c7d7e2")
LARGEST = 2.0
"""Ratios above are drawn to here; the number beside tells the truth."""


def ratio_chart(title: str, ratios: Mapping[str, Mapping[str, float]], wanted: Sequence[float] = ()) -> str:
    """Draw `ratios` (by group, then by bar), smaller being better; `wanted` are marked by lines."""
    series = list(next(iter(ratios.values())))
    group = len(series) * (BAR + GAP) + GROUP_GAP
    height = TOP + len(ratios) * group + 24
    size = f'width="{LEFT + WIDTH + 60}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="12" y="18" font-size="14" font-weight="bold">{title}</text>',
        *_legend(series),
    ]
    for mark in (*wanted, 1.0):
        x = _x(mark)
        dash = "" if mark == 1.0 else ' stroke-dasharray="4 3"'
        parts.append(f'<line x1="{x}" y1="{TOP - 8}" x2="{x}" y2="{height - 22}" stroke="#999"{dash}/>')
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="middle" fill="#555">{mark:g}</text>')
    for row, (name, values) in enumerate(ratios.items()):
        y = TOP + row * group
        parts.append(f'<text x="{LEFT - 8}" y="{y + BAR}" text-anchor="end">{name}</text>')
        for place, bar in enumerate(series):
            parts += _bar(y + place * (BAR + GAP), values[bar], COLOURS[place % len(COLOURS)])
    return "\n".join([*parts, "</svg>", ""])


def _legend(series: Sequence[str]) -> list[str]:
    parts = []
    for place, name in enumerate(series):
        x = LEFT + place * 110
        parts.append(f'<rect x="{x}" y="26" width="10" height="10" fill="{COLOURS[place % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 15}" y="35">{name}</text>')
    return parts


def _bar(y: int, value: float, colour: str) -> list[str]:
    width = _x(value) - LEFT
    return [
        f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{colour}"/>',
        f'<text x="{LEFT + width + 5}" y="{y + BAR - 3}">{value:.2f}</text>',
    ]


def _x(value: float) -> int:
    return LEFT + round(min(value, LARGEST) / LARGEST * WIDTH)
