"""Embedding by timm and a DataLoader, in the environment of timm.txt: timm_embed.py IMAGES MODEL OUT.npz."""

import sys
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Folder(Dataset):
    """Images of a folder."""

    def __init__(self, folder, transform):
        self.paths, self.transform = sorted(Path(folder).glob("*.jpg")), transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.paths[i].name


def main():
    images, folder, out = sys.argv[1:]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    names, vectors = [], []
    with torch.inference_mode():
        for batch, batch_names in DataLoader(Folder(images, transform), batch_size=32, num_workers=2):
            vectors.append(model(batch).numpy())
            names += batch_names
    np.savez(out, names=names, vectors=np.concatenate(vectors))


if __name__ == "__main__":
    main()
