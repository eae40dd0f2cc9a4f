"""Makes a golden checkpoint: tiny random weights in the layout of real ones, and what transformers computes from them.

    python golden.py NAME --out DIR                  a family of families.py
    python golden.py NAME --out DIR --config FILE    any config.json that transformers knows, made tiny

`cargo xtask golden` runs it in an environment of its own.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
warnings.filterwarnings("ignore")

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

import record
import weights
from families import FAMILIES
from shrink import drop, shrink

# Seeds that are tried until continuations are long and clear.
TRIES = 48
DTYPES = {"float32": ("f32", torch.float32), "bfloat16": ("bf16", torch.bfloat16), "float16": ("f16", torch.float16)}


def main():
    parser = argparse.ArgumentParser(prog="golden", description="make a golden checkpoint")
    parser.add_argument("name")
    parser.add_argument("--out", required=True, help="where the folder NAME is made")
    parser.add_argument("--config", help="a config.json to make tiny")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    # The models are too small for more.
    torch.set_num_threads(1)
    to = os.path.join(args.out, args.name)
    if os.path.exists(to):
        raise SystemExit(f"`{to}` is there already: remove it, or choose another name or --out")
    os.makedirs(args.out, exist_ok=True)
    work = tempfile.mkdtemp(dir=args.out, prefix=".golden-")
    try:
        config, features = given(args.config, work) if args.config else ours(args.name, work)
        case = os.path.join(work, "case")
        make(args.name, features, config, case, work)
        os.rename(case, to)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def ours(name, work):
    """The configuration of a family of the table, as transformers saves it."""
    if name not in FAMILIES:
        raise SystemExit(f"`{name}` is none of {', '.join(sorted(FAMILIES))}; --config FILE takes the config.json of any other model")
    family = FAMILIES[name]
    config = AutoConfig.for_model(family.model_type, **family.fields)
    config.save_pretrained(work)
    config = read_json(os.path.join(work, "config.json"))
    return {**config, "architectures": [family.architecture], "dtype": "bfloat16"}, family.features


def given(path, work):
    """The user's configuration, made tiny."""
    config = read_json(path)
    if not config.get("architectures"):
        raise SystemExit(f"`{path}` has no `architectures`, which say what to build")
    dropped = drop(config)
    write_json(os.path.join(work, "config.json"), config)
    # With what its class fills in: which layers differ is often said there alone.
    try:
        full = AutoConfig.from_pretrained(work).get_text_config()
    except Exception as error:  # of whatever class
        raise SystemExit(f"transformers {transformers.__version__} refuses `{path}`: {error}")
    by_layer = [kinds for key in ("layer_types", "mlp_layer_types", "no_rope_layers") if (kinds := getattr(full, key, None))]
    config, notes = shrink(config, list(zip(*by_layer)))
    for note in dropped + notes:
        print(f"  {note}", file=sys.stderr)
    return config, f"{config['architectures'][0]}, from the config.json of a checkpoint"


def make(name, features, config, case, work):
    """Writes the whole case into the new folder `case`."""
    os.mkdir(case)
    write_json(os.path.join(case, "config.json"), config)
    text = config.get("text_config", config)
    named = next((c[key] for c in (config, text) for key in ("dtype", "torch_dtype") if c.get(key)), "float32")
    short, dtype = DTYPES[named]
    build = model_class(config)
    rejected = []
    for seed in range(TRIES):
        checkpoint(build, case, seed, dtype, work)
        model = load(build, case, torch.float32)
        prompts = prompts_of(model, seed)
        fields, against = record.continuations(model, prompts)
        if not against:
            break
        rejected.append(f"seed {seed}: {', '.join(against)}")
    else:
        raise SystemExit("no choice of weights gave clear continuations\n  " + "\n  ".join(rejected))
    found, top = record.tensors(model, prompts)
    last = torch.cat([values for tensor, values in found.items() if tensor.startswith("logits_last.")])
    fields = {
        "name": name, "features": features, "weights_dtype": short, "compute_dtype": "float32", "seed": seed,
        "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
        "max_abs_logit": round(last.abs().max().item(), 4), "logit_std": round(last.std().item(), 4),
        "min_margin": min(run["min_margin"] for run in fields["greedy"]), "prompts": prompts, **fields, "top5_last": top,
    }
    # What float32 itself is off by says how near another order of sums can come.
    fields["float64_max_abs_dev"] = float(f"{distance(load(build, case, torch.float64), prompts, found):.2e}")
    fields["tolerance"] = {"f32_max_abs": float(f"{max(2e-4, 30 * fields['float64_max_abs_dev']):.1e}")}
    if dtype != torch.float32:
        low = load(build, case, dtype)
        off = distance(low, prompts, found)
        found |= {f"logits_last_{short}.{i}": record.logits(low, ids)[-1] for i, ids in enumerate(prompts)}
        fields["native_dtype_max_abs_dev"] = round(off, 5)
        fields["tolerance"]["native_dtype_max_abs"] = float(f"{max(0.1, 4 * off):.1e}")
    save_file({tensor: values.contiguous() for tensor, values in found.items()}, os.path.join(case, "expected.safetensors"))
    write_json(os.path.join(case, "expected.json"), fields)
    for entry in os.scandir(case):
        # Some writers leave files that their owner alone may read.
        os.chmod(entry.path, 0o644)
    size = sum(entry.stat().st_size for entry in os.scandir(case))
    print(f"{name}: {size // 1000} kB, seed {seed}, the best token leads by {fields['min_margin']} or more", file=sys.stderr)


def model_class(config):
    """The class that `architectures` names, or what transformers takes for the model type."""
    return getattr(transformers, config["architectures"][0], AutoModelForCausalLM)


def checkpoint(build, case, seed, dtype, work):
    """Writes random weights in `dtype` under the names and in the layout of published checkpoints."""
    config = AutoConfig.from_pretrained(case)
    config._attn_implementation = "eager"
    make = build.from_config if build is AutoModelForCausalLM else build._from_config
    model = make(config, dtype=torch.float32).eval()
    weights.fill(model, seed)
    saved = os.path.join(work, "saved")
    shutil.rmtree(saved, ignore_errors=True)
    model.save_pretrained(saved)
    stored = load_file(os.path.join(saved, "model.safetensors"))
    kept = re.compile("correction_bias")
    stored = {name: tensor if kept.search(name) or not tensor.is_floating_point() else tensor.to(dtype) for name, tensor in stored.items()}
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, os.path.join(case, "model.safetensors"), metadata={"format": "pt"})
    generation = {key: value for key, value in read_json(os.path.join(case, "config.json")).items() if key.endswith("_token_id") and value is not None}
    write_json(os.path.join(case, "generation_config.json"), generation)


def load(build, case, dtype):
    """The checkpoint as its readers see it, computing in `dtype` by the plainest code that transformers has."""
    return build.from_pretrained(case, dtype=dtype, attn_implementation="eager", experts_implementation="eager").eval()


def prompts_of(model, seed):
    random = torch.Generator().manual_seed(seed + 7)
    vocabulary = model.config.get_text_config().vocab_size
    return [torch.randint(3, vocabulary, (length,), generator=random).tolist() for length in record.LENGTHS]


def distance(model, prompts, found):
    """The largest difference of a last logit."""
    return max((record.logits(model, ids)[-1] - found[f"logits_last.{i}"]).abs().max().item() for i, ids in enumerate(prompts))


def read_json(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot read `{path}`: {error}")


def write_json(path, value):
    text = json.dumps(value, ensure_ascii=False, indent=1)
    # Lists of numbers on a line of their own.
    text = re.sub(r"\[\s+((?:-?[\d.e+-]+,?\s+)+)\]", lambda numbers: "[" + " ".join(numbers[1].split()) + "]", text)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


if __name__ == "__main__":
    main()
