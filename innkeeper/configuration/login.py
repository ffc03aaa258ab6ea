"""Logging in to a guest over its forward: with our key, trusting only the known host key."""

import asyncio
import shlex
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain, repeat

import asyncssh

from innkeeper.configuration.target import Target
from innkeeper.errors import PermanentError, TransientError
from innkeeper.settings import settings


class LoginRefused(PermanentError):
    """The guest answers, but does not let us in, or is not the one whose key we know."""

    slug = "login-refused"
    title = "Login refused"


class GuestSilent(TransientError):
    """Nothing answers on the guest's SSH port yet."""

    slug = "guest-silent"
    title = "Guest does not answer"


class GuestCommandFailed(PermanentError):
    """A command in the guest ended with another exit code than 0."""

    slug = "guest-command-failed"
    title = "Command in the guest failed"


def run(target: Target, argv: Sequence[str], *, timeout: float) -> str:
    """Run a command in the guest and return what it printed; `timeout` in seconds for all of it.

    Blocking; must not be called on an event loop.

    Raises:
        GuestSilent: no answer in time.
        LoginRefused: the key was refused, or the host key is another one.
        GuestCommandFailed: the command failed.
    """
    return asyncio.run(_run(target, argv, timeout))


async def _connected(target: Target) -> socket.socket:
    """Return a connection, asked for anew often at first.

    A guest that is just coming up loses what is sent to it; by itself the kernel would send again
    after a second, and then (before Linux 6.5 at once) after ever longer times.

    Raises:
        OSError: it is refused at every address.
    """
    loop = asyncio.get_running_loop()
    places = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    refusal = OSError("no address")
    for patience in chain(repeat(0.5, 8), repeat(5.0)):  # the later ones are for hosts far away
        silent = False
        for family, kind, protocol, _name, address in places:
            with ExitStack() as opened:
                found = opened.enter_context(socket.socket(family, kind, protocol))
                found.settimeout(0)
                try:
                    async with asyncio.timeout(patience):
                        await loop.sock_connect(found, address)
                except TimeoutError:
                    silent = True
                except OSError as error:
                    refusal = error
                else:
                    opened.pop_all()
                    return found
        if not silent:
            break
    raise refusal


async def _run(target: Target, argv: Sequence[str], seconds: float) -> str:
    options = asyncssh.SSHClientConnectionOptions(
        username=target.user,
        client_keys=[str(settings().identity_file)],
        known_hosts=asyncssh.import_known_hosts(
            f"[{target.host}]:{target.port} {target.host_key}\n"
        ),
        config=None,
        agent_path=None,
        server_host_key_algs=["ssh-ed25519"],
    )
    try:
        async with asyncio.timeout(seconds):
            found = await _connected(target)
            async with asyncssh.connect(
                target.host, target.port, sock=found, options=options
            ) as connection:
                done = await connection.run(shlex.join(argv), check=False)
    except (TimeoutError, OSError, asyncssh.ConnectionLost) as error:
        raise GuestSilent(f"no answer ({type(error).__name__})") from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise LoginRefused("the guest shows another host key than the one it was given") from error
    except asyncssh.PermissionDenied as error:
        raise LoginRefused("the guest refuses our key") from error
    except asyncssh.Error as error:
        raise GuestSilent(f"SSH failed: {error.reason}") from error
    if done.exit_status != 0:
        raise GuestCommandFailed(f"{argv[0]} ended with {done.exit_status} in the guest.")
    return str(done.stdout or "")
