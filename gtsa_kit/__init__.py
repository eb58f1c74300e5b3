"""GTSA for your own photographs: train, export with proof, embed dense (arXiv 2304.08014).

Nothing heavy is imported here, so that `gtsa --help` answers at once; import what you need from the modules,
for example `gtsa_kit.export.load`.
"""

__version__ = "0.1.0"
