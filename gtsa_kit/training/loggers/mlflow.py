"""MLflow: the server or the store of MLFLOW_TRACKING_URI, or else files in the folder `mlruns` of a run."""

import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from gtsa_kit.training.loggers.base import LoggedRun

EXPERIMENT = "gtsa-kit"
"""Experiment of runs, unless MLFLOW_EXPERIMENT_NAME names another one."""
RETRIES = "5"
"""Number of repetitions of a request that fails, a minute; MLflow's own default takes four. The environment variable
MLFLOW_HTTP_REQUEST_MAX_RETRIES overrides it."""
PARAMS_PER_REQUEST = 100
"""Largest number of parameters in one request to MLflow."""


class MLflowLogger:
    """Run of MLflow. One thread sends, so that training does not wait for a server.

    MLflow keeps every point that it gets: steps that an earlier process has logged after its last checkpoint are not
    sent again.
    """

    def __init__(self, run: LoggedRun) -> None:
        """Start a run, or continue that of the run folder; an error is one of MLflow's own."""
        import mlflow

        set_by_user = mlflow.is_tracking_uri_set()  # type: ignore[no-untyped-call]
        uri = mlflow.get_tracking_uri() if set_by_user else (run.run_dir / "mlruns").absolute().as_uri()
        if uri.startswith("file:") or "://" not in uri:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 refuses files without it
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        saved = run.saved_id("mlflow")
        self._run_id = saved or self._create(run)
        self._last_logged = run.last_logged if saved else -1
        self._log_settings(run.settings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._pending: list[Future[object]] = []
        self.notice = f"mlflow: run {self._run_id} in {uri if set_by_user else run.run_dir / 'mlruns'}"

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name, of one step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        if step > self._last_logged:
            self._send(lambda: self._client.log_batch(self._run_id, metrics=metrics))

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8."""
        if step > self._last_logged:
            self._send(lambda: self._client.log_image(self._run_id, pixels, key=name, step=step))

    def close(self, finished: bool) -> None:
        """Wait until everything is sent, and end the run; raise the first error of a request."""
        self._thread.shutdown()
        self._raise_errors()
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")

    def _create(self, run: LoggedRun) -> str:
        """Create a run in the experiment, and keep its id."""
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        run_id: str = self._client.create_run(experiment_id, run_name=run.run_dir.name).info.run_id
        run.save_id("mlflow", run_id)
        return run_id

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        """Write settings as parameters; one that a resumed run has changed becomes a tag, as parameters are final."""
        from mlflow.entities import Param, RunTag

        saved = self._client.get_run(self._run_id).data.params
        texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
        new = [Param(key, text) for key, text in texts.items() if key not in saved]
        for start in range(0, len(new), PARAMS_PER_REQUEST):
            self._client.log_batch(self._run_id, params=new[start : start + PARAMS_PER_REQUEST])
        changed = [RunTag(key, text) for key, text in texts.items() if saved.get(key, text) != text]
        self._client.log_batch(self._run_id, tags=changed)
        self._client.update_run(self._run_id, status="RUNNING")

    def _send(self, request: Callable[[], object]) -> None:
        """Queue a request; raise the error of one that has failed, after which the others are canceled."""
        try:
            self._raise_errors()
        except Exception:
            self._thread.shutdown(wait=False, cancel_futures=True)
            raise
        self._pending.append(self._thread.submit(request))

    def _raise_errors(self) -> None:
        """Raise the error of the first request that has failed, and forget those that are done."""
        done = [request for request in self._pending if request.done()]
        self._pending = [request for request in self._pending if not request.done()]
        for request in done:
            request.result()
