"""Addresses of stores: what is printed of a URL, and what is not."""

import re

import pytest

from gtsa_kit.embedding.push.address import display_address, hide_secrets, secrets_of
from gtsa_kit.embedding.push.push import store_errors

URLS = {
    "postgresql://me:s3cr%40t@db.example:5432/images?sslmode=require&sslpassword=hush": (
        "postgresql://me@db.example:5432/images",
        {"s3cr%40t", "s3cr@t", "hush"},
    ),
    "postgresql://me@db.example/images": ("postgresql://me@db.example/images", set()),
    "postgresql:///images?host=/run/pg&password=a%26b": ("postgresql:///images", {"a&b", "a%26b"}),
    "postgresql://me:p@ss@h1:1,h2:2/images": ("postgresql://me@h1:1,h2:2/images", {"p@ss"}),
    "http://user:pw-1@localhost:6333": ("http://user@localhost:6333", {"pw-1"}),
    "https://localhost:6333/prefix?api_key=k-9#x": ("https://localhost:6333/prefix", {"k-9"}),
    "postgresql://me:p[℀@h/d": ("postgresql://me@h/d", {"p[℀"}),
    "s3://bucket/a@b": ("s3://bucket/a@b", set()),
    "folder/of:a@store": ("folder/of:a@store", set()),
}


@pytest.mark.parametrize("url", URLS)
def test_what_is_printed_of_an_address(url: str) -> None:
    displayed, secrets = URLS[url]
    assert display_address(url) == displayed
    assert secrets_of(url) == secrets
    hidden = hide_secrets(f"no connection to {url}", url)
    assert not any(secret in hidden for secret in secrets)
    assert hide_secrets(f"no connection to {displayed}", url) == f"no connection to {displayed}"


@pytest.mark.parametrize(
    "end",
    ["hu%zzsh@h/d", "hu sh@h/d", "hush@h:port/d", "x@h/d?password=hu%zzsh", "x@h/d?sslpassword=hush&sslmode=hush"],
)
def test_errors_about_a_url_do_not_repeat_its_secrets(end: str) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    url = f"postgresql://me:{end}"
    with pytest.raises(RuntimeError) as failed, store_errors("pgvector", url):
        psycopg.connect(url)
    assert not {"hush", "hu%zzsh", "hu sh"} & set(re.findall(r"[\w% ]+", str(failed.value)))
    assert failed.value.__suppress_context__


@pytest.mark.parametrize("password", ["pa/ss", "pa?ss", "pa#ss"])
def test_a_password_that_is_not_encoded_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(ValueError, match="%2F") as refused:
        display_address(f"postgresql://me:{password}@localhost/images")
    assert password not in str(refused.value)
