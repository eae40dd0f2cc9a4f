#!/usr/bin/env python3
"""Draws what compare.py measured: decode, prompt, sequences at once, and depth. Needs matplotlib.

    benches/peers/plot.py peers.json docs/performance.svg
"""

import json
import re
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from targets import OWN, medians

FAMILIES = [("nxd", "#1b6ac9"), ("llama.cpp", "#c9731b"), ("ik_llama.cpp", "#7a8b99")]


def main():
    with open(sys.argv[1]) as file:
        report = json.load(file)
    found = by_family(medians(report))
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "nxd", "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4))
    bars(axes[0][0], found, "tg128", "decode, one sequence")
    bars(axes[0][1], found, "pp512", "prompt of 512 tokens")
    lines(axes[1][0], found, r"batch(\d+)", 1, "decode of several sequences at once, all together", "sequences")
    lines(axes[1][1], found, r"tg32@d(\d+)", 0, "decode behind a context", "tokens of context")
    axes[0][0].legend(frameon=False)
    figure.suptitle(f"tokens a second, 2 threads, best mode of each peer, {report['date']}; {report['machine']['cpu']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


def by_family(found):
    """{(model, test): {family: best value of its modes}}"""
    best = {}
    for key, engines in found.items():
        for name, value in engines.items():
            family = name.split(" ")[0]
            held = best.setdefault(key, {})
            held[family] = max(value, held.get(family, 0))
    return best


def bars(axis, found, test, title):
    models = [model for model in ("F16", "Q8_0", "Q4_0", "Q4_1", "gemma") if (model, test) in found]
    for i, (family, colour) in enumerate(FAMILIES):
        values = [found[(model, test)].get(family, 0) for model in models]
        axis.bar([x + (i - 1) * 0.27 for x in range(len(models))], values, 0.25, color=colour, label=family)
    axis.set_xticks(range(len(models)), ["Gemma 3 270M\nQ4_K_M" if model == "gemma" else model for model in models])
    axis.set_title(title, loc="left", fontsize=9)


def lines(axis, found, pattern, first, title, label):
    """What `pattern` counts, from `first` on, which is the decode of one sequence from an empty context."""
    for family, colour in FAMILIES:
        for model, style in (("Q8_0", "-"), ("Q4_1", "--")):
            named = {test: int(m[1]) for of, test in found if of == model and (m := re.fullmatch(pattern, test))}
            named["tg128"] = first
            points = sorted((x, found[(model, test)][family]) for test, x in named.items() if family in found.get((model, test), {}))
            if len(points) > 1:
                axis.plot(*zip(*points), style, color=colour, marker="o", markersize=3, label=f"{family} {model}")
    axis.set_title(title, loc="left", fontsize=9)
    axis.set_xlabel(label)
    # Room for the legend above the lines.
    axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    axis.legend(frameon=False, fontsize=7, loc="upper center", ncols=3)


if __name__ == "__main__":
    sys.exit(main())
