"""One encoder layer: attention, then what happens to each token on its own."""

from jaxtyping import Float
from torch import Tensor, nn

from magic_pyramid.config import BackboneConfig
from magic_pyramid.layers.attention import Attention
from magic_pyramid.layers.feedforward import FeedForward


class Block(nn.Module):
    """A post-norm transformer layer that can be stopped between its two halves, where tokens are removed."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feedforward = FeedForward(config)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def finish(
        self, context: Float[Tensor, "tokens hidden"], residual: Float[Tensor, "tokens hidden"]
    ) -> Float[Tensor, "tokens hidden"]:
        """Output projection and feed-forward of the tokens given, with the layer's input as residual."""
        attended = self.attention_norm(residual + self.dropout(self.attention.output(context)))
        output: Tensor = self.output_norm(attended + self.dropout(self.feedforward(attended)))
        return output
