"""What ends a command: a user's own mistake, or a signal."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what, where and what to do.

    The command line prints it on stderr without a traceback and exits with 2.
    """


class Terminated(BaseException):
    """SIGTERM, so that a run can say how to resume it before it ends."""
