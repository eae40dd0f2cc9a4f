"""What docs/performance.md promises: tests, what they are called there, and the ratio to the best peer that is asked for."""

# (what, model, test, ratio, whether less is better)
TARGETS = [
    ("decode, one sequence", "F16", "tg128", 1.4, False),
    ("decode, one sequence", "Q8_0", "tg128", 1.6, False),
    ("decode, one sequence", "Q4_0", "tg128", 1.7, False),
    ("decode, one sequence", "Q4_1", "tg128", 2.0, False),
    ("prompt of 512", "F16", "pp512", 1.2, False),
    ("prompt of 512", "Q8_0", "pp512", 1.4, False),
    ("prompt of 512", "Q4_0", "pp512", 1.8, False),
    ("prompt of 512", "Q4_1", "pp512", 1.6, False),
    ("decode, 8 sequences", "F16", "batch8", 2.3, False),
    ("decode, 8 sequences", "Q8_0", "batch8", 2.3, False),
    ("decode, 8 sequences", "Q4_0", "batch8", 2.3, False),
    ("decode, 8 sequences", "Q4_1", "batch8", 2.8, False),
    ("decode, 32 sequences", "F16", "batch32", 2.3, False),
    ("decode, 32 sequences", "Q8_0", "batch32", 2.3, False),
    ("decode, 32 sequences", "Q4_0", "batch32", 2.3, False),
    ("decode, 32 sequences", "Q4_1", "batch32", 3.8, False),
    ("decode behind 2048 tokens", "Q8_0", "tg32@d2048", 1.9, False),
    ("decode, one sequence", "gemma", "tg128", 1.3, False),
    ("prompt of 512", "gemma", "pp512", 1.5, False),
    ("start to first token", "Q8_0", "first", 0.6, True),
    ("start to first token", "Q4_1", "first", 0.6, True),
    ("start to first token", "Q4_0", "first", 0.6, True),
    ("start to first token", "F16", "first", 0.6, True),
    ("start to first token", "gemma", "first", 0.6, True),
    ("peak memory", "Q8_0", "rss", 1.0, True),
    ("peak memory", "Q4_1", "rss", 1.0, True),
    ("peak memory", "Q4_0", "rss", 1.0, True),
    ("peak memory", "F16", "rss", 1.0, True),
    ("peak memory", "gemma", "rss", 1.0, True),
]

# Our program's name among the engines.
OWN = "nxd"


def median(samples):
    """Of the good samples where there are two, else of all."""
    good = sorted(value for value, ok in samples if ok)
    values = good if len(good) >= 2 else sorted(value for value, _ in samples)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def medians(report, threads=2):
    """{(model, test): {engine: median}} of a file that compare.py wrote."""
    found = {}
    for row in report["samples"]:
        if row["threads"] == threads:
            found.setdefault((row["model"], row["test"]), {})[row["engine"]] = median(row["samples"])
    return found


def best_peer(engines, less=False):
    """(name, value) of the best engine that is not ours."""
    peers = [(value, name) for name, value in engines.items() if name != OWN]
    value, name = min(peers) if less else max(peers)
    return name, value
