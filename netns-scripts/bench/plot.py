#!/usr/bin/env python3
"""netns-scripts/bench/plot.py: bench.sh's rows as a picture: TCP of one stream, by underlay and contender.

    plot.py FILE... > throughput.svg

Each bar is a median, the line through its end reaches from the least round to the most. The cable without a tunnel is left
out: it would make the others hard to read.
"""

import json
import statistics
import sys

KEY = "tcp1_gbps"
LEFT, WIDTH, BAR, GAP, HEAD = 150, 440, 18, 26, 34
COLOURS = {"ours": "#2f6f8f", "ours-chacha20": "#7fb0c6"}
OTHER = "#b9b9b9"


def main():
    rows = [json.loads(line) for file in sys.argv[1:] for line in open(file)]
    rows = [row for row in rows if KEY in row and row["name"] != "bare" and row["loss"] == row["rate"] == "0"]
    most = max(row[KEY] for row in rows)
    parts, y = [], HEAD
    for under in dict.fromkeys(row["under"] for row in rows):
        parts.append(text(8, y + 4, under, "bold"))
        y += GAP - 8
        for name in dict.fromkeys(row["name"] for row in rows if row["under"] == under):
            parts += bar(y, name, [row[KEY] for row in rows if (row["under"], row["name"]) == (under, name)], most)
            y += BAR + 4
        y += GAP - 12
    print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 90}" height="{y}" font-family="sans-serif" font-size="12">')
    print('<rect width="100%" height="100%" fill="white"/>')
    print(text(8, 16, "TCP, one stream, Gbit/s: median and range", "bold"))
    print("\n".join(parts))
    print("</svg>")


def bar(y, name, values, most):
    def at(value):
        return LEFT + value / most * WIDTH

    middle = statistics.median(values)
    centre = y + BAR / 2
    return [
        text(16, y + BAR - 5, name),
        f'<rect x="{LEFT}" y="{y}" width="{at(middle) - LEFT:.1f}" height="{BAR}" fill="{COLOURS.get(name, OTHER)}"/>',
        f'<line x1="{at(min(values)):.1f}" x2="{at(max(values)):.1f}" y1="{centre}" y2="{centre}" stroke="black"/>',
        text(at(max(values)) + 6, y + BAR - 5, f"{middle:.2f}"),
    ]


def text(x, y, words, weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-weight="{weight}">{words}</text>'


if __name__ == "__main__":
    main()
