"""The head eomt beside transformers' EomtForUniversalSegmentation with the same weights."""

import pytest
import torch
from helpers.eomt_oracle import CLASSES, QUERIES, Tokens, make_pair

from gtsa_kit.models.architecture import ARCHITECTURES
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.eomt import EomtHead


@pytest.fixture(name="pair", scope="module")
def pair_of_models() -> tuple[EomtHead, torch.nn.Module]:
    return make_pair()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_masks_and_classes_equal_those_of_transformers(pair: tuple[EomtHead, torch.nn.Module], share: float) -> None:
    head, oracle = pair
    x = torch.randn(2, 64, 4, 4)
    oracle.embeddings = Tokens(x.flatten(2).transpose(1, 2))
    oracle.attn_mask_probs.fill_(share)
    head.masked.fill_(share)
    with torch.no_grad():
        expected = oracle.eval()(torch.zeros(2, 3, 64, 64))
        masks, classes = head.eval().predictions(x)[-1]
    torch.testing.assert_close(masks, expected.masks_queries_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(classes, expected.class_queries_logits, rtol=1e-4, atol=1e-4)


def test_log_masks_of_classes_are_the_slow_sum(pair: tuple[EomtHead, torch.nn.Module]) -> None:
    head, x = pair[0].eval(), torch.randn(1, 64, 3, 5)
    with torch.no_grad():
        head.masked.zero_()
        (masks, classes), logits = head.predictions(x)[-1], head(x)
    shares = classes.double().softmax(-1)
    for label in range(CLASSES):
        total = sum(shares[0, q, label] * masks[0, q].double().sigmoid() for q in range(QUERIES))
        torch.testing.assert_close(logits[0, label].exp().double(), total, rtol=1e-4, atol=1e-5)
    assert logits.shape == (1, CLASSES, 12, 20)


def test_blocks_of_the_encoder_are_taken() -> None:
    encoder = Encoder("vit_test").eval()
    head = EomtHead(encoder.architecture, CLASSES, blocks=1, queries=2).eval()
    head.take_blocks(encoder.vit.blocks, encoder.vit.norm)
    x = torch.randn(1, 9, 64)
    with torch.no_grad():
        torch.testing.assert_close(head.blocks[0](x), encoder.vit.blocks[1](x))


def test_masking_ends_block_by_block() -> None:
    head = EomtHead(ARCHITECTURES["vit_test"], CLASSES, blocks=2, queries=2)
    shares = []
    for progress in (0.0, 0.5, 2 / 3, 1.0):
        head.anneal(progress)
        shares.append(head.masked.tolist())
    assert shares == [[1, 1], [0, pytest.approx(0.5)], [0, pytest.approx(0, abs=1e-6)], [0, 0]]
