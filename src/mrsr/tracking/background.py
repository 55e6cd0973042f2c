"""Sends the log of a running training to the tracking store, in the background."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from mrsr.console import say
from mrsr.tracking import delivery

DELIVER_SECONDS = 60.0


class Delivery:
    """Uploads the log to the tracking store from time to time, without delaying the training.

    `log.jsonl` is authoritative; `mrsr sync` uploads later what was missed.
    """

    def __init__(self, folder: Path, settings: Any, *, active: bool) -> None:
        self.folder, self.settings = folder, settings
        self.active = active and settings.tracking.enabled
        self.thread: threading.Thread | None = None
        self.last = time.monotonic()

    def nudge(self) -> None:
        """Upload in the background, if the last upload is finished and a minute old."""
        old = time.monotonic() - self.last >= DELIVER_SECONDS
        if self.active and old and (self.thread is None or not self.thread.is_alive()):
            self._start()

    def finish(self) -> None:
        """Upload the rest; give up on a store that hangs after two minutes."""
        if not self.active:
            return
        if self.thread is not None:
            self.thread.join(DELIVER_SECONDS)
        self._start()
        if self.thread is not None:
            self.thread.join(2 * DELIVER_SECONDS)

    def _start(self) -> None:
        self.last = time.monotonic()
        self.thread = threading.Thread(target=self._deliver, name="tracking", daemon=True)
        self.thread.start()

    def _deliver(self) -> None:
        try:
            delivery.deliver(self.folder, self.settings)
        except Exception as error:
            say(f"warning: tracking failed ({type(error).__name__}), the local log is complete")
