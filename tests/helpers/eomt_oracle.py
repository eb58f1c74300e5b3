"""transformers' EomtForUniversalSegmentation with the weights of our head, as an oracle."""

import torch
from torch import Tensor

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.eomt import EomtHead

CLASSES, QUERIES = 3, 5


def make_pair() -> tuple[EomtHead, torch.nn.Module]:
    """Return a head on one map of vit_test, and the oracle for images of 64 pixels."""
    import transformers

    torch.manual_seed(0)
    architecture = ARCHITECTURES["vit_test"]
    head = EomtHead(architecture, CLASSES, blocks=2, queries=QUERIES)
    config = transformers.EomtConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_blocks=2,
        num_queries=QUERIES,
        num_register_tokens=0,
        image_size=64,
        patch_size=16,
        num_labels=CLASSES,
        layer_norm_eps=1e-6,
    )
    oracle = transformers.EomtForUniversalSegmentation(config)
    copy_weights(head, oracle)
    return head, oracle


def copy_weights(head: EomtHead, oracle: torch.nn.Module) -> None:
    """Give the oracle the weights of the head."""
    for ours, theirs in zip(head.blocks, oracle.layers, strict=True):
        for name in ("norm1", "norm2"):
            getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
        theirs.mlp.fc1.load_state_dict(ours.mlp.fc1.state_dict())
        theirs.mlp.fc2.load_state_dict(ours.mlp.fc2.state_dict())
        theirs.attention.out_proj.load_state_dict(ours.attn.proj.state_dict())
        parts = zip(ours.attn.qkv.weight.chunk(3), ours.attn.qkv.bias.chunk(3), strict=True)
        for name, (weight, bias) in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
            getattr(theirs.attention, name).load_state_dict({"weight": weight, "bias": bias})
    oracle.layernorm.load_state_dict(head.norm.state_dict())
    oracle.query.load_state_dict({"weight": head.queries.data})
    oracle.class_predictor.load_state_dict(head.classifier.state_dict())
    for name, number in (("fc1", 0), ("fc2", 2), ("fc3", 4)):
        getattr(oracle.mask_head, name).load_state_dict(head.mask_head[number].state_dict())
    for ours, theirs in zip(head.upscale, oracle.upscale_block.block, strict=True):
        theirs.conv1.load_state_dict(ours.expand.state_dict())
        theirs.conv2.load_state_dict(ours.mix.state_dict())
        theirs.layernorm2d.load_state_dict(ours.norm.state_dict())


class Tokens(torch.nn.Module):
    """Stands in for the oracle's embeddings: it returns tokens that were given."""

    num_prefix_tokens = 0

    def __init__(self, tokens: Tensor) -> None:
        super().__init__()
        self.tokens = tokens

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens
