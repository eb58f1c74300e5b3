"""Export by ultralytics, in the environment of ultralytics.txt: ultralytics_export.py WEIGHTS FOLDER."""

import sys
from pathlib import Path

from ultralytics import YOLO

if __name__ == "__main__":
    weights, folder = sys.argv[1:]
    Path(YOLO(weights).export(format="onnx", imgsz=224, dynamic=True)).rename(Path(folder) / "encoder.onnx")
