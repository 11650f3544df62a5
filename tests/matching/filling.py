"""Models whose tensors all differ, so that a wrong placement shows, and models of layers under given names."""

import torch
from torch import nn


def filled(model):
    """Return the model with random values in every tensor of real numbers."""
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.normal_()
    return model


def nested(layers):
    """Return a model that holds layers under dotted names, in their order."""
    root = nn.Module()
    for name, layer in layers.items():
        *around, last = name.split(".")
        at = root
        for part in around:
            if part not in at._modules:
                at.add_module(part, nn.Module())
            at = at.get_submodule(part)
        at.add_module(last, layer)
    return root
