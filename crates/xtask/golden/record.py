"""What transformers computes from a checkpoint: float32, eager attention, CPU. The fields are those of crates/testkit/goldens/README.md."""

import copy

import torch

from weights import stack

LENGTHS = (1, 7, 33, 130)
NEW_TOKENS = 32
# Of which prompt all logits are kept, and of which the inner rows.
FULL, INNER = 2, 1
# A best token that leads by less could be another one by rounding.
MARGIN = 5e-3
# A continuation that repeats a few tokens shows little.
DISTINCT = 8


@torch.no_grad()
def logits(model, ids):
    """`[T, V]`."""
    ids = torch.tensor([ids])
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy(model, ids, eos=None):
    """The tokens that follow `ids`, through the cache; `eos` ends them and is the last."""
    settings = copy.deepcopy(model.generation_config)
    settings.update(
        eos_token_id=eos, pad_token_id=0, bos_token_id=None, do_sample=False, temperature=None, top_p=None, top_k=None, repetition_penalty=1.0,
        max_new_tokens=NEW_TOKENS, max_length=None,
    )
    tensor = torch.tensor([ids])
    return model.generate(input_ids=tensor, attention_mask=torch.ones_like(tensor), generation_config=settings)[0, len(ids):].tolist()


def continuations(model, prompts):
    """The fields `greedy` and `greedy_stop`, and what speaks against this choice of weights, if anything does."""
    runs, against = [], []
    for prompt in _continued(model):
        ids = prompts[prompt]
        tokens = greedy(model, ids)
        best = logits(model, ids + tokens)[len(ids) - 1 : -1].topk(2)
        equal = best.indices[:, 0].tolist() == tokens
        margin = (best.values[:, 0] - best.values[:, 1]).min().item()
        runs.append({"prompt": prompt, "tokens": tokens, "min_margin": round(margin, 6), "cached_equals_uncached": equal})
        if not equal:
            against.append("tokens with and without cache differ")
        if margin < MARGIN:
            against.append(f"the best token leads by {margin:.4f} only")
        if len(set(tokens)) < DISTINCT:
            against.append(f"a continuation has {len(set(tokens))} different tokens only")
    first = runs[0]
    # Past the first few, so that something is generated; new, so that it ends there.
    stop = next((token for i, token in enumerate(first["tokens"]) if i >= 5 and token not in first["tokens"][:i]), first["tokens"][0])
    ended = {"prompt": first["prompt"], "eos_token_id": stop, "tokens": greedy(model, prompts[first["prompt"]], eos=stop)}
    return {"greedy": runs, "greedy_stop": ended}, against


def _continued(model):
    """Prompts to continue: a short one and the longest, which is past every window; a shorter one where rotations follow the length, as
    transformers changes them while it generates."""
    text = model.config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type")} | {section.get("rope_type") for section in rope.values() if isinstance(section, dict)}
    return (1, 2) if kinds & {"dynamic", "longrope"} else (1, 3)


def tensors(model, prompts):
    """What goes into expected.safetensors, and the field `top5_last`."""
    found, top = {}, {}
    for i, ids in enumerate(prompts):
        values = logits(model, ids)
        found[f"logits_last.{i}"] = values[-1].clone()
        if i == FULL:
            found[f"logits_full.{i}"] = values
        if len(ids) > 100:
            found[f"logits_tail.{i}"] = values[-8:].clone()
        if i in (0, FULL):
            best = values[-1].topk(5).indices
            logprobs = torch.log_softmax(values[-1], -1)[best].tolist()
            top[str(i)] = {"ids": best.tolist(), "logprobs": [round(value, 6) for value in logprobs]}
    found.update(_inner(model, prompts[INNER]))
    return found, top


def _inner(model, ids):
    """The rows that enter the first layer, that leave each, and that leave the last norm, `[T, E]`."""
    layers, norm = stack(model)
    rows, hooks = {}, []

    def keep(name, value):
        value = value[0] if isinstance(value, (tuple, list)) else value
        rows[f"hidden.{name}"] = value.reshape(-1, value.shape[-1]).float().clone()

    def entering(_, args, named):
        keep("embed", args[0] if args else named["hidden_states"])

    hooks.append(layers[0].register_forward_pre_hook(entering, with_kwargs=True))
    for i, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(lambda _, args, out, i=i: keep(f"layer.{i}", out)))
    hooks.append(norm.register_forward_hook(lambda _, args, out: keep("final_norm", out)))
    logits(model, ids)
    for hook in hooks:
        hook.remove()
    return rows
