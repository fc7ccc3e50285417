"""What the numbers look like: the pyramid of one text, evaluation tables, and the model card.

``trace`` holds the data; ``terminal``, ``picture`` and ``page`` draw it; ``attention`` draws one layer's
matrix; ``table`` and ``card`` write down what was measured. The drawing modules are imported by name, so
that reading a trace needs neither rich nor matplotlib.
"""

from magic_pyramid.report.trace import Trace, TraceLayer

__all__ = ["Trace", "TraceLayer"]
