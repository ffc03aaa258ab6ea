"""One run of Terraform: python-terraform's command lines, with an environment and a deadline.

python-terraform itself gives the child our whole environment, no time limit and our standard
input, and keeps values in /tmp when it dies, so only its command lines are used (one object a run).
"""

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from python_terraform import Terraform as PythonTerraform

from innkeeper.substrate.failure import TerraformFailed, TerraformInterrupted, redact

_log = logging.getLogger(__name__)

GRACE_SECONDS = 15.0
"""Between the interrupt, at which Terraform saves its state, and the kill."""

_LOOK_SECONDS = 1.0
"""How often it is looked whether the host still answers."""

_INHERITED = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TMPDIR",
        "SSH_AUTH_SOCK",
        "XDG_RUNTIME_DIR",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    }
)
"""What a provider may see of our environment; our own keys and addresses are not among it."""


@dataclass(frozen=True)
class Result:
    """How a run of Terraform ended."""

    code: int
    out: str
    err: str


def child_environment(cli_config: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a Terraform process."""
    environment = {k: v for k, v in os.environ.items() if k in _INHERITED}
    environment |= {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1"}
    if cli_config.exists():
        environment["TF_CLI_CONFIG_FILE"] = str(cli_config)
    return {**environment, **extra}


class Command(PythonTerraform):  # type: ignore[misc]  # python-terraform is untyped
    """Terraform in `root`; output goes to files in `scratch`, so that it outlives our pipe.

    A worker that is killed must not take Terraform with it in mid-apply, before its state is
    written: hence a session of its own, and no pipe that would break.
    """

    def __init__(
        self,
        binary: str,
        root: Path,
        scratch: Path,
        environment: Mapping[str, str],
        deadline: float,
        answers: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(working_dir=str(root), terraform_bin_path=binary)
        self.variables = None  # an empty dict would become a file in /tmp
        self.scratch = scratch
        self.environment = dict(environment)
        self.deadline = deadline
        self.answers = answers

    def read_state_file(self, file_path: str | None = None) -> None:
        """Read nothing: states are the backend's, see `backend`."""

    def cmd(self, cmd: str, *args: str, **kwargs: Any) -> Result:
        """Run a Terraform command; options as in python-terraform.

        Raises:
            TerraformInterrupted: the deadline passed, or the host did not answer any more.
            TerraformFailed: there is no Terraform.
        """
        argv = self.generate_cmd_string(cmd, *args, **kwargs)
        _log.debug("Running %s in %s", argv, self.working_dir)
        out, err = self.scratch / "stdout", self.scratch / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            try:
                child = subprocess.Popen(
                    argv,
                    cwd=self.working_dir,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            except OSError as error:
                raise TerraformFailed(
                    f"Terraform cannot be started ({error.strerror}: {argv[0]}): run `make setup`."
                ) from error
            code = self._wait(child, cmd)
        return Result(code, *(redact(file.read_text(errors="replace")) for file in (out, err)))

    def _wait(self, child: "subprocess.Popen[bytes]", cmd: str) -> int:
        """Wait for the end; a provider whose libvirtd went away would wait for ever."""
        why = "did not end in its time"
        try:
            while (left := self.deadline - monotonic()) > 0:
                try:
                    return child.wait(min(left, _LOOK_SECONDS))
                except subprocess.TimeoutExpired:
                    if self.answers is not None and not self.answers():
                        why = "lost its host"
                        break
        except BaseException:
            _end(child)
            raise
        _end(child)
        raise TerraformInterrupted(f"Terraform's {cmd} {why} and was stopped: it is tried again.")


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask Terraform to stop and save its state, then kill it and its provider."""
    child.send_signal(signal.SIGINT)
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
