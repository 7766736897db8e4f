"""NATS JetStream: the public suite on a real server, who is let in, and what its options do there."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import nkeys
import pytest
from nats.js.api import DiscardPolicy

from eventspine.brokers import _nats_intake, nats, open_broker
from eventspine.brokers.port import Needs
from eventspine.errors import BrokerError, MessageRefused, SettingsError
from eventspine.testing.conformance import BrokerCapabilities, BrokerConformance, CarriedSite, apart
from eventspine.testing.conformance.brokers.reading import message, messages, reading, sent
from eventspine.testing.servers import Proxy, Server, free_ports, named

NEEDS = Needs(["talk"], [("talk", "listener.talk")])


@pytest.fixture
def network(nats_server: Server) -> Iterator[Proxy]:
    with nats_server.proxy() as proxy:
        yield proxy


@pytest.mark.setup("nats")
class TestNats(BrokerConformance):
    capabilities = BrokerCapabilities(processes=True, server=True, cuts=True, full=True, topology=True, claims=True)
    features = nats.from_url("nats://localhost").features

    async def make(self, nats_server: Server, network: Proxy, tmp_path: Path) -> CarriedSite:
        url = apart(network.url + "/?partitions=4&silent_s=2")
        return Site(url, tmp_path, server=nats_server, network=network)


class Site(CarriedSite):
    async def fill(self) -> None:
        await self._limit(1)

    async def empty(self) -> None:
        await self._limit(-1)

    async def _limit(self, bytes_max: int) -> None:
        """Of the stream, which takes nothing more beyond that."""
        broker = self._own
        assert isinstance(broker, nats.NatsBroker)
        config = (await broker.js.stream_info(broker.stream("talk"))).config
        await broker.js.update_stream(config.evolve(max_bytes=bytes_max, discard=DiscardPolicy.NEW))


# --- what the options do ------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[nats.NatsBroker]:
    broker = open_broker(url)
    assert isinstance(broker, nats.NatsBroker)
    await broker.open()
    try:
        yield broker
    finally:
        await broker.close()


async def test_prefix_partitions_and_keep_days_are_those_of_the_stream(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=opt.&partitions=3&keep_days=2") as broker:
        assert [one.what for one in await broker.apply(NEEDS)] == ["stream opt_talk", "bucket opt_eventspine"]
        config = (await broker.js.stream_info("opt_talk")).config
        assert config.subjects == ["opt.talk.p0", "opt.talk.p1", "opt.talk.p2"]
        assert config.max_age == 2 * 86_400
        assert config.num_replicas == 1
        found = {one.what: one.says for one in await broker.findings(NEEDS)}
        assert "max_age" in found["stream of talk"]


async def test_a_limit_is_said_for_what_it_does_when_it_is_reached(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=lim.") as broker:
        await broker.apply(NEEDS)
        config = (await broker.js.stream_info("lim_talk")).config
        for discard, says in (
            (DiscardPolicy.OLD, "drops its oldest"),
            (DiscardPolicy.NEW, "takes nothing more when it is full"),
        ):
            await broker.js.update_stream(config.evolve(max_bytes=1_000_000, discard=discard))
            (found,) = [one.says for one in await broker.findings(NEEDS) if "max_bytes=1e+06" in one.says]
            assert says in found


async def test_replicas_are_asked_for(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=rep.&replicas=3") as broker:
        assert "3 replicas" in (await broker.differences(NEEDS))[0].wanted
        with pytest.raises(BrokerError, match="replicas"):  # this server is alone
            await broker.apply(NEEDS)


async def test_another_number_of_partitions_is_reported_and_not_made(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=num.&partitions=4") as broker:
        await broker.apply(NEEDS)
    async with connected(f"{nats_server.url}/?prefix=num.&partitions=6") as broker:
        (one,) = await broker.differences(NEEDS)
        assert (one.wanted, one.found, one.safe) == (
            "6 partitions, 1 replica",
            "4 partitions, 1 replica",
            False,
        )
        assert await broker.apply(NEEDS) == []
        assert await broker.partitions("talk") == 4, "what is there is what counts"


async def test_silence_is_noticed_within_silent_s(nats_server: Server):
    with nats_server.proxy() as network:
        async with connected(f"{network.url}/?prefix=quiet.&silent_s=0.5") as broker:
            await broker.apply(NEEDS)
            async with reading(broker) as reader:
                network.cut()
                loop = asyncio.get_running_loop()
                began = loop.time()
                with pytest.raises(BrokerError):
                    while loop.time() - began < 30:
                        await reader.intake.fetch(1, 0.1)
                network.mend()


async def test_paused_with_something_in_hand_a_fetch_waits(nats_server: Server):
    """Its owner asks again and again: were it to return at once, nothing else would get a turn."""
    async with connected(f"{nats_server.url}/?prefix=rest.") as broker:
        await broker.apply(NEEDS)
        async with reading(broker) as reader:
            await sent(broker, *messages(broker, 3))
            await reader.read(1, most=1)
            async with asyncio.timeout(30):
                while len(reader.intake._shelf) < 2:
                    await asyncio.sleep(0.01)
            reader.intake.pause()
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await reader.fetch(10, 0.3) == []
            assert loop.time() - began > 0.25
            reader.intake.resume()
            await reader.read(2)


async def test_a_call_ends_within_timeout_s(nats_server: Server):
    with nats_server.proxy() as network:
        async with connected(f"{network.url}/?prefix=slow.&timeout_s=0.5") as broker:
            await broker.apply(NEEDS)
            one, two = messages(broker, 2)
            await sent(broker, one)
            network.cut()
            async with asyncio.timeout(30):
                (answer,) = await broker.send([two])
            assert isinstance(answer, BrokerError)
            network.mend()


async def test_the_servers_own_limit_is_known_once_it_is_connected(tmp_path: Path, nats_server: Server):
    with serving(tmp_path, {"max_payload": "64KB"}) as server:
        async with connected(server.url) as broker:
            assert broker.features.message_bytes_max == 65_536 - nats.HEADROOM
    with serving(tmp_path / "large", {"max_payload": "8MB"}) as server:
        async with connected(server.url) as broker:
            assert broker.features.message_bytes_max == 8 * 1024 * 1024 - nats.HEADROOM
            await broker.apply(NEEDS)
            large = message(broker.features.prefix, 1, data=bytes(8_000_000))
            await sent(broker, large)
            async with reading(broker) as reader:
                assert await reader.ids(1) == [large.id]


async def test_a_message_over_the_servers_limit_is_refused_and_the_others_go_on(nats_server: Server, tmp_path: Path):
    """The server itself would end the connection."""
    with serving(tmp_path, {"max_payload": "64KB"}) as server:
        async with connected(server.url) as broker:
            await broker.apply(NEEDS)
            small, large = messages(broker, 2)
            large = large._replace(headers={**large.headers, "ce-note": "x" * 70_000})
            first, second, third = await broker.send([small, large, small])
            assert (first, third) == (None, None)
            assert isinstance(second, MessageRefused)
            assert "65,536" in str(second)


async def test_a_stream_that_is_gone_is_an_answer_that_is_missing(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=gone.") as broker:
        await broker.apply(NEEDS)
        one, two = messages(broker, 2)
        await sent(broker, one)
        await broker.js.delete_stream("gone_talk")
        (answer,) = await broker.send([two])
        assert isinstance(answer, BrokerError)
        assert not isinstance(answer, MessageRefused)
        assert "no stream" in str(answer)


async def test_what_nobody_takes_since_subjects_were_taken_away_goes_to_those_that_are_left(nats_server: Server):
    async with connected(f"{nats_server.url}/?prefix=fewer.&partitions=4") as broker:
        await broker.apply(NEEDS)
        last = messages(broker, 1)[0]._replace(slot=3)
        await sent(broker, last)
        config = (await broker.js.stream_info("fewer_talk")).config
        await broker.js.update_stream(config.evolve(subjects=["fewer.talk.p0", "fewer.talk.p1"]))
        again = last._replace(headers={**last.headers, "ce-sequence": "99"})
        (answer,) = await broker.send([again])
        assert "no stream of this subject answers" in str(answer)
        assert [None] == [*await broker.send([again])]
        await broker.js.delete_stream("fewer_talk")
        await broker.send([again])
        with pytest.raises(BrokerError, match="spine topology apply"):
            await broker.send([again])


def test_a_message_of_a_domain_says_where_it_stands_as_one_without():
    without = b"$JS.ACK.talk.listener_p0.1.17.5.1764366000123456789.3"
    within = b"$JS.ACK.hub.ACCOUNT.talk.listener_p0.1.17.5.1764366000123456789.3"
    for reply in (without, within, within + b".token"):
        assert _nats_intake._place(reply) == (17, 5, 1764366000123456789, 3)


async def test_one_of_several_servers_is_enough(nats_server: Server):
    away = free_ports()
    async with connected(f"nats://127.0.0.1:{away},{nats_server.address}/?prefix=two.&timeout_s=30") as broker:
        await broker.apply(NEEDS)


async def test_what_can_not_be_reached_is_said_at_once():
    async with asyncio.timeout(20):
        with pytest.raises(BrokerError, match=r"can't be reached: .*Connect call failed"):
            await open_broker(f"nats://127.0.0.1:{free_ports()}/?timeout_s=60").open()


# --- who is let in ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """With the settings of a test. Beside `nats_server`, which says whether there is one to start."""
    with named("nats")(folder / "nats", settings=settings) as server:
        yield server


USER = {"authorization": '{user: "shop", password: "pa:ss/w@rd"}'}
TOKEN = {"authorization": '{token: "t0k3n-of-ours"}'}


async def let_in(url: str) -> None:
    """To everything that is done there."""
    async with connected(url) as broker:
        await broker.apply(NEEDS)
        (one,) = messages(broker, 1)
        await sent(broker, one)
        async with reading(broker) as reader:
            assert await reader.ids(1) == [one.id]


async def kept_out(url: str, *secrets: str) -> None:
    broker = open_broker(url)
    async with asyncio.timeout(30):
        with pytest.raises(BrokerError) as refused:
            await broker.open()
    for secret in secrets:
        assert secret not in f"{refused.value} {refused.value.details} {broker.url} {broker!r}"
    await broker.close()


async def test_a_user_with_a_password(tmp_path: Path, nats_server: Server, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    with serving(tmp_path, USER) as server:
        await let_in(f"nats://shop:pa%3Ass%2Fw%40rd@{server.address}")
        await kept_out(f"nats://shop:wr0ng-one@{server.address}", "wr0ng-one")
        await kept_out(server.url)
    assert "pa:ss" not in caplog.text
    assert "wr0ng-one" not in caplog.text


def rights(*publish: str) -> dict[str, str]:
    allowed = ", ".join(f'"{subject}"' for subject in publish)
    return {
        "authorization": "{users: [{user: all, password: pw}, {user: shop, password: pw, "
        f'permissions: {{publish: [{allowed}], subscribe: "_INBOX.>"}}}}]}}'
    }


async def test_a_right_that_is_missing_is_named(tmp_path: Path, nats_server: Server):
    """The server answers nothing, and says why elsewhere."""
    with serving(tmp_path, rights("$JS.API.INFO")) as server:
        async with connected(f"nats://shop:pw@{server.address}/?timeout_s=1") as broker:
            with pytest.raises(BrokerError) as refused:
                await broker.differences(NEEDS)
    assert "may not publish to" in str(refused.value)
    assert "$js.api.stream.info.talk" in str(refused.value)


async def test_a_right_that_is_missing_to_read_is_named_where_nothing_comes(tmp_path: Path, nats_server: Server):
    allowed = "$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.CREATE.>", "$JS.API.CONSUMER.DELETE.>"
    with serving(tmp_path, rights(*allowed)) as server:
        async with connected(f"nats://all:pw@{server.address}") as broker:
            await broker.apply(NEEDS)
        async with connected(f"nats://shop:pw@{server.address}/?silent_s=1") as broker, reading(broker) as reader:
            with pytest.raises(BrokerError, match="may not publish to .*consumer.msg.next.talk"):
                await reader.ids(1)


async def test_a_token(tmp_path: Path, nats_server: Server):
    with serving(tmp_path, TOKEN) as server:
        await let_in(f"{server.url}/?token=t0k3n-of-ours")
        await kept_out(f"{server.url}/?token=an0ther-one", "an0ther-one")


async def test_an_nkey(tmp_path: Path, nats_server: Server):
    seed, public = new_user()
    file = tmp_path / "seed"
    file.write_bytes(seed)
    other, _ = new_user()
    (tmp_path / "other").write_bytes(other)
    with serving(tmp_path, {"authorization": f'{{users: [{{nkey: "{public}"}}]}}'}) as server:
        await let_in(f"{server.url}/?nkey_seed_file={file}")
        await kept_out(f"{server.url}/?nkey_seed_file={tmp_path / 'other'}", other.decode())
        (tmp_path / "bad").write_text("SUNOTASEED")
        await kept_out(f"{server.url}/?nkey_seed_file={tmp_path / 'bad'}", "SUNOTASEED")


def new_user() -> tuple[bytes, str]:
    return new_key(nkeys.PREFIX_BYTE_USER)


def new_key(kind: int) -> tuple[bytes, str]:
    """As `nk -gen user` makes them: the seed, and the public key."""
    raw = os.urandom(32)
    seed = nkeys.encode_seed(raw, kind)
    return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_credentials_of_an_account(tmp_path: Path, nats_server: Server):
    """A server whose operator vouches for accounts, and those for their users, as `nsc` sets them up."""
    operator, name = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    (ours, account), (_, system) = new_key(nkeys.PREFIX_BYTE_ACCOUNT), new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    stored = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    known = {
        account: vouched(
            operator, name, account, {"type": "account", "limits": {**limits, **stored, "wildcards": True}}
        ),
        system: vouched(operator, name, system, {"type": "account", "limits": {**limits, "wildcards": True}}),
    }
    settings = {
        "operator": vouched(operator, name, name, {"type": "operator"}),
        "system_account": system,
        "resolver": "MEMORY",
        "resolver_preload": "{" + ", ".join(f"{one}: {said}" for one, said in known.items()) + "}",
    }
    stranger, _ = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    with serving(tmp_path, settings) as server:
        await let_in(f"{server.url}/?credentials={credentials(tmp_path / 'ours.creds', ours, account)}")
        bad = credentials(tmp_path / "others.creds", stranger, account)
        await kept_out(f"{server.url}/?credentials={bad}", *secrets_of(bad))
        await kept_out(server.url)


def vouched(seed: bytes, issuer: str, subject: str, says: Mapping[str, object]) -> str:
    """What one key says of another, signed."""
    claims = {"jti": subject, "iat": 1_700_000_000, "iss": issuer, "sub": subject, "name": says["type"]}
    parts = ({"typ": "JWT", "alg": "ed25519-nkey"}, {**claims, "nats": {**says, "version": 2}})
    text = ".".join(_plain(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_plain(nkeys.from_seed(bytearray(seed)).sign(text.encode()))}"


def _plain(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def credentials(file: Path, account_seed: bytes, account: str) -> Path:
    """A file of a new user's, for whom this account vouches."""
    seed, user = new_user()
    unlimited = {"type": "user", "subs": -1, "data": -1, "payload": -1}
    jwt = vouched(account_seed, account, user, unlimited)
    file.write_text(
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
    )
    return file


def secrets_of(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("-")]


async def test_tls_with_an_authority_of_ones_own(tmp_path: Path, nats_server: Server):
    made = certificates(tmp_path)
    settings = {"tls": f'{{cert_file: "{made["server"]}.pem", key_file: "{made["server"]}.key"}}'}
    with tls_server(tmp_path, settings) as server:
        await let_in(f"{server.url}/?tls_ca={made['ca']}.pem")
        await kept_out(f"{server.url}/?tls=yes")  # signed by nobody that this machine trusts
        await kept_out(server.url)


async def test_tls_with_a_certificate_of_the_client(tmp_path: Path, nats_server: Server):
    made = certificates(tmp_path)
    settings = {
        "tls": f'{{cert_file: "{made["server"]}.pem", key_file: "{made["server"]}.key", ca_file: "{made["ca"]}.pem", verify: true}}'
    }
    ca, client = f"tls_ca={made['ca']}.pem", f"tls_cert={made['client']}.pem&tls_key={made['client']}.key"
    with tls_server(tmp_path, settings) as server:
        await let_in(f"{server.url}/?{ca}&{client}")
        await kept_out(f"{server.url}/?{ca}")


async def test_a_password_is_not_told_to_a_server_without_tls_when_the_url_asks_for_it(nats_server: Server):
    with nats_server.proxy() as network:
        url = f"nats://shop:secret-word@{network.address}/?tls=yes"
        with pytest.raises(BrokerError, match="does not speak TLS"):
            await open_broker(url).open()
        assert network.passed_bytes["server"] == 0


@contextmanager
def tls_server(folder: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    with serving(folder, settings) as server:
        yield server


def certificates(folder: Path) -> dict[str, Path]:
    """An authority, and what it has signed for the server and for a client."""
    made = {name: folder / name for name in ("ca", "server", "client")}
    new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    openssl(f"{new} -subj /CN=authority -keyout {made['ca']}.key -out {made['ca']}.pem")
    for name in ("server", "client"):
        signed = f"-CA {made['ca']}.pem -CAkey {made['ca']}.key -addext subjectAltName=IP:127.0.0.1"
        usage = "-addext basicConstraints=critical,CA:FALSE"
        openssl(f"{new} -subj /CN={name} {signed} {usage} -keyout {made[name]}.key -out {made[name]}.pem")
    return made


def openssl(line: str) -> None:
    subprocess.run(["openssl", *line.split()], check=True, capture_output=True)


# --- URLs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("partitions=0", "partitions='0'"),
        ("partitions=961", "partitions='961'"),
        ("replicas=6", "replicas='6'"),
        ("keep_days=-1", "keep_days='-1'"),
        ("timeout_s=0", "timeout_s='0'"),
        ("silent_s=never", "silent_s='never'"),
        ("tls=perhaps", "tls='perhaps'"),
        ("tls_ca=/not/there.pem", "^tls_ca='/not/there.pem' in .* is not a readable file"),
        ("prefix=a*b", "prefix='a\\*b' in .* is not of words"),
        ("prefix=a..b", "is not of words"),
        ("prefix=.", "is not of words"),
        ("credentials=/not/there.creds", "readable file"),
        ("nkey_seed_file=/not/there", "readable file"),
        ("partition=4", "Did you mean partitions"),
    ],
)
def test_an_option_that_can_not_be_is_refused_with_its_name(options: str, said: str):
    with pytest.raises(SettingsError, match=said):
        nats.from_url(f"nats://localhost/?{options}")


def test_a_path_is_refused_where_another_broker_would_have_something_there():
    with pytest.raises(SettingsError, match="names a path, and NATS has none"):
        nats.from_url("nats://localhost/shop")


def test_no_secret_is_shown():
    broker = nats.from_url("nats://shop:hunter2@a:1,b:2/?token=t0k3n")
    assert broker.url == "nats://shop:…@a:1,b:2?token=…"
    assert "hunter2" not in repr(broker.settings)
    assert "t0k3n" not in repr(broker.settings)
