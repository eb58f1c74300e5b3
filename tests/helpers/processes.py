"""Processes of tests that fork from one that has loaded the libraries, which takes each of them seven seconds."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import TimeoutExpired
from typing import TYPE_CHECKING, Any

from helpers.commands import one_thread

if TYPE_CHECKING:
    from gtsa_kit.config.finetune import TaskName

START_METHOD = "forkserver"
_CONTEXT = multiprocessing.get_context(START_METHOD)
_CONTEXT.set_forkserver_preload(
    "gtsa_kit.cli.support.training_display gtsa_kit.embedding.run gtsa_kit.tasks.run gtsa_kit.tasks.predict_job".split()
)


@dataclass
class Forked:
    """A started process; as `subprocess.Popen`, but its output is in files."""

    process: ForkServerProcess
    folder: Path

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self.process.exitcode

    @property
    def stdout(self) -> str:
        """Standard output so far."""
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """Standard error so far."""
        return (self.folder / "stderr").read_text()

    def wait(self, timeout: float = 800) -> int:
        """Wait for its end; return the exit code."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutExpired(str(self.process), timeout, self.stdout, self.stderr)
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], seconds: float = 600) -> None:
        """Wait until something is so, or the process has ended."""
        deadline = time.monotonic() + seconds
        while not condition() and self.returncode is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        self.process.kill()
        self.wait()


def start_forked(folder: Path, function: Callable[..., object], *args: object) -> Forked:
    """Call a function of a helper module in a process of its own, in this working directory.

    Args:
        folder: Folder for its output, `stdout` and `stderr`.
        function: The function; an exception or `SystemExit` ends the process with its code.
        args: Arguments that can be pickled.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("stdout", "stderr"):
        (folder / name).write_bytes(b"")
    process = _CONTEXT.Process(target=_call, args=(folder, os.getcwd(), one_thread(), function, args))
    process.start()
    return Forked(process, folder)


def start_gtsa(folder: Path, *args: object, before: Callable[[], object] | None = None) -> Forked:
    """Start the command in a process of its own.

    Args:
        folder: Folder for its output, `stdout` and `stderr`.
        args: Arguments of the command.
        before: Function of a helper module that is called in the process before the command.
    """
    return start_forked(folder, _run_command, [*map(str, args)], before)


def run_gtsa(folder: Path, *args: object, before: Callable[[], object] | None = None) -> Forked:
    """Run the command in a process of its own; see `start_gtsa`."""
    process = start_gtsa(folder, *args, before=before)
    process.wait()
    return process


def run_by_torchrun(processes: int, *args: object) -> None:
    """Run the command in several processes at once by the launcher of torchrun; raise if one of them fails."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    handled = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    before = {number: signal.getsignal(number) for number in handled}  # the launcher sets its own
    config = LaunchConfig(
        1, 1, processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0, start_method=START_METHOD
    )
    try:
        elastic_launch(config, _run_successfully)([*map(str, args)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_successfully(args: list[str]) -> None:
    try:
        _run_command(args, None)
    except SystemExit as stopped:
        assert not stopped.code, f"exit code {stopped.code}"  # noqa: PT017


def limit_files_to_one_megabyte() -> None:
    """Let writes beyond 1 MB of a file fail, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))


def kill_at_the_second_checkpoint() -> None:
    """Let the process kill itself when half of its second checkpoint is written."""
    import io

    import torch

    save, calls = torch.save, []

    def save_half(state: object, file: Any) -> None:
        calls.append(1)
        assert "torchmetrics" not in sys.modules  # importing it takes five seconds and training does not need it
        if len(calls) < 2:
            save(state, file)
            return
        buffer = io.BytesIO()
        save(state, buffer)
        file.write(buffer.getvalue()[: buffer.tell() // 2])
        file.flush()
        os.fsync(file.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half


def finetune_and_kill(
    threads: int, data: Path, run: Path, model: Path, settings: dict[str, object], task: "TaskName" = "segment"
) -> None:
    """Fine-tune, and kill the process after the fifth step."""
    import torch

    import gtsa_kit
    from gtsa_kit.tasks.state import FinetuneCallback

    class Kill(FinetuneCallback):
        def on_step_end(self, step: int, metrics: object) -> None:
            if step == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(threads)
    gtsa_kit.finetune(task, data, run, model=model, settings=settings, callback=Kill())


def _run_command(args: list[str], before: Callable[[], object] | None) -> None:
    sys.argv = ["gtsa", *args]
    if before:
        before()
    from gtsa_kit.cli import main

    main()


def _call(
    folder: Path, cwd: str, environment: dict[str, str], function: Callable[..., object], args: tuple[object, ...]
) -> None:
    """Be the process of a function from here on."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method("fork", force=True)  # that of a new process on Linux
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    os.fsync = lambda _: None  # no test loses power; what is written survives the end of the process
    function(*args)
