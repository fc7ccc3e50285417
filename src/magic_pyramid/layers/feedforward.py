"""The token-wise half of a layer: widen, activate, narrow."""

from jaxtyping import Float
from torch import Tensor, nn

from magic_pyramid.config import BackboneConfig
from magic_pyramid.linear import Linear


class FeedForward(nn.Module):
    """Two matrices with an activation between them."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.up = Linear(config.hidden_size, config.intermediate_size, activation=config.hidden_act)
        self.down = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens hidden"]:
        """Each token on its own."""
        output: Tensor = self.down(self.up(hidden_states))
        return output
