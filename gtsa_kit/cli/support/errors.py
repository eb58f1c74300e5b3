"""Sentences about errors that commands do not raise themselves."""

import errno

from gtsa_kit.extras import missing_extra

NETWORK_LIBRARIES = frozenset(
    "aiobotocore aiohttp azure botocore fsspec gcsfs google grpc httpcore httpx huggingface_hub requests s3fs "
    "urllib3".split()
)
"""Libraries whose errors mean that a server or the network between failed."""

FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Error numbers of a full disk or quota."""


def describe_failure(error: Exception) -> str:
    """Return one line of text, with a hint, for an error that ends a command."""
    if isinstance(error, ImportError):
        return _describe_import(error)
    if is_network_error(error):
        return describe_network_error(error)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        hint = "; free some space, then run it again, train and embed with --resume" if error.errno in FULL else ""
        return f"{error.strerror}{where}{hint}"
    return str(error) or type(error).__name__


def is_network_error(error: BaseException) -> bool:
    """Return whether an error is of a class of a client library, or a lost connection."""
    classes = (kind.__module__.partition(".")[0] for kind in type(error).__mro__)
    return isinstance(error, ConnectionError) or not NETWORK_LIBRARIES.isdisjoint(classes)


def describe_network_error(error: BaseException) -> str:
    """Return one sentence about a failed request, with the address if the error names it."""
    text = " ".join(str(error).split()) or type(error).__name__
    url = _url_of(error)
    where = f" of {url}" if url and url not in text else ""
    hint = "check the address and the connection, then run the command again"
    return f"the request{where} failed, {type(error).__name__}: {text}; {hint}"


def _url_of(error: BaseException) -> str:
    """Return the URL of the request; some libraries raise an error if it is unknown."""
    try:
        return str(error.request.url)  # type: ignore[attr-defined]
    except (AttributeError, RuntimeError):
        return ""


def _describe_import(error: ImportError) -> str:
    """Name the extra or the package to install, if the error names a module."""
    if sentence := missing_extra(error):
        return str(error) if "gtsa-kit[" in str(error) else sentence
    module = (error.name or "").partition(".")[0]
    if not module or module == "gtsa_kit":
        return f"a library can't be imported: {error}"
    return f"{module} is not installed or can't be imported ({error}); pip install {module}"
