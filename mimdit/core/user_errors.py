"""User errors: shown as one paragraph, while bugs keep their traceback.

The policy:

- A ``ValueError`` or ``OSError`` raised by a ``raise`` statement of this project is a message to the user.
- An ``OSError`` that names a file is also one, wherever the system raised it (missing file, no permission, full disk).
- The same holds for an error passed on by a data loader worker, one that carries the traceback of another process as a note, or one
  wrapped by jsonargparse while it builds a class of this project.
- Everything else is a bug, of this project or of a library, and keeps its traceback. ``MIMDIT_TRACEBACK=1`` shows every traceback.
"""

import dis
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

EXIT_CODE = 2
"""Exit code of a command after a user error, the same as for an unknown option."""

_ROOT = Path(__file__).resolve().parents[2]
_OURS = tuple(str(_ROOT / package) + os.sep for package in ("mimdit", "datamodules", "callbacks"))
_WORKER_FRAME = re.compile(r'^  File "(?P<file>[^"]+)", line \d+, in .*\n    (?P<source>.*)\n', re.MULTILINE)


@contextmanager
def user_errors_in_one_paragraph() -> Iterator[None]:
    """Print a user error as one paragraph on stderr and exit with `EXIT_CODE`; let everything else propagate."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = None if os.environ.get("MIMDIT_TRACEBACK") == "1" else message_to_user(error)
        if message is None:
            raise
        print(f"error: {message}\n(MIMDIT_TRACEBACK=1 shows where this was raised.)", file=sys.stderr)
        sys.exit(EXIT_CODE)


def message_to_user(error: BaseException) -> str | None:
    """Return the paragraph to show for ``error``; None if it is a bug, not a user error."""
    if error.__traceback__ is None:
        return None
    if "DataLoader worker process" in str(error):
        return _message_from_worker(str(error))
    wrapped = error.__cause__ or error.__context__
    if wrapped is not None and _innermost(error).tb_frame.f_globals["__name__"].startswith("jsonargparse."):
        return message_to_user(wrapped)
    names_a_file = isinstance(error, OSError) and error.filename is not None
    remote = next((note for note in getattr(error, "__notes__", ()) if "Traceback (most recent call last):" in note), None)
    raised_by_us = _raised_by_us(_innermost(error)) if remote is None else _message_from_worker(remote) is not None
    if names_a_file or (isinstance(error, (ValueError, OSError)) and raised_by_us):
        return " ".join(str(error).split())
    return None


def _innermost(error: BaseException) -> TracebackType:
    trace = error.__traceback__
    assert trace is not None, "only raised errors are looked at"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _raised_by_us(trace: TracebackType) -> bool:
    """Return true if the frame belongs to this project and stopped at a ``raise``; a library's error about a call is a bug."""
    code = trace.tb_frame.f_code
    return code.co_filename.startswith(_OURS) and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]


def _message_from_worker(text: str) -> str | None:
    """Return the message from the text of a worker's traceback, after its last frame; None if it is a bug."""
    frames = list(_WORKER_FRAME.finditer(text))
    if not frames or not frames[-1]["file"].startswith(_OURS) or not frames[-1]["source"].startswith("raise "):
        return None
    final = re.search(r"^[\w.]*(?:Error|Exception): ", text[frames[-1].end() :], re.MULTILINE)
    return " ".join(text[frames[-1].end() + final.end() :].split()) if final else None
