"""Layer of exported graphs that take samples as files have them."""

import torch
from torch import Tensor, nn

from gtsa_kit.models.preprocessing import Preprocessing


class SampleNormalization(nn.Module):
    """Clipping and normalization of samples as files have them: (B, H, W, N) of any type to (B, N, H, W) float32."""

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        samples, self.scale = preprocessing.samples, preprocessing.scale
        self.clips = samples.clip
        values = {"mean": preprocessing.mean, "std": preprocessing.std}
        values |= {"low": samples.low, "high": samples.high} if samples.clip else {}
        for name, value in values.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Clip and normalize a batch of samples."""
        images = images.float().permute(0, 3, 1, 2)  # in this order: TensorRT does not permute uint8
        if self.clips:
            images = torch.minimum(torch.maximum(images, self.low), self.high)
        if self.scale != 1:
            images = images / self.scale
        return (images - self.mean) / self.std
