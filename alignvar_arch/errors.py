"""The one exception that a user's own mistake raises."""


class UserError(Exception):
    """A mistake the user can mend: one sentence that says what, where and what to do.

    The command line prints it on stderr without a traceback and exits with 2.
    """
