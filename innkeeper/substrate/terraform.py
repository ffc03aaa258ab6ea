"""Plan, apply and read back the substrate with Terraform.

Every method may be called from any thread and process at once: runs of one workspace take turns,
runs of different workspaces do not meet. A killed worker leaves nothing that the next run cannot
take up.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any

from python_terraform import IsFlagged

from innkeeper.settings import Settings
from innkeeper.settings import settings as current_settings
from innkeeper.substrate import roots
from innkeeper.substrate.backend import State, backend
from innkeeper.substrate.command import Command, Result, child_environment
from innkeeper.substrate.failure import DestructiveChange, SubstrateBusy, TerraformFailed, failure
from innkeeper.substrate.spec import Root

Variables = Mapping[str, Any]
Adopt = Callable[[], Mapping[str, str]]

_FINGERPRINT = "fingerprint"
_CREATION = "workspace-creation"
_LOCK_TIMEOUT = "30s"
_CREATION_RETRY_SECONDS = 0.2
_REMAINS_SECONDS = 24 * 3600
_CHANGES = 2  # exit code of a plan that has something to do
_DESTROYS = re.compile(r"Plan: .* ([1-9]\d*) to destroy")
_REFRESHING = re.compile(r": (Refreshing state|Reading|Read complete)")


@dataclass(frozen=True)
class Plan:
    """What Terraform would do."""

    changed: bool
    text: str


@dataclass(frozen=True)
class Applied:
    """What Terraform did; `outputs` are the root's, by name."""

    changed: bool
    plan_text: str
    outputs: dict[str, Any] = field(default_factory=dict)


class Terraform:
    """The Terraform of one Innkeeper home."""

    def __init__(
        self, settings: Settings | None = None, *, answers: Callable[[], bool] | None = None
    ) -> None:
        """Take the current settings unless told others.

        `answers` tells whether the host that Terraform works on is still there: when it is not, a
        run is ended at once, not only at its deadline.
        """
        self.settings = settings or current_settings()
        self.answers = answers
        self.folder = self.settings.home / "terraform"
        self.backend = backend(self.settings)

    def apply(
        self,
        root: Root,
        workspace: str,
        variables: Variables | Callable[[State | None], Variables],
        *,
        on_plan: Callable[[str], None] | None = None,
        deadline_seconds: float | None = None,
        may_delete: Collection[str] = (),
        adopt: Adopt | None = None,
        is_present: Callable[[], bool] | None = None,
    ) -> Applied:
        """Bring a workspace to what the variables say; nothing is changed when it is there.

        Args:
            root: which root module.
            workspace: which state; it is made on first use.
            variables: the values, or a function of the present state that gives them (called while
                no other run can change it).
            on_plan: is given the plan's text before a change is applied.
            deadline_seconds: for everything together, waiting included.
            may_delete: addresses that the plan may delete or replace.
            adopt: asked when something exists that the state does not know (a run was killed
                before it could write it down); returns ids by address to take up.
            is_present: tells quickly whether everything is there. When it is, and these very
                variables were applied last, Terraform is not started: of many that wait for the
                same host, one applies.

        Raises:
            DestructiveChange: the plan would delete something that is not in `may_delete`.
            TransientError: busy, interrupted, or the host or database does not answer.
            TerraformFailed: any other failure, in Terraform's words.
        """
        with self._alone(workspace, deadline_seconds) as deadline:
            state = self.backend.state(workspace)
            values = variables(state) if callable(variables) else variables
            if is_present is not None and _was_applied(root, values, state) and is_present():
                return Applied(changed=False, plan_text="", outputs=self.outputs(workspace))
            with self._run(root, workspace, values, deadline) as run:
                plan = self._planned(run, known=state is not None)
                try:
                    applied = run.apply(plan, on_plan, may_delete)
                except TerraformFailed as error:
                    if adopt is None or "already exists" not in str(error):
                        raise
                    self._adopt(run, adopt())
                    applied = run.apply(run.plan(), on_plan, may_delete)
            return Applied(applied, plan.text, self.outputs(workspace))

    def plan(
        self,
        root: Root,
        workspace: str,
        variables: Variables,
        *,
        deadline_seconds: float | None = None,
    ) -> Plan:
        """Return what an apply would change: a drift check that changes nothing itself.

        Raises: as `apply`.
        """
        with (
            self._alone(workspace, deadline_seconds) as deadline,
            self._run(root, workspace, variables, deadline) as run,
        ):
            return self._planned(run, known=self.backend.state(workspace) is not None)

    def destroy(
        self,
        root: Root,
        workspace: str,
        variables: Variables,
        *,
        deadline_seconds: float | None = None,
    ) -> bool:
        """Remove everything in a workspace, and the workspace; return whether there was any.

        Raises: as `apply`.
        """
        with self._alone(workspace, deadline_seconds) as deadline:
            state = self.backend.state(workspace)
            if state is None:
                return False
            something = bool(addresses(state))
            if something:
                with self._run(root, workspace, variables, deadline) as run:
                    run.apply(run.plan(destroy=True), None, (), anything=True)
            self.backend.forget(workspace)
            return something

    def drop(self, workspace: str, *, lost: bool = False) -> None:
        """Forget an empty workspace, or with `lost` one whose host is gone; fine when none is.

        Raises:
            DestructiveChange: it still has resources, which nobody would know of any more.
        """
        with self._alone(workspace, None):
            left = addresses(self.backend.state(workspace) or {})
            if left and not lost:
                raise DestructiveChange(
                    f"The Terraform state {workspace} still has {', '.join(left)}: destroy them "
                    "before the state is dropped."
                )
            self.backend.forget(workspace)

    def workspaces(self) -> list[str]:
        """Return the names of all workspaces, without starting Terraform."""
        return sorted(self.backend.states())

    def resources(self, workspace: str) -> list[str]:
        """Return the addresses of what a workspace holds, without starting Terraform."""
        return addresses(self.backend.state(workspace) or {})

    def outputs(self, workspace: str) -> dict[str, Any]:
        """Return the outputs as of the last apply, without starting Terraform."""
        found = _outputs(self.backend.state(workspace) or {})
        found.pop(_FINGERPRINT, None)
        return found

    @contextmanager
    def _alone(self, workspace: str, deadline_seconds: float | None) -> Iterator[float]:
        seconds = deadline_seconds or self.settings.terraform_seconds
        deadline = monotonic() + seconds
        with self.backend.exclusive(workspace, seconds):
            yield deadline

    @contextmanager
    def _run(
        self, root: Root, workspace: str, variables: Variables, deadline: float
    ) -> Iterator["_Run"]:
        runs = self.folder / "runs"
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(runs)
        with tempfile.TemporaryDirectory(dir=runs, ignore_cleanup_errors=True) as made:
            scratch = Path(made)
            values = scratch / "terraform.tfvars.json"
            values.touch(mode=0o600)
            known = {**variables, _FINGERPRINT: roots.fingerprint(root, variables)}
            values.write_text(json.dumps(known))
            working = self._initialised(root, scratch, deadline)
            chosen = {"TF_WORKSPACE": workspace}
            yield _Run(self._command(working, scratch, chosen, deadline), workspace, values)

    def _initialised(self, root: Root, scratch: Path, deadline: float) -> Path:
        def init(working: Path) -> None:
            result = self._command(working, scratch, {}, deadline).init()
            if result.code:
                raise failure("initialise", f"the root '{root}'", result.err or result.out)

        tools = roots.tools_identity(
            self.settings.terraform_binary, self.settings.terraform_cli_config
        )
        configuration = self.backend.configuration()
        left = max(0.0, deadline - monotonic())
        return roots.initialised(
            root, self.folder / "roots", configuration, tools=tools, init=init, seconds=left
        )

    def _command(
        self, working: Path, scratch: Path, extra: Mapping[str, str], deadline: float
    ) -> Command:
        environment = child_environment(
            self.settings.terraform_cli_config, {**self.backend.environment(), **extra}
        )
        binary = self.settings.terraform_binary
        return Command(binary, working, scratch, environment, deadline, self.answers)

    def _planned(self, run: "_Run", *, known: bool) -> Plan:
        """Plan; new workspaces take turns, because on PostgreSQL two at once fail.

        Even so, Terraform's lock for their creation is also taken, for a moment, by everybody who
        locks an existing workspace, and it does not wait for that one: so it is tried again.
        """
        if known:
            return run.plan()
        left = run.command.deadline - monotonic()
        with self.backend.exclusive(_CREATION, max(0.0, left)):
            while True:
                try:
                    return run.plan()
                except SubstrateBusy:
                    if monotonic() > run.command.deadline:
                        raise
                    sleep(_CREATION_RETRY_SECONDS)

    def _adopt(self, run: "_Run", found: Mapping[str, str]) -> None:
        known = addresses(self.backend.state(run.workspace) or {})
        for address, identifier in found.items():
            if address not in known:
                run.take_up(address, identifier)


@dataclass(frozen=True)
class _Run:
    """Terraform in one workspace, with its variables in a file."""

    command: Command
    workspace: str
    values: Path

    @property
    def plan_file(self) -> Path:
        return self.command.scratch / "plan"

    def plan(self, *, destroy: bool = False) -> Plan:
        result = self.command.plan(
            destroy=IsFlagged if destroy else None,
            out=str(self.plan_file),
            var_file=str(self.values),
            lock_timeout=_LOCK_TIMEOUT,
        )
        if result.code not in {0, _CHANGES}:
            raise failure("plan", self.workspace, result.err or result.out)
        return Plan(result.code == _CHANGES, _told(result.out))

    def apply(
        self,
        plan: Plan,
        on_plan: Callable[[str], None] | None,
        may_delete: Collection[str],
        *,
        anything: bool = False,
    ) -> bool:
        """Apply the planned change; return whether there was one."""
        if not plan.changed:
            return False
        if not anything and _DESTROYS.search(plan.text):
            self._refuse_deletions(may_delete)
        if on_plan is not None:
            on_plan(plan.text)
        result = self.command.apply(str(self.plan_file), lock_timeout=_LOCK_TIMEOUT)
        if result.code:
            raise failure("apply", self.workspace, result.err or result.out)
        return True

    def take_up(self, address: str, identifier: str) -> None:
        """Write something that exists already into the state."""
        result: Result = self.command.cmd(
            "import",
            address,
            identifier,
            var_file=str(self.values),
            input=False,
            no_color=IsFlagged,
            lock_timeout=_LOCK_TIMEOUT,
        )
        if result.code:
            raise failure(f"take up {address} into", self.workspace, result.err or result.out)

    def _refuse_deletions(self, may_delete: Collection[str]) -> None:
        result: Result = self.command.cmd("show", str(self.plan_file), json=IsFlagged)
        if result.code:
            raise failure("read the plan for", self.workspace, result.err or result.out)
        doomed = [
            change["address"]
            for change in json.loads(result.out).get("resource_changes", ())
            if "delete" in change["change"]["actions"]
            # An upload that broke off: nothing can stand on that yet.
            and change.get("action_reason") != "replace_because_tainted"
            and change["address"] not in may_delete
        ]
        if doomed:
            raise DestructiveChange(
                f"Terraform would delete {', '.join(doomed)} of {self.workspace}, and what stands "
                "on that: move the servers away first, or undo the change of the host's settings."
            )


def _outputs(state: State) -> dict[str, Any]:
    return {name: output["value"] for name, output in state.get("outputs", {}).items()}


def _was_applied(root: Root, variables: Variables, state: State | None) -> bool:
    """Tell whether the last apply that succeeded had these variables, and nothing broke since."""
    instances = [i for r in (state or {}).get("resources", ()) for i in r["instances"]]
    whole = all(instance.get("status") != "tainted" for instance in instances)
    applied = _outputs(state or {}).get(_FINGERPRINT)
    return whole and applied == roots.fingerprint(root, variables)


def addresses(state: State) -> list[str]:
    """Return the addresses of all managed resources in a state."""
    found = []
    for resource in state.get("resources", ()):
        if resource.get("mode") != "managed":
            continue
        prefix = f"{resource['module']}." if resource.get("module") else ""
        found += [f"{prefix}{resource['type']}.{resource['name']}"] * len(resource["instances"])
    return sorted(found)


def _told(out: str) -> str:
    """Return the plan as a person reads it: without the progress before and the advice after."""
    lines = [line for line in out.splitlines() if not _REFRESHING.search(line)]
    end = next((i for i, line in enumerate(lines) if line.startswith("─────")), len(lines))
    return "\n".join(lines[:end]).strip()


def _sweep(runs: Path) -> None:
    """Remove what killed runs left long ago."""
    for remains in runs.iterdir():
        try:
            if time() - remains.stat().st_mtime > _REMAINS_SECONDS:
                shutil.rmtree(remains, ignore_errors=True)
        except FileNotFoundError:
            continue
