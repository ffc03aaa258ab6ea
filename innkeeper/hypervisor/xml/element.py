"""The declarative base of all libvirt elements.

A class names its tag once and each field names its place: an attribute, a text, an empty marker
element, or nested elements, each of them optionally `of` a path of plain elements in between.
Documents are built as trees, so no value can ever be read as markup.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar, dataclass_transform

from innkeeper.errors import InvalidRequest

_UNREPRESENTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Kind(Enum):
    """What a field becomes in the document."""

    ATTRIBUTE = "attribute"
    TEXT = "text"
    PRESENT = "present"
    CHILDREN = "children"


@dataclass(frozen=True)
class Place:
    """Where a field lives: `path` of plain elements below the own element, then `kind`."""

    kind: Kind
    path: tuple[str, ...]
    name: str = ""


def _placed(kind: Kind, of: str, default: Any, name: str = "") -> Any:
    place = Place(kind, tuple(filter(None, of.split("/"))), name)
    return field(default=default, metadata={"place": place})


def attribute(name: str, *, of: str = "", default: Any = MISSING) -> Any:
    """Declare a field written as attribute `name`, of the own element or of the path `of`."""
    return _placed(Kind.ATTRIBUTE, of, default, name)


def text(*, of: str = "", default: Any = MISSING) -> Any:
    """Declare a field written as the text of the own element or of the path `of`."""
    return _placed(Kind.TEXT, of, default)


def present(*, of: str, default: Any = MISSING) -> Any:
    """Declare a boolean: true puts the empty element `of` there, false leaves it out."""
    return _placed(Kind.PRESENT, of, default)


def child(*, of: str = "", default: Any = MISSING) -> Any:
    """Declare one nested element, below the own element or below the path `of`."""
    return _placed(Kind.CHILDREN, of, default)


def children(*, of: str = "", default: Any = MISSING) -> Any:
    """Declare a tuple of nested elements, below the own element or below the path `of`."""
    return _placed(Kind.CHILDREN, of, default)


def scalar(value: Any) -> str:
    """Return the text libvirt reads for a value: yes/no for booleans, `str` for the rest.

    Raises:
        InvalidRequest: the text has a character that XML 1.0 cannot carry.
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    written = str(value)
    if bad := _UNREPRESENTABLE.search(written):
        raise InvalidRequest(
            f"The text {written[:60]!r} contains the character U+{ord(bad.group()):04X}, which "
            "no XML document can carry: remove it and try again."
        )
    return written


@dataclass_transform(
    kw_only_default=True,
    frozen_default=True,
    field_specifiers=(attribute, text, present, child, children),
)
class Element:
    """Base of the element classes; a field of None is left out of the document."""

    tag: ClassVar[str]

    def __init_subclass__(cls, *, tag: str) -> None:
        """Make each subclass a frozen dataclass and remember its tag."""
        super().__init_subclass__()
        cls.tag = tag
        dataclass(frozen=True, kw_only=True)(cls)

    def tree(self) -> ET.Element:
        """Build the element with all its fields, in the order of their declaration."""
        node = ET.Element(self.tag)
        between: dict[tuple[str, ...], ET.Element] = {(): node}
        for declared in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            place: Place = declared.metadata["place"]
            value = getattr(self, declared.name)
            unset = value is None or value == ()
            if not unset and not (place.kind is Kind.PRESENT and value is False):
                _write(_descend(between, place.path), place, value)
        return node

    def render(self) -> str:
        """Return the document as indented text."""
        node = self.tree()
        ET.indent(node)
        return ET.tostring(node, encoding="unicode") + "\n"


def _descend(between: dict[tuple[str, ...], ET.Element], path: tuple[str, ...]) -> ET.Element:
    if path not in between:
        between[path] = ET.SubElement(_descend(between, path[:-1]), path[-1])
    return between[path]


def _write(node: ET.Element, place: Place, value: Any) -> None:
    if place.kind is Kind.ATTRIBUTE:
        node.set(place.name, scalar(value))
    elif place.kind is Kind.TEXT:
        # XML turns a carriage return into a newline when read: write what will be read.
        node.text = scalar(value).replace("\r\n", "\n").replace("\r", "\n")
    elif place.kind is Kind.CHILDREN:
        nested: Iterable[Element] = (value,) if isinstance(value, Element) else value
        node.extend(item.tree() for item in nested)


def parse(document: str) -> ET.Element:
    """Parse a document that libvirt returned."""
    return ET.fromstring(document)  # noqa: S314  # written by the host's own libvirt daemon
