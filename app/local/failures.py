"""What can be expected to fail on one machine."""


class Failure(Exception):  # noqa: N818 - errors here state the fact
    """The message is for whoever runs the command: one sentence, no trace beside it."""
