"""Bricks of the encoder on packed hidden states ``[tokens, hidden]``: no pruning, no exits."""
