"""The definition: one sequence, plain loops, tokens really deleted. Model, engine and exports must agree."""

import math

import torch

from magic_pyramid.layers.relative_bias import bucket
from magic_pyramid.packing import pack_sequences
from oracle_pruning import RULES, Layer, heads_run


@torch.no_grad()
def run(model, token_ids, *, exit_threshold=None, exit_layers=None, scale=1.0):
    """Give ``(logits, exit_layer, positions alive after each layer that ran)`` for one list of token ids."""
    config, heads = model.config, model.config.backbone.num_attention_heads
    alive, history = list(range(len(token_ids))), []
    tested = config.exit_layers if exit_layers is None else exit_layers
    x = [embed(model.embeddings, token, position) for position, token in enumerate(token_ids)]
    received, given = [0.0] * len(x), [0.0] * heads
    for index, block in enumerate(model.layers):
        qkv = [block.attention.qkv(state).view(3, heads, -1) for state in x]
        context, mass, own = [torch.zeros_like(state) for state in x], [0.0] * len(x), [0.0] * len(x)
        run = heads_run(model.pruner, index, given, scale) if config.prune and scale else range(heads)
        for q in range(len(x)):
            parts = [torch.zeros_like(head) for head in qkv[q][2]]
            for head in run:
                scores = [float(qkv[q][0, head] @ qkv[k][1, head]) for k in range(len(x))]
                scores = [score / math.sqrt(qkv[q].shape[-1]) for score in scores]
                scores = [s + bias(model, head, alive[q], alive[k]) for k, s in enumerate(scores)]
                total = sum(math.exp(s) for s in scores)
                probs = [math.exp(s) / total for s in scores]
                parts[head] = sum(p * qkv[k][2, head] for k, p in enumerate(probs))
                mass = [m + p / len(run) for m, p in zip(mass, probs, strict=True)]
                own[q] += probs[q] / len(run)
            context[q] = torch.cat(parts)
        received = [before + now for before, now in zip(received, mass, strict=True)]
        seen = [token_ids[position] for position in alive]
        layer = Layer(index, scale, mass, seen, len(token_ids), own, received)
        rule = RULES[config.prune.kind] if config.prune and scale else keep_all
        keep = [0, *(i for i in rule(model.pruner, layer) if i)]
        received = [received[i] for i in keep]
        for head in range(heads):
            given[head] += sum(float(context[i].view(heads, -1)[head].abs().sum()) for i in keep)
        x = [block.finish(context[i][None], x[i][None])[0] for i in keep]
        alive = [alive[i] for i in keep]
        history.append(alive)
        if exit_threshold is not None and index in tested:
            logits = model.exit_head(index)(torch.stack(x), pack_sequences([alive]))[0]
            entropy = -sum(p * math.log(p) for p in logits.softmax(0).tolist() if p > 0)
            place = config.exit_layers.index(index)
            one = exit_threshold[place] if isinstance(exit_threshold, tuple) else exit_threshold
            if entropy / math.log(len(logits)) <= one:
                return logits, index, history
    return model.final_head(torch.stack(x), pack_sequences([alive]))[0], len(model.layers) - 1, history


def keep_all(pruner, layer):
    """Nothing is removed."""
    return range(len(layer.mass))


def embed(tables, token, position):
    """Hidden state of one token of the first segment on entry to the first layer."""
    summed = tables.token.weight[token] + tables.position.weight[position + tables.position_offset]
    normed = tables.norm(summed + tables.token_type.weight[0] if hasattr(tables, "token_type") else summed)
    return tables.projection(normed) if hasattr(tables, "projection") else normed


def bias(model, head, query_position, key_position):
    """Relative position bias of one pair of tokens; 0 for backbones that have none."""
    if not model.config.backbone.relative_attention_num_buckets:
        return 0.0
    row = bucket(torch.tensor(key_position - query_position), num_buckets=model.relative_bias.num_embeddings)
    return float(model.relative_bias.weight[row, head])
