"""Which exceptions are messages to a person, and which are bugs."""

OUR_PACKAGES = ("nanochat", "kernels")


def is_message(error: BaseException) -> bool:
    """Whether this is an error type of this project: one sentence with its remedy, fit to be shown as it is.

    All of them are subclasses of ValueError. A plain ValueError, or one of Python's own such as UnicodeEncodeError,
    was raised by code that did not expect it: a bug, whose text helps nobody without the traceback.
    """
    return isinstance(error, ValueError) and type(error).__module__.partition(".")[0] in OUR_PACKAGES
