"""How each engine is asked for a number. An engine is one program in one mode; all answer the same tests:

  ppN      tokens a second of a prompt of N tokens
  tgN      tokens a second of generating N tokens from an empty context
  tgN@dM   the same behind a context of M tokens
  batchB   tokens a second, all together, of B sequences that each generate 64 tokens behind a prompt of 128
  first    seconds from starting the program to its end after one token of a 5-token prompt; gives `rss` too, its peak memory in MB
"""

import json
import os
import re
import subprocess
import tempfile
import threading
import time

PROMPT = "Once upon a time,"
# Enough for the prompt and one token, and the same for all who let themselves be told.
CONTEXT = 512


class Failed(Exception):
    """A program that did not do what it was asked."""


def run(command, timeout=300):
    """(stdout and stderr, seconds, peak MB) of a command that has to succeed."""
    start = time.perf_counter()
    # Some leave a log in the folder they run in.
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        watch = threading.Timer(timeout, child.kill)
        watch.start()
        try:
            text = child.stdout.read()
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        finally:
            watch.cancel()
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise Failed(f"exit {child.returncode}: {' '.join(command)}\n{text[-600:]}")
    return text, seconds, usage.ru_maxrss / 1000


def first(command):
    """What the test `first` measures, of one command."""
    _, seconds, megabytes = run(command)
    return {"first": seconds, "rss": megabytes}


def json_in(text, opening):
    """The first JSON value that begins with `opening` at the start of a line, whatever stands around it."""
    at = text.index("\n" + opening) + 1 if "\n" + opening in text else text.index(opening)
    return json.JSONDecoder().raw_decode(text[at:])[0]


def parts(test):
    """("pp"|"tg"|"batch"|"first", N, depth) of a test's name."""
    found = re.fullmatch(r"(pp|tg|batch)(\d+)(?:@d(\d+))?|(first)", test)
    if not found:
        raise Failed(f"there is no test `{test}`")
    kind, count, depth, first = found.groups()
    return first or kind, int(count or 0), int(depth or 0)


class Nxd:
    """Our program."""

    peer = False

    def __init__(self, program):
        self.name, self.program = "nxd", program

    def built(self):
        return os.access(self.program, os.X_OK)

    def facts(self, model):
        """What floors are computed from: parameters by how they are stored, those of the head, bytes of weights in memory, whether they are
        plain floats, and what attention computes for a token that attends to another one."""
        seen = json.loads(run([self.program, "inspect", model, "--json"])[0])
        text, _, _ = run([self.program, "bench", model, "--repeat", "1", "--json", "--prompt-tokens", "0", "--gen-tokens", "1"])
        return {"parameters": seen["dtype_parameters"], "head_parameters": seen["vocab_size"] * seen["hidden_size"],
                "weights_bytes": json_in(text, "[")[-1]["weights_bytes"],
                "floats": not any(name.startswith("Q") for name in seen["dtypes"]),
                "attention": 4 * seen["layers"] * seen["heads"] * seen["head_dim"]}

    def measure(self, test, model, threads):
        kind, count, depth = parts(test)
        if kind == "first":
            return first([self.program, "generate", model, "--prompt", PROMPT, "--max-tokens", "1", "--temperature", "0",
                          "--threads", str(threads), "--max-model-len", str(CONTEXT), "--max-num-seqs", "1"])
        options = {"pp": (count, 0, 1), "tg": (0, count, 1), "batch": (128, 64, count)}[kind]
        text, _, _ = run([self.program, "bench", model, "--threads", str(threads), "--repeat", "1", "--json", "--depth", str(depth),
                          "--prompt-tokens", str(options[0]), "--gen-tokens", str(options[1]), "--batch", str(options[2])])
        row = json_in(text, "[")[-1]
        found = {test: row["tokens_per_s"]["median"]}
        if row.get("fraction_of_memory_limit") is not None:
            # Of what memory gave right after the test: it changes from minute to minute.
            found[f"{test} memory"] = row["fraction_of_memory_limit"]
        return found


class Llama:
    """llama.cpp or ik_llama.cpp: `bench` are the options of llama-bench for a mode, `batched` those of llama-batched-bench."""

    peer = True

    def __init__(self, name, folder, deep, starts, bench=(), batched=()):
        self.name, self.folder, self.deep, self.starts = name, folder, deep, starts
        self.bench, self.batched = list(bench), list(batched)

    def program(self, name):
        return os.path.join(self.folder, name)

    def built(self):
        return os.access(self.program("llama-bench"), os.X_OK)

    def measure(self, test, model, threads):
        kind, count, depth = parts(test)
        if kind == "first":
            # The fastest and the smallest of its programs, each in its default mode.
            found = [first(self.start(start, model, threads)) for start in self.starts]
            return {name: min(values[name] for values in found) for name in ("first", "rss")}
        if kind == "batch":
            text, _, _ = run([self.program("llama-batched-bench"), "-m", model, "-t", str(threads), "-c", str(count * 192), "-b", "2048",
                              "-ub", "512", "-npp", "128", "-ntg", "64", "-npl", str(count), *self.batched])
            for line in text.splitlines():
                cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
                if len(cells) >= 8 and cells[2] == str(count):
                    return {test: float(cells[7])}
            raise Failed(f"llama-batched-bench of {self.name} printed no row of {count}")
        work = {"pp": ["-p", str(count), "-n", "0"], "tg": ["-p", "0", "-n", str(count)]}[kind]
        if depth:
            work = self.deep(count, depth)
        text, _, _ = run([self.program("llama-bench"), "-m", model, "-t", str(threads), "-r", "1", "-o", "json", *work, *self.bench])
        return {test: json_in(text, "[")[-1]["avg_ts"]}

    def start(self, start, model, threads):
        program, options = start
        prompt = [PROMPT] if program == "llama-simple" else ["-t", str(threads), "-c", str(CONTEXT), "--temp", "0", "-p", PROMPT]
        return [self.program(program), "-m", model, "-n", "1", *options, *prompt]


def engines(nxd, llama_cpp, ik):
    """Ours, then every mode of the peers."""
    depth = lambda n, d: ["-p", "0", "-n", str(n), "-d", str(d)]
    prompt_and_tokens = lambda n, d: ["-p", "0", "-n", "0", "-gp", f"{d},{n}"]
    simple = [("llama-simple", []), ("llama-completion", ["-no-cnv", "--no-warmup"])]
    client = [("llama-cli", ["--no-warmup"])]
    return [
        Nxd(nxd),
        Llama("llama.cpp", llama_cpp, depth, simple),
        Llama("llama.cpp -fa 0", llama_cpp, depth, [], ["-fa", "0"], ["-fa", "off"]),
        Llama("llama.cpp -fa 1", llama_cpp, depth, [], ["-fa", "1"], ["-fa", "on"]),
        Llama("llama.cpp --repack 0", llama_cpp, depth, [], ["--repack", "0"], ["--no-repack"]),
        Llama("ik_llama.cpp", ik, prompt_and_tokens, client),
        Llama("ik_llama.cpp -rtr", ik, prompt_and_tokens, [], ["-rtr", "1"], ["-rtr"]),
        Llama("ik_llama.cpp -fa 0", ik, prompt_and_tokens, [], ["-fa", "0"], ["-no-fa"]),
    ]
