"""Import of ViT checkpoints of other tools, and of gtsa-kit, as an `Encoder`.

Every key of a checkpoint is used, skipped by name, or an error. No code in a checkpoint is run.
"""

from gtsa_kit.models.checkpoint_import.importer import ImportedEncoder, open_weights
from gtsa_kit.models.checkpoint_import.metadata import check_stated_facts, is_run_file
from gtsa_kit.models.checkpoint_import.shards import sha256_of_weights

__all__ = ["ImportedEncoder", "check_stated_facts", "is_run_file", "open_weights", "sha256_of_weights"]
