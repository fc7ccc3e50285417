"""Bricks of the encoder on packed hidden states ``[tokens, hidden]``: they know nothing of pruning or exits."""
