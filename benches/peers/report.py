#!/usr/bin/env python3
"""Writes the tables of what compare.py measured into a Markdown file, between `<!-- NAME -->` and `<!-- /NAME -->`.

    benches/peers/report.py peers.json docs/performance.md
"""

import json
import re
import sys

from targets import OWN, TARGETS, best_peer, median, medians

UNITS = {"first": "s", "rss": "MB"}


def main():
    with open(sys.argv[1]) as file:
        report = json.load(file)
    tables = {"machine": machine(report), "limits": limits(report), "targets": targets(report), "floors": floors(report), "engines": engines(report)}
    with open(sys.argv[2]) as file:
        text = file.read()
    for name, table in tables.items():
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not between.search(text):
            sys.exit(f"{sys.argv[2]} has no place for the table `{name}`")
        text = between.sub(lambda found: found[1] + table + "\n" + found[2], text)
    with open(sys.argv[2], "w") as file:
        file.write(text)


def markdown(heads, rows, right):
    """A table whose columns from number `right` on are aligned to the right."""
    rule = ["---" if i < right else "---:" for i in range(len(heads))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [heads, rule, *rows])


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def machine(report):
    m, runs = report["machine"], report.get("runs", 1)
    of = "one run of" if runs == 1 else f"{runs} runs, together"
    return (f"{m['cpu']} (family {m['family']}, model {m['model']}), {m['threads']} threads, {m['memory_gib']} GiB, Linux {m['kernel']}; "
            f"{', '.join(m['flags'])}. Measured on {report['date']}, in {of} {report['minutes']:.0f} minutes.")


def limits(report):
    if not report["limits"]:
        return "not measured in this run"
    rows = [[limit["name"], number(limit["1"]), number(limit["all"]), limit["unit"]] for limit in report["limits"]["limits"].values()]
    return markdown(["limit", "1 thread", f"{report['limits']['threads']} threads", ""], rows, 1)


def targets(report):
    found, rows = medians(report), []
    for what, model, test, asked, less in TARGETS:
        values = found.get((model, test), {})
        if OWN not in values or len(values) < 2:
            continue
        name, peer = best_peer(values, less)
        ratio = values[OWN] / peer
        met = ratio <= asked if less else ratio >= asked
        unit = UNITS.get(test, "tokens/s")
        rows.append([what, model, f"{number(values[OWN])} {unit}", f"{number(peer)} ({name})", f"{'≤' if less else '≥'} {asked}",
                     f"**{ratio:.2f}**" if met else f"{ratio:.2f}", "yes" if met else "**no**"])
    return markdown(["work", "weights", "nxd", "best peer", "asked", "ratio", "met"], rows, 2)


def floors(report):
    """What a step must at least take by the limits of the same run: its bytes, or its operations: products, and attention in f32."""
    if not report["limits"] or not report.get("models"):
        return "not measured in this run"
    limit = {key: value["all"] for key, value in report["limits"]["limits"].items()}
    found, rows = medians(report), []
    best = lambda *keys: max(limit[key] for key in keys if key in limit)
    floats = best("f32_avx2", "f32_avx512", "f32_neon")
    # What an exact product needs besides dot products is counted where that was measured; floats of 16 bits are multiplied as integers.
    exact = lambda *keys: next((limit[key] for key in keys if key in limit), None)
    words = exact("int16_exact_avx512", "int16_exact_avx2") or floats
    # AVX2 multiplies integers of 8 bits more slowly than those of fewer, as sums of two products fill 16 bits.
    integers = exact("int8_exact_avx512", "int8_exact_avx2") or best("int8_avx2", "int8_avx512", "int8_neon_dot", "int8_neon_i16")
    of_bytes = exact("int8_exact_avx512", "int8_signed_exact_avx2") or integers
    # Fewer rows than these do not fill the tiles of AMX.
    tiles = limit.get("int8_exact_amx")
    of = {"Q8_0": (5, of_bytes)}

    def quantised(name, rows):
        tiled_from, untiled = of.get(name, (12, integers))
        return tiles if tiles and rows >= tiled_from else untiled

    peak = lambda name, facts, rows: words if facts["floats"] else quantised(name, rows)
    for model, facts in report["models"].items():
        # Vectors of floats beside quantised matrices are not multiplied.
        stored = {name: count for name, count in facts["parameters"].items() if facts["floats"] or name.startswith(("Q", "IQ"))}
        # The head is stored as some matrices that have as many parameters; of such, as the fewest have. Among floats it is not counted.
        head = facts["head_parameters"]
        of_head = min((name for name in stored if stored[name] >= head), key=stored.get, default=None)
        # How many tokens each row attends to, on average over the test.
        for test, rows_of_step, attended in (("tg128", 1, 64), ("batch8", 8, 160), ("batch32", 32, 160), ("pp512", 512, 256)):
            reached = found.get((model, test), {}).get(OWN)
            if reached is None:
                continue
            operations = {name: 2 * count * rows_of_step for name, count in stored.items()}
            if test == "pp512" and of_head:
                # A prompt needs the head for one row, a decode step for each.
                operations[of_head] -= 2 * head * (rows_of_step - 1)
            attention = facts.get("attention", 0) * rows_of_step * attended
            arithmetic = (sum(count / peak(name, facts, rows_of_step) for name, count in operations.items()) + attention / floats) / 1e9
            operations = sum(operations.values()) + attention
            step = rows_of_step / reached
            # Of what memory gave right after each run, where that was measured: on a shared machine it changes from second to second.
            share = found.get((model, f"{test} memory"), {}).get(OWN)
            memory = facts["weights_bytes"] / limit["memory_read"] / 1e9 if share is None else share * step
            rows.append([model, test, f"{facts['weights_bytes'] / 1e6:.0f}", f"{operations / 1e9:.2f}", f"{memory * 1e3:.2f}", f"{arithmetic * 1e3:.2f}",
                         f"{step * 1e3:.2f}", f"{max(memory, arithmetic) / step:.0%}"])
    heads = ["weights", "step", "MB read", "Gop", "ms by memory", "ms by arithmetic", "ms reached", "floor / reached"]
    return markdown(heads, rows, 2)


def engines(report):
    rows = []
    shown = [row for row in report["samples"] if not row["test"].endswith(" memory")]
    for row in sorted(shown, key=lambda r: (r["model"], r["test"], r["threads"], r["engine"] != OWN, r["engine"])):
        values = [value for value, _ in row["samples"]]
        spread = f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else ""
        rows.append([row["model"], row["test"], row["threads"], row["engine"], number(median(row["samples"])), spread, len(values)])
    return markdown(["weights", "test", "threads", "engine", "median", "from, to", "runs"], rows, 4)


if __name__ == "__main__":
    main()
