#!/usr/bin/env python3
"""Measures nxd and its peers side by side on one machine, and writes one JSON file.

    cargo build --release -p nxd-cli && cargo build --profile bench -p nxd-benches --bench limits
    benches/peers/compare.py --llama-cpp DIR --ik-llama-cpp DIR --gguf DIR --limits FILE --out peers.json
    benches/peers/report.py peers.json docs/performance.md
    benches/peers/plot.py peers.json docs/performance.svg

The first two folders hold the peers' programs, built for this machine as their own documents say (`llama-bench`, `llama-batched-bench`,
and the ones that complete a prompt); the third one holds the model files (`docs/performance.md` lists them).

A shared machine drifts, so engines take turns: within a repetition all engines do one test of one model one after the other, each in a
process of its own, and the order turns round in the next repetition. Only figures of one file are comparable.

Two virtual processors may at times be two hyperthreads of one core, which halves all that two threads compute. So a probe (two threads
that count, against one) runs before and after every measurement with several threads: where it finds less than 1.6 cores the
measurement waits for better times, and one that had no better times is marked and left out where at least two good ones exist.

Every mode of a peer takes part in the first repetition; later ones take those that came within 15 % of the best peer's.
"""

import argparse
import datetime
import json
import multiprocessing
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time

from engines import Failed, engines, run

SMALL = "SmolLM2-135M-Instruct.{}.gguf"
# What the tables of docs/performance.md show, model by model.
TESTS = {
    "Q8_0": ["pp512", "tg128", "tg32@d512", "tg32@d1024", "tg32@d2048", "batch2", "batch4", "batch8", "batch16", "batch32", "first"],
    "Q4_1": ["pp512", "tg128", "tg32@d2048", "batch8", "batch32", "first"],
    "Q4_0": ["pp512", "tg128", "batch8", "batch32", "first"],
    "F16": ["pp512", "tg128", "batch8", "batch32", "first"],
    "gemma": ["pp512", "tg128", "first"],
    "BF16": ["pp512", "tg128"],
    "Q4_K_M": ["pp512", "tg128"],
}
DEFAULT_MODELS = "Q8_0,Q4_1,Q4_0,F16,gemma"
BUSY = "tg64 beside a busy loop"
ENOUGH_CORES = 1.6
NEAR_THE_BEST = 0.85


def main():
    options = arguments()
    # An end from outside ends what runs, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    nxd = options.nxd or os.path.join(root, "target/release/nxd")
    # Absolute, as programs run in a folder of their own.
    everyone = engines(*map(os.path.abspath, (nxd, options.llama_cpp, options.ik_llama_cpp)))
    missing = [engine.name for engine in everyone if not engine.built()]
    if missing:
        sys.exit(f"programs are missing of: {', '.join(missing)}; give the folders that hold them (--help)")
    for model in options.models:
        if not os.path.exists(file_of(options, model)):
            sys.exit(f"{file_of(options, model)} is missing; docs/performance.md says which files are measured")
    report = Report(options)
    if options.limits:
        report.limits = json.loads(run([os.path.abspath(options.limits), "--bench", "--json"])[0])
    report.models.update({model: everyone[0].facts(file_of(options, model)) for model in options.models})
    for repetition in range(options.repeat):
        for model in options.models:
            for test in chosen(options, model):
                for threads in options.threads:
                    turn(options, report, everyone, (model, test, threads), repetition)
                report.write()
        if options.busy:
            busy(options, report, everyone)
            report.write()
    return 1 if report.errors else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nxd", metavar="FILE", help="default: target/release/nxd")
    parser.add_argument("--limits", metavar="FILE", help="the built bench `limits`, run first for the limits of the machine")
    parser.add_argument("--llama-cpp", required=True, metavar="DIR", help="programs of llama.cpp")
    parser.add_argument("--ik-llama-cpp", required=True, metavar="DIR", help="programs of ik_llama.cpp")
    parser.add_argument("--gguf", required=True, metavar="DIR", help="model files")
    parser.add_argument("--models", default=DEFAULT_MODELS, type=lambda s: s.split(","), metavar="A,B",
                        help=f"of {','.join(TESTS)}; default {DEFAULT_MODELS}")
    parser.add_argument("--tests", type=lambda s: s.split(","), metavar="A,B", help="only these tests")
    parser.add_argument("--only", type=re.compile, metavar="REGEX", help="only engines whose name holds this")
    parser.add_argument("--threads", default=[2], type=lambda s: [int(n) for n in s.split(",")], metavar="N,M")
    parser.add_argument("--repeat", default=3, type=int, metavar="N")
    parser.add_argument("--patience", default=20, type=float, metavar="S", help="longest wait for all cores before a measurement")
    parser.add_argument("--no-busy", dest="busy", action="store_false", help="leave out the test beside a busy loop")
    parser.add_argument("--merge", action="store_true", help="add to what --out holds already, instead of starting anew")
    parser.add_argument("--out", default="peers.json", metavar="FILE")
    return parser.parse_args()


def file_of(options, model):
    return os.path.join(os.path.abspath(options.gguf), "gemma-3-270m-q4_k_m.gguf" if model == "gemma" else SMALL.format(model))


def chosen(options, model):
    return [test for test in TESTS[model] if options.tests is None or test in options.tests]


def turn(options, report, everyone, key, repetition):
    """Every engine does one test once."""
    model, test, threads = key
    taking_part = [e for e in everyone if (not options.only or options.only.search(e.name)) and report.worth(key, e)]
    for engine in taking_part if repetition % 2 == 0 else reversed(taking_part):
        if test == "first" and engine.peer and not engine.starts:
            continue
        measure(options, report, key, engine, lambda e=engine: e.measure(test, file_of(options, model), threads))


def busy(options, report, everyone):
    """Generation with one endless loop beside it, on as many threads as there are, and on one."""
    for threads in (max(options.threads), 1):
        for engine in everyone:
            if engine.name not in ("nxd", "llama.cpp", "ik_llama.cpp") or (options.only and not options.only.search(engine.name)):
                continue
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                key = ("Q8_0", BUSY, threads)
                measure(options, report, key, engine, lambda e=engine: e.measure("tg64", file_of(options, "Q8_0"), threads), False)
            finally:
                loop.kill()
                loop.wait()


def measure(options, report, key, engine, work, probing=True):
    probing = probing and key[2] > 1
    before = wait_for_cores(options.patience) if probing else None
    try:
        values = work()
    except (Failed, OSError, ValueError, LookupError) as error:
        report.errors.append(f"{engine.name}, {key}: {error}")
        print(f"{engine.name} {key}: {error}", file=sys.stderr)
        return
    after = cores() if probing else None
    good = not probing or min(before, after) >= ENOUGH_CORES
    for test, value in values.items():
        # What was measured beside the busy loop is called by its own name.
        name = test.replace(parts_of(test), BUSY) if key[1] == BUSY else test
        report.add((key[0], name, key[2]), engine.name, value, good)
        shown = f"{value:.4g}{'' if good else '  (cores shared)'}"
        print(f"{key[0]:8} {name:24} {key[2]:2}t {engine.name:22} {shown}", file=sys.stderr, flush=True)


def parts_of(test):
    """A test's name without what is added to it."""
    return test.split(" ")[0]


def count(seconds, out):
    """Loops done a second."""
    end, done = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        for _ in range(1000):
            done += 1
    out.put(done / seconds)


def cores():
    """How many cores two threads have, by what they get done against one."""
    def together(number):
        out = multiprocessing.SimpleQueue()
        children = [multiprocessing.Process(target=count, args=(0.12, out)) for _ in range(number)]
        for child in children:
            child.start()
        total = sum(out.get() for _ in children)
        for child in children:
            child.join()
        return total
    return round(together(2) / together(1), 2)


def wait_for_cores(patience):
    start = time.perf_counter()
    while True:
        found = cores()
        if found >= ENOUGH_CORES or time.perf_counter() - start > patience:
            return found
        time.sleep(1)


class Report:
    """All measurements so far."""

    def __init__(self, options):
        self.options, self.raw, self.errors, self.limits, self.start = options, {}, [], None, time.time()
        self.models, self.runs = {}, 1
        if options.merge and os.path.exists(options.out):
            with open(options.out) as file:
                held = json.load(file)
            self.limits, self.errors = held["limits"], held["errors"]
            self.models = held["models"]
            self.start -= 60 * held["minutes"]
            self.runs += held.get("runs", 1)
            for row in held["samples"]:
                key = (row["model"], row["test"], row["threads"])
                self.raw.setdefault(key, {})[row["engine"]] = [tuple(sample) for sample in row["samples"]]

    def add(self, key, engine, value, good):
        self.raw.setdefault(key, {}).setdefault(engine, []).append((value, good))

    def worth(self, key, engine):
        """Whether a mode of a peer may still be the best."""
        held = self.raw.get(key, {})
        if not engine.peer or engine.name not in held or key[1] == "first":
            return True
        best = max(self.value(samples) for name, samples in held.items() if name != "nxd")
        return self.value(held[engine.name]) >= NEAR_THE_BEST * best

    def value(self, samples):
        good = [value for value, ok in samples if ok]
        return statistics.median(good if len(good) >= 2 else [value for value, _ in samples])

    def write(self):
        samples = [
            {"model": model, "test": test, "threads": threads, "engine": engine, "samples": values}
            for (model, test, threads), engines in sorted(self.raw.items()) for engine, values in engines.items()
        ]
        whole = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "minutes": round((time.time() - self.start) / 60, 1),
            "runs": self.runs,
            "limits": self.limits,
            "models": self.models,
            "file_bytes": {model: os.path.getsize(file_of(self.options, model)) for model in TESTS
                           if os.path.exists(file_of(self.options, model))},
            "samples": samples,
            "errors": self.errors,
        }
        with open(self.options.out, "w") as file:
            json.dump(whole, file, indent=1)
            file.write("\n")


def machine():
    with open("/proc/cpuinfo") as file:
        info = file.read()
    field = lambda name: (re.findall(rf"^{name}\s*: (.*)$", info, re.MULTILINE) or ["unknown"])[0]
    with open("/proc/meminfo") as file:
        memory = int(re.search(r"MemTotal:\s*(\d+)", file.read()).group(1))
    return {"cpu": field("model name"), "family": field("cpu family"), "model": field("model"), "threads": os.cpu_count(),
            "memory_gib": round(memory / 2**20), "kernel": platform.release(), "flags": sorted(set(field("flags").split()) & FLAGS)}


FLAGS = {"amx_int8", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx_vnni"}

if __name__ == "__main__":
    sys.exit(main())
