"""``python -m exporter``: Hydra composes the settings, the app runs until a signal.

The only module that imports Hydra. Exit status: 0 after SIGTERM or Ctrl-C, 2 when it
cannot start (one line says what to change).
"""

import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from exporter.app import App, StartError
from exporter.journalfile import JournalError
from exporter.settings import Settings, SettingsError

# In a wheel the configuration lies beside this file; in a checkout in its own folder.
_HERE = Path(__file__).resolve().parent
_CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"


# Nearly all that the exporter makes is free of cycles and freed at once: looking for
# them among what lives took a fifth of the writer's time at 10,000 sources.
_COLLECT_AT = (50_000, 20, 100)


class Stop:
    """SIGTERM and Ctrl-C, whichever thread the system gives them to.

    Python's own handlers run in the main thread, but nobody wakes it where it waits for
    a lock and another thread has taken the signal: 29 of 450 SIGTERMs to a busy
    exporter were not heard so. What comes before ``wait`` is not lost either.
    """

    def __init__(self) -> None:
        self._awaited, self._told = socket.socketpair()
        self._told.setblocking(False)

    def __enter__(self) -> "Stop":
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return self

    def wait(self) -> None:
        """Until one of them has come."""
        self._awaited.recv(1)

    def __exit__(self, *_: object) -> None:
        # The handlers stay: a second Ctrl-C does not cut the last commit off.
        signal.set_wakeup_fd(-1)
        self._awaited.close()
        self._told.close()


def run(config: DictConfig) -> int:
    """Run an exporter until SIGTERM or Ctrl-C; returns the exit status."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    gc.set_threshold(*_COLLECT_AT)
    try:
        values = OmegaConf.to_container(config, resolve=True)
        settings = Settings.of(values)  # type: ignore[arg-type]
        with Stop() as stop, App(settings, os.environ):
            stop.wait()
            logging.getLogger("exporter").info("stopping")
    except (StartError, JournalError, SettingsError, OmegaConfBaseException) as error:
        print(f"episight: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


@hydra.main(version_base=None, config_path=str(_CONF), config_name="exporter")
def _hydra_main(config: DictConfig) -> None:
    status = run(config)
    # Hydra has no way to return a status; nothing is left to be done after this.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """The command ``episight-exporter``."""
    # Said so, Hydra raises what it finds wrong, where else it prints several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _hydra_main()
    except (HydraException, OmegaConfBaseException) as error:
        # The first line names it; the next advise what would not help here.
        wrong = str(error).partition("\n")[0]
        print(f"episight: {wrong} (--cfg job shows all settings)", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
