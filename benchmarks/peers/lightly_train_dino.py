"""DINO by lightly-train, in the environment of lightly.txt: lightly_train_dino.py ARGUMENTS, as JSON."""

import json
import sys

import lightly_train

if __name__ == "__main__":
    lightly_train.pretrain(**json.loads(sys.argv[1]))
