"""What the optimiser is given: which parameters decay."""
from torch import nn

_DECAYING = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def decay_groups(net: nn.Module) -> list[dict]:
    """Return two groups of trainable parameters: the weights of linears and convolutions, which decay, and the rest.

    Biases, norms, embeddings (of positions and classes, the codebook) and attention's scales say where things lie or
    how large they are; pulling them to zero says something about neither.
    """
    decaying = {id(module.weight) for module in net.modules() if isinstance(module, _DECAYING)}
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [{"params": [entry for entry in trained if id(entry) in decaying]},
              {"params": [entry for entry in trained if id(entry) not in decaying], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
