"""Images that a run encodes again and again, to show what its encoder has learned."""

from collections.abc import Iterator
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from gtsa_kit.data.channels.reader import ImageReader
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.image_files import ImageList
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.sources import open_entry
from gtsa_kit.models.channel_images import filled_samples
from gtsa_kit.models.encoder import Encoder, normalize
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.preprocessing import Preprocessing

COUNT = 8
"""Number of fixed images of a run."""
ENCODE_BATCH = 32


def load_fixed_images(
    images: ImageList, size: int, reader: ImageReader, preprocessing: Preprocessing
) -> tuple[list[str], Tensor]:
    """Load up to `COUNT` images, spread evenly over the images of a run; unreadable ones are skipped.

    Args:
        images: Images of the run.
        size: Side of the result in pixels.
        reader: Reader of the images.
        preprocessing: Preprocessing of the encoder.

    Returns:
        Names, and pixels stretched to a square, (N, 3, size, size) uint8, or float32 of other channels.
    """
    count = len(images.entries)
    indices = [index * count // min(count, COUNT) for index in range(min(count, COUNT))]
    others = (index for index in range(min(count, 10 * COUNT)) if index not in indices)
    candidates = [images.entries[index] for index in [*indices, *others]]
    loaded = list(islice(_readable(images.source, candidates, size, reader, preprocessing), COUNT))
    names = [name for name, _ in loaded]
    empty = torch.zeros(0, len(preprocessing.mean), size, size)
    return names, torch.stack([pixels for _, pixels in loaded]) if loaded else empty


def to_square(pixels: Image.Image, size: int, preprocessing: Preprocessing) -> Tensor:
    """Return an image stretched to a square, (3, size, size) uint8."""
    return torch.from_numpy(preprocessing.resized(pixels, (size, size)).copy()).permute(2, 0, 1)


@torch.no_grad()
def encode(encoder: Encoder, pixels: Tensor) -> Features:
    """Encode images (N, C, S, S) in float32, without drop path; the results are on the CPU."""
    training = encoder.training
    encoder.eval()
    device = next(encoder.parameters()).device
    # A direct call of forward: a compiled encoder would be compiled again for this batch.
    parts = [
        encoder.forward(normalize(part.to(device), encoder.preprocessing)) for part in torch.split(pixels, ENCODE_BATCH)
    ]
    encoder.train(training)
    embeddings = torch.cat([part.embedding.float().cpu() for part in parts])
    return Features(embeddings, torch.cat([part.feature_map.float().cpu() for part in parts]))


def _readable(
    source: Source, entries: list[Entry], size: int, reader: ImageReader, preprocessing: Preprocessing
) -> Iterator[tuple[str, Tensor]]:
    for entry in entries:
        try:
            with open_entry(source, entry, reader.reads_whole) as content:
                image = reader(content, entry.name)
        except ImageError:  # the run lists it in errors.jsonl when it meets it
            continue
        pixels = preprocessing.resized_samples(filled_samples(image, preprocessing), (size, size))
        yield entry.name, torch.from_numpy(pixels.copy()).permute(2, 0, 1)
