"""Ansible roles that a server may be configured with."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from innkeeper.api.access import Anyone, GuardedRoute
from innkeeper.configuration import catalogue
from innkeeper.services.views import Page

router = APIRouter(prefix="/roles", tags=["roles"], route_class=GuardedRoute)


class OptionView(BaseModel):
    """A variable of a role."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    type: str
    description: str
    required: bool
    default: Any = None
    choices: list[Any] = []
    secret: bool


class RoleView(BaseModel):
    """A role and its variables."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    description: str
    options: list[OptionView]


@router.get("")
def list_roles(principal: Anyone) -> Page[RoleView]:
    """List the roles that a request may name, with their variables, on one page."""
    del principal
    return Page(items=[RoleView.model_validate(role) for role in catalogue.roles()])
