"""A method whose process is killed, as by a machine that runs out of memory."""

import os
import signal

from kga.methods.none import NoUnlearning


class Deadly(NoUnlearning):
    """Leaves A_D as it is; with seed 1 there is nobody left to say so."""

    def require(self, study) -> None:
        if study.seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)
