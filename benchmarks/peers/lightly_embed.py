"""Embedding by lightly-train, in the environment of lightly.txt: lightly_embed.py IMAGES CHECKPOINT OUT.

Each value that is not given is lightly-train's own default.
"""

import sys

import lightly_train

if __name__ == "__main__":
    images, checkpoint, out = sys.argv[1:]
    lightly_train.embed(out=out, data=images, checkpoint=checkpoint, format="torch", accelerator="cpu")
