"""The inputs of every case: servers, objects, number and length of the rounds."""

from dataclasses import dataclass

from stage import Stage

# A single sample of a latency contains the pauses of the machine. The least of several does not.
LATENCY_ROUNDS = 3


class Skip(Exception):
    """The case cannot run on this machine. The message is the reason."""


@dataclass
class Setup:
    stage: Stage
    objects: dict
    quick: bool
    rounds: int

    @property
    def seconds(self):
        return 1.0 if self.quick else 2.0

    @property
    def whole_seconds(self):
        """The length of a sample by a tool that measures in whole seconds."""
        return max(2, round(self.seconds))

    @property
    def latency_rounds(self):
        return max(LATENCY_ROUNDS, self.rounds)

    @property
    def store(self):
        """The store with all objects."""
        return self.stage.directory / "store"
