"""Which tokens a layer drops: a pruner turns attention mass into soft weights or a keep mask."""
