"""Types of the public API; `__init__.py` imports the names when they are used."""

from gtsa_kit.data.image_io import open_image as open_image
from gtsa_kit.embedding.iterate import embed as embed
from gtsa_kit.export.api import export as export
from gtsa_kit.export.api import load_encoder as load_encoder
from gtsa_kit.export.gate_errors import ParityError as ParityError
from gtsa_kit.export.gate_errors import TaskScoreError as TaskScoreError
from gtsa_kit.export.open_options import ImportOptions as ImportOptions
from gtsa_kit.export.runtime.load import load as load
from gtsa_kit.export.verify_api import verify as verify
from gtsa_kit.models.outputs import Features as Features
from gtsa_kit.tasks.api import finetune as finetune
from gtsa_kit.tasks.predict import predict as predict
from gtsa_kit.training.pretrain import pretrain as pretrain

__version__: str
