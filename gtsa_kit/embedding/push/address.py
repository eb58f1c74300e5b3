"""Addresses of stores: a path, or a URL whose secrets are never printed."""

from urllib.parse import parse_qsl, unquote

SECRET_WORDS = ("pass", "key", "token", "secret", "sig", "credential")
"""Parts of the names of parameters whose values are secret."""


def display_address(where: str) -> str:
    """Return a path as it is, and a URL without password and parameters.

    Raises:
        ValueError: A part of the password may lie outside of its place.
    """
    if "://" not in where:
        return where
    scheme, rest = where.split("://", 1)
    authority, end = _split_authority(rest)
    user, _, host = authority.rpartition("@")
    if "@" in end and not user and ":" in authority:
        raise ValueError("the URL has an @ after / ? or #; in a password write them as %2F, %3F and %23")
    user, path = user.partition(":")[0], end.partition("?")[0].partition("#")[0]
    return f"{scheme}://{user + '@' if user else ''}{host}{path}"


def hide_secrets(text: str, where: str) -> str:
    """Replace the secrets of a URL in a text, such as the message of a client library."""
    for secret in sorted(secrets_of(where), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def secrets_of(where: str) -> set[str]:
    """Return the password of a URL and the values of its secret parameters, percent-encoded and decoded."""
    if "://" not in where:
        return set()
    authority, end = _split_authority(where.split("://", 1)[1])  # urlsplit repeats the authority in its errors
    password = authority.rpartition("@")[0].partition(":")[2]
    query = end.partition("?")[2].partition("#")[0]
    parameters = [value for name, value in parse_qsl(query) if any(word in name.lower() for word in SECRET_WORDS)]
    written = [pair.partition("=")[2] for pair in query.split("&") if unquote(pair.partition("=")[2]) in parameters]
    return {secret for secret in (password, unquote(password), *parameters, *written) if secret}


def _split_authority(rest: str) -> tuple[str, str]:
    """Split what follows `scheme://` into user and host, and path with parameters."""
    end = min((position for mark in "/?#" if (position := rest.find(mark)) >= 0), default=len(rest))
    return rest[:end], rest[end:]
