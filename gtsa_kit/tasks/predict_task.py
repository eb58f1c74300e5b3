"""The work of a job of predictions, which this process or the actors of a Ray cluster do."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.tasks.predict_images import Prediction, PredictPlan, load_entry, predict_items, predict_tiled, read_pixels
from gtsa_kit.tasks.predict_plan import PredictOptions
from gtsa_kit.tasks.predict_rows import ResultRows
from gtsa_kit.tasks.predict_store import PredictedRow
from gtsa_kit.tasks.predictor import Predictor, open_predictor


@dataclass(frozen=True)
class PredictTask:
    """Model, source and plan of a job; it can be pickled, and every machine opens the first two by itself."""

    source: str
    model: Path
    options: PredictOptions
    plan: PredictPlan
    on_gpu: bool
    repeated: Set[str] = frozenset()
    """Names that several images of the source have."""
    ids: Mapping[str, int] | None = None
    """Ids of the images in the results of COCO, by name; None counts them from 1."""

    def open(self) -> Callable[[list[tuple[int, Entry]]], Iterator[PredictedRow | FailedImage]]:
        """Return the function from numbered entries to their results, with the content of their files."""
        source, predictor = open_source(self.source), open_predictor(self.model, self.options.load)
        one = replace(self, plan=replace(self.plan, workers=1))
        return lambda block: one.results(block, source, predictor, lambda result: result)

    def results(
        self,
        items: Iterable[tuple[int, Entry]],
        source: Source,
        predictor: Predictor,
        store: Callable[[PredictedRow | FailedImage], PredictedRow | FailedImage],
    ) -> Iterator[PredictedRow | FailedImage]:
        """Predict numbered entries, and yield their results in order.

        Args:
            items: The entries with their indices in the source.
            source: The opened source.
            predictor: The opened model.
            store: Called with each result in a thread; what it returns is yielded.
        """
        options, plan = self.options, self.plan
        rows = ResultRows(
            *(source, predictor.labels, self.repeated, options.overlay, options.rle),
            *(plan.preprocessor.preprocessing, plan.preprocessor.max_pixels, self.ids),
        )

        def finish(item: tuple[int, Entry], prediction: Prediction) -> PredictedRow | FailedImage:
            return store(rows(item, prediction))

        if plan.tiling is not None:
            return predict_tiled(items, read_pixels(source, plan), predictor, plan, finish)
        return predict_items(items, load_entry(source, plan), predictor, plan, finish)
