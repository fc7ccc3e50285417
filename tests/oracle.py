"""The definition: one sequence, plain loops, tokens really deleted. Model, engine and exports must agree."""

import math

import torch

from magic_pyramid.model import PyramidModel


def run(model, token_ids, *, prunes=True, exit_threshold=None, scale=1.0):
    """Give ``(logits, exit_layer, positions alive after each layer that ran)`` for one list of token ids."""
    assert isinstance(model, PyramidModel)
    config, backbone = model.config, model.config.backbone
    alive = list(range(len(token_ids)))
    x = [embed(model, token, position) for position, token in enumerate(token_ids)]
    history = []
    for index, block in enumerate(model.layers):
        queries, keys, values = (
            [torch.nn.functional.linear(t, w, b) for t in x]
            for w, b in zip(block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3), strict=True)
        )
        size = backbone.hidden_size // backbone.num_attention_heads
        context, mass = [torch.zeros(backbone.hidden_size) for _ in x], [0.0] * len(x)
        for head in range(backbone.num_attention_heads):
            part = slice(head * size, (head + 1) * size)
            for q in range(len(x)):
                scores = torch.stack([queries[q][part] @ keys[k][part] / math.sqrt(size) for k in range(len(x))])
                probs = scores.softmax(0)
                for k in range(len(x)):
                    context[q][part] += probs[k] * values[k][part]
                    mass[k] += float(probs[k]) / backbone.num_attention_heads
        keep = list(range(len(x)))
        if prunes and model.pruner is not None and float(model.pruner.token_thresholds[index]) * scale > 0:
            divisor = {"kept": len(x), "input": len(token_ids), "fixed": config.prune.fixed_length}
            bar = max(1e-5, float(model.pruner.token_thresholds[index]) * scale)
            keep = [i for i in keep if i == 0 or mass[i] / divisor[config.prune.score_norm] >= bar]
        x = [block.finish(context[i][None], x[i][None])[0] for i in keep]
        alive = [alive[i] for i in keep]
        history.append(list(alive))
        if exit_threshold is not None and index in config.exit_layers:
            probs = head_answer(model.exit_head(index), x).softmax(0)
            uncertainty = -sum(float(p) * math.log(float(p)) for p in probs if p > 0) / math.log(len(probs))
            if uncertainty <= exit_threshold:
                return head_answer(model.exit_head(index), x), index, history
    return head_answer(model.final_head, x), len(model.layers) - 1, history


def embed(model, token, position):
    """Embedding of one token of the first segment (no relative bias, no projection)."""
    tables = model.embeddings
    summed = tables.token.weight[token] + tables.position.weight[position + tables.position_offset]
    return tables.norm(summed + tables.token_type.weight[0])


def head_answer(head, x):
    """A head's logits for one sequence given as a list of hidden states."""
    from magic_pyramid.packing import pack_sequences

    return head(torch.stack(x), pack_sequences([[0] * len(x)]))[0]
