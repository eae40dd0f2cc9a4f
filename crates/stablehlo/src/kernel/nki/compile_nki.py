"""Compiles one NKI kernel for one signature.

A request comes as JSON on standard input, the answer goes as JSON to standard output:

    {"task": "version"}                          -> {"version": "..."}
    {"task": "compile", "target": "trn2",
     "artifacts": "/folder", "source": "...",
     "description": {"entry": "...",
                     "inputs": [{"shape": [4, 64], "dtype": "bf16"}],
                     "outputs": [...],
                     "attributes": {"eps": 1e-05}}} -> {"backend_config": "<base64>"}

Anything that goes wrong is {"error": "..."}, an absent compiler {"missing": "..."}. The kernel's first parameters are the inputs
in order; attributes are given by name.
"""

import importlib.metadata
import inspect
import json
import os
import shutil
import sys
import traceback
import types

# What compilers print must not stand between us and the reader of the answer.
ANSWER = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)

FLOATS = {"f16": "float16", "f32": "float32"}
INTEGERS = {"i1": "bool", "i8": "int8", "i32": "int32", "ui32": "uint32"}
SMALL = {"bf16": "bfloat16", "f8E4M3FN": "float8_e4m3fn", "f8E5M2": "float8_e5m2"}


def version():
    import nki  # noqa: F401  (an absent package is an ImportError, which names it)

    if shutil.which("neuronx-cc") is None:
        raise ImportError("no program `neuronx-cc` on PATH")
    packages = ("nki", "neuronx-cc")
    return {"version": ", ".join(f"{name} {installed(name)}" for name in packages)}


def installed(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def dtype(name):
    import numpy

    if name in SMALL:
        import ml_dtypes

        return numpy.dtype(getattr(ml_dtypes, SMALL[name]))
    return numpy.dtype({**FLOATS, **INTEGERS}[name])


def load(source, entry, folder):
    # The compiler reads the source again through the function, so it must be a file.
    path = os.path.join(folder, "kernel.py")
    with open(path, "w", encoding="utf-8") as file:
        file.write(source)
    module = types.ModuleType("nxd_kernel")
    module.__file__ = path
    sys.modules[module.__name__] = module
    exec(compile(source, path, "exec"), module.__dict__)
    kernel = module.__dict__.get(entry)
    if kernel is None:
        raise ValueError(f"the source has no function `{entry}`")
    # A decorated kernel holds its function.
    return getattr(kernel, "func", kernel)


def arguments(kernel, description):
    import numpy

    inputs, attributes = description["inputs"], description["attributes"]
    names = list(inspect.signature(kernel).parameters)
    if len(names) != len(inputs) + len(attributes):
        raise ValueError(f"`{description['entry']}` takes {names}, it is given {len(inputs)} inputs and {sorted(attributes)}")
    given = {name: numpy.zeros(spec["shape"], dtype(spec["dtype"])) for name, spec in zip(names, inputs)}
    for name, value in attributes.items():
        if name not in names[len(inputs) :]:
            raise ValueError(f"`{description['entry']}` has no parameter `{name}` behind its inputs: {names}")
        given[name] = value
    return given


def compiled(request):
    from nki.compiler.driver import compile_to_bir
    from nki.compiler.frontend import ParserFrontend
    from nki.compiler.ncc_driver import CompilationMode, CompileOptions

    description, folder = request["description"], request["artifacts"]
    kernel = load(request["source"], description["entry"], folder)
    options = CompileOptions(
        target=request["target"],
        artifacts_dir=folder,
        output_path=os.path.join(folder, "unused.neff"),
        neuronx_cc_path=shutil.which("neuronx-cc"),
        mode=CompilationMode.INTEGRATION,
    ).disable_backend_optimizations()
    outputs = description["outputs"]
    unit = compile_to_bir(
        kernel,
        frontend=ParserFrontend(),
        inputs=arguments(kernel, description),
        compile_opts=options,
        output_names=[f"output{i}" for i in range(len(outputs))],
    )
    config = unit.build_config()
    if getattr(config, "operand_output_aliases", None):
        raise ValueError("the kernel writes to one of its inputs; return a new tensor instead")
    specs = getattr(config, "output_specs", None)
    if specs is not None:
        found = [list(spec.shape) for spec in specs]
        expected = [spec["shape"] for spec in outputs]
        if found != expected:
            raise ValueError(f"the kernel returns shapes {found}, {expected} were declared")
    return {"backend_config": config.backend_config_b64.decode("ascii")}


def main():
    request = json.load(sys.stdin)
    try:
        answer = version() if request["task"] == "version" else compiled(request)
    except ImportError as error:
        answer = {"missing": str(error)}
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the answer)
        answer = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc(limit=-8)}
    json.dump(answer, ANSWER)
    ANSWER.flush()


main()
