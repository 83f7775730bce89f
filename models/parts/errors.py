"""The one kind of error that a person is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend. The message is one line: the file, what is wrong, the way out."""
