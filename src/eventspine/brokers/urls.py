"""URLs of brokers: who logs in where, and options of which none is passed over. A secret is never shown.

    scheme://user:password@host1:port,host2:port/path?option=value

Percent-encode what is special in a user name or password."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NoReturn
from urllib.parse import parse_qsl, unquote

from ..errors import SettingsError

_SECRET = ("password", "secret", "token", "seed", "jwt", "pem")


@dataclass
class BrokerUrl:
    """Options are taken one by one, by the adapter that knows them; `refuse_the_rest` then names what nobody took."""

    scheme: str
    user: str
    password: str = field(repr=False)
    hosts: Sequence[str]  # "host:port"
    path: str
    shown: str  # for people: without secrets
    _left: dict[str, str] = field(repr=False)
    _known: list[str] = field(default_factory=list, repr=False)
    _secrets: list[str] = field(default_factory=list, repr=False)

    def masked(self, text: str) -> str:
        """This text of a client or server, without our secrets."""
        for secret in filter(None, self._secrets):
            text = text.replace(secret, "…")
        return text

    def text(self, name: str, otherwise: str = "") -> str:
        self._known.append(name)
        return self._left.pop(name, otherwise)

    def file(self, name: str) -> str:
        path = self.text(name)
        if path and not os.access(path, os.R_OK):
            self.refuse(name, path, "a readable file")
        return path

    def prefix(self, pattern: str, expected: str) -> str:
        """Of names at the broker."""
        given = self.text("prefix")
        return given if not given or re.fullmatch(pattern, given) else self.refuse("prefix", given, expected)

    def starting_with(self, start: str) -> list[str]:
        """Names of options that are there and not taken yet."""
        return [name for name in self._left if name.startswith(start)]

    def one_of(self, name: str, words: Sequence[str], otherwise: str) -> str:
        value = self.text(name, otherwise)
        return value if value in (*words, otherwise) else self.refuse(name, value, f"one of {', '.join(words)}")

    def yes(self, name: str, *, default: bool) -> bool:
        return self.one_of(name, ("yes", "no"), "yes" if default else "no") == "yes"

    def number(self, name: str, otherwise: int, *, least: int = 1, most: int = 2**31 - 1) -> int:
        value = self.text(name, str(otherwise))
        if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            self.refuse(name, value, f"a whole number from {least:,} to {most:,}")
        return int(value)

    def seconds(self, name: str, otherwise: float, *, most: float = 3600.0) -> float:
        value = self.text(name, str(otherwise))
        try:
            number = float(value)
        except ValueError:
            number = 0.0
        return (
            number if 0.1 <= number <= most else self.refuse(name, value, f"a number of seconds from 0.1 to {most:g}")
        )

    def tls(self, *, default: bool = False) -> ssl.SSLContext | None:
        """By tls=yes|no, tls_ca, tls_cert and tls_key, which are files; None: in the clear."""
        authority, certificate, key = self.file("tls_ca"), self.file("tls_cert"), self.file("tls_key")
        if not self.yes("tls", default=default or bool(authority or certificate)):
            return None
        try:
            context = ssl.create_default_context(cafile=authority or None)
            if certificate:
                context.load_cert_chain(certificate, key or None)
        except OSError as error:
            files = " ".join(filter(None, (authority, certificate, key)))
            self.refuse("tls_ca, tls_cert or tls_key", files, f"what TLS can use ({error})")
        return context

    def refuse(self, name: str, value: str, expected: str) -> NoReturn:
        told = "…" if _is_secret(name) else repr(value[:80])
        raise SettingsError(f"{name}={told} in {self.shown} is not {expected}.", url=self.shown, option=name)

    def refuse_the_rest(self) -> None:
        for name in self._left:
            close = get_close_matches(name, self._known, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"There are {', '.join(sorted(self._known))}."
            raise SettingsError(f"{name!r} in {self.shown} is no option of it. {meant}", url=self.shown, option=name)


def parse(url: str, *, port: int, example: str) -> BrokerUrl:
    """`port`: where a host names none. `example` is shown to whoever wrote what can't be read."""
    scheme, _, rest = url.partition("://")
    # The last @ before the options: a password that should have been percent-encoded may hold @ and /.
    before, _, query = rest.partition("?")
    credentials, _, place = before.rpartition("@")
    hosts, _, path = place.partition("/")
    user, _, password = credentials.partition(":")
    pairs = parse_qsl(query, keep_blank_values=True)
    shown = _shown(scheme, user, bool(password), hosts, path, pairs)
    options = dict(pairs)
    if not hosts or len(options) < len(pairs):
        raise SettingsError(
            f"{shown!r} can't be read as the URL of a broker, or has an option twice. Write {example}", url=shown
        )
    secrets = [unquote(password), password, *(value for name, value in pairs if _is_secret(name))]
    addresses = [_address(host, port, shown, example) for host in hosts.split(",")]
    return BrokerUrl(scheme, unquote(user), unquote(password), addresses, path, shown, options, _secrets=secrets)


def _is_secret(name: str) -> bool:
    return any(word in name for word in _SECRET)


def _shown(scheme: str, user: str, password: bool, hosts: str, path: str, pairs: Sequence[tuple[str, str]]) -> str:
    whom = f"{user}{':…' if password else ''}@" if user or password else ""
    options = "&".join(f"{name}={'…' if _is_secret(name) else value}" for name, value in pairs)
    return f"{scheme}://{whom}{hosts}{f'/{path}' if path else ''}{f'?{options}' if options else ''}"


def _address(host: str, port: int, shown: str, example: str) -> str:
    name, colon, given = host.rpartition(":")
    if not colon or host.endswith("]"):
        name, given = host, str(port)
    if not name or not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
        raise SettingsError(f"{host!r} in {shown} is no host and port. Write {example}", url=shown)
    return f"{name}:{given}"
