"""Whatever huggingface_hub, the network or the disk raises → one HubError that says how to mend it."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub import errors as theirs

from irnet_convert.errors import HubError

_T = TypeVar("_T")

_LOG_IN = "run `hf auth login` or set HF_TOKEN"
_PASSING = (408, 429, 500, 502, 503, 504)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_WAITS = (0.5, 1.5)  # seconds before the second and the third attempt


_FAILURES = (
    OSError,
    httpx2.HTTPError,
    theirs.EntryNotFoundError,
    theirs.RevisionResolutionError,
    theirs.XetDownloadError,
)
_MISREAD = (httpx2.InvalidURL, ValueError, TypeError, KeyError, AttributeError, AssertionError)
_KINDS = (*_FAILURES, *_MISREAD, RuntimeError)
# What huggingface_hub puts around something that happened: "not in the cache", "Error while uploading".
_AROUND = (theirs.LocalEntryNotFoundError, theirs.RevisionResolutionError, RuntimeError)


@contextmanager
def told(asked: str, *, again: bool = True) -> Iterator[None]:
    """Raise what happens inside as a HubError.

    Args:
        asked: what was asked for, as in ``"the file hf://org/name/recipe.yaml"``.
        again: whether it was :func:`patiently` tried again, as the error then says.
    """
    try:
        yield
    except HubError:
        raise
    except _KINDS as error:
        cause = _cause(error)
        if isinstance(cause, (RuntimeError, *_FAILURES)) and not isinstance(cause, theirs.FileMetadataError):
            raise _translated(asked, cause, again) from error
        # What huggingface_hub's own parsing raises when the answer is not what the Hub sends.
        raise HubError(
            f"{asked}: what came back is no answer of the Hub ({type(error).__name__}: {_said(str(error))})",
            expected="the Hub's answer",
            mend="check HF_ENDPOINT and the proxy; a login page of a network answers like this too",
        ) from error


def patiently(call: Callable[[], _T]) -> _T:
    """``call()``, repeated twice where the failure may pass: a broken connection, a server's error."""
    for wait in _WAITS:
        try:
            return call()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(wait)
    return call()


def _may_pass(error: BaseException | None) -> bool:
    if isinstance(error, theirs.RevisionResolutionError):
        return _may_pass(error.__cause__)  # (huggingface_hub repeats the requests of a download by itself)
    if isinstance(error, theirs.HfHubHTTPError):
        return error.response.status_code in _PASSING
    return isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.ProxyError)


def _cause(error: BaseException) -> BaseException:
    """What lies behind an error that is put around another, where something does."""
    while isinstance(error, _AROUND) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _translated(asked: str, error: BaseException, again: bool) -> HubError:
    if isinstance(error, theirs.HfHubHTTPError):
        came, expected, mend = _answered(error, again)
    elif isinstance(
        error, theirs.OfflineModeIsEnabled | theirs.LocalEntryNotFoundError | theirs.RevisionResolutionError
    ):
        came = "is not in the cache, and the Hub must not be asked (offline)"
        expected, mend = (
            "something that was fetched before",
            "fetch it once without --offline and HF_HUB_OFFLINE",
        )
    elif isinstance(error, httpx2.TransportError):
        came, expected, mend = _unreachable(error, again)
    elif isinstance(error, OSError):
        came, expected, mend = _disk(error)
    else:
        came = f"{type(error).__name__}: {_said(str(error))}"
        expected, mend = "the whole transfer", "try again later"
    return HubError(f"{asked}: {came}", expected=expected, mend=mend)


def _answered(error: theirs.HfHubHTTPError, again: bool) -> tuple[str, str, str]:
    """What a status of the Hub's means: what came back, what was expected, how to mend it."""
    status = error.response.status_code
    came = f"the Hub answered {status}" + (
        f" ({_said(error.server_message)})" if error.server_message else ""
    )
    if isinstance(error, theirs.GatedRepoError):
        return (
            f"{came}: the repository is gated",
            "a token of somebody who may read it",
            f"open its page on the Hub, accept its terms there, then {_LOG_IN}",
        )
    if isinstance(error, theirs.RepositoryNotFoundError):
        return (
            f"{came}: there is no such repository, or it is private",
            "a repository that exists and that your token may read",
            f"check the spelling; for a private one {_LOG_IN}",
        )
    if isinstance(error, theirs.RevisionNotFoundError):
        return f"{came}: there is no such revision", "a branch, a tag or a commit of it", "check the revision"
    if isinstance(error, theirs.EntryNotFoundError):
        return f"{came}: there is no such file", "a file of the repository", "check the file's name"
    if status in (401, 403):
        return f"{came}: your token does not allow it", "a token with that right", _LOG_IN
    if status == 429:
        return f"{came}: too many requests", "fewer", f"wait; logged in, the limit is higher: {_LOG_IN}"
    if status >= 500:
        failed = "the server failed" + ", also when asked again" * again
        return f"{came}: {failed}", "an answer", "try again later"
    return came, "an answer", "see what the Hub says"


def _unreachable(error: httpx2.TransportError, again: bool) -> tuple[str, str, str]:
    what = f"{type(error).__name__}: {_said(str(error))}"
    if isinstance(error, httpx2.ProxyError):
        return f"the proxy refused ({what})", "a proxy that lets the Hub through", "check HTTPS_PROXY"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return (
            f"the Hub cannot be reached ({what})",
            "a connection to the Hub",
            "check the network; --offline uses what was fetched before",
        )
    if not again:
        return (
            f"the connection broke ({what})",
            "the whole answer",
            "try again; a commit is whole or not there",
        )
    return (
        f"the connection broke, also when tried again ({what})",
        "the whole answer",
        "try again; what was fetched whole is kept",
    )


def _disk(error: OSError) -> tuple[str, str, str]:
    said = error.strerror or _said(str(error))
    if error.errno in _FULL:
        return (
            f"the disk of the cache is full ({said})",
            "room for the file",
            "make room, or set HF_HOME to a directory that has some",
        )
    if error.errno in _READ_ONLY:
        return (
            f"the cache cannot be written to ({said})",
            "a directory to write to",
            "set HF_HOME to a directory that you may write to",
        )
    return (
        said,
        "the whole file, in the cache",
        "try again; if it stays, remove the repository from the cache",
    )


def _said(text: str | None) -> str:
    """A server's words in one short line of plain characters."""
    line = " ".join((text or "").split())
    plain = "".join(char if char.isprintable() else "?" for char in line)
    return plain if len(plain) <= 200 else f"{plain[:200]}..."
