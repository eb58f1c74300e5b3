"""Embedding by the pipeline of transformers: hf_embed.py IMAGES MODEL OUT.npz, in the environment of hf.txt."""

import sys
from pathlib import Path

import numpy as np
from transformers import pipeline


def main():
    images, folder, out = sys.argv[1:]
    names = sorted(path.name for path in Path(images).glob("*.jpg"))
    extract = pipeline("image-feature-extraction", model=folder, device="cpu", batch_size=32)
    paths = [str(Path(images) / name) for name in names]
    vectors = [output[0, 1:].mean(0).numpy() for output in extract(paths, return_tensors=True)]
    np.savez(out, names=names, vectors=np.stack(vectors))


if __name__ == "__main__":
    main()
