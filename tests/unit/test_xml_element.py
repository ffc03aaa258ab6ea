"""The declarative framework: places, omission, and values that can never become markup."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from innkeeper.errors import InvalidRequest
from innkeeper.hypervisor.xml.domain import DiskSpec, DomainSpec, NicSpec, domain_xml
from innkeeper.hypervisor.xml.element import (
    Element,
    attribute,
    child,
    children,
    parse,
    present,
    text,
)
from innkeeper.hypervisor.xml.network import DhcpHost
from innkeeper.hypervisor.xml.storage import Volume

_LEGAL = st.characters(
    codec="utf-8", exclude_characters="\ufffe\uffff", min_codepoint=32
) | st.sampled_from("\t\n")
_HOSTILE = st.sampled_from(
    [
        "</name><devices/>",
        "a' b\" c",
        "]]>",
        "<!--",
        "<!DOCTYPE a [<!ENTITY b 'c'>]>&b;",
        "&amp;lt;",
        "<?xml version='1.0'?>",
    ]
)
TEXTS = st.text(_LEGAL) | _HOSTILE


class Leaf(Element, tag="leaf"):
    word: str | None = attribute("word", default=None)
    body: str | None = text(default=None)


class Tree(Element, tag="tree"):
    height: int = attribute("height", of="trunk/top")
    bark: str = attribute("kind", of="trunk")
    evergreen: bool = present(of="trunk/evergreen", default=False)
    tall: bool | None = attribute("tall", default=None)
    first: Leaf | None = child(default=None)
    leaves: tuple[Leaf, ...] = children(of="crown", default=())


def _written(element: Element) -> str:
    return ET.tostring(element.tree(), encoding="unicode")


def test_fields_share_the_elements_between() -> None:
    tree = Tree(height=3, bark="rough", evergreen=True)
    assert _written(tree) == (
        '<tree><trunk kind="rough"><top height="3" /><evergreen /></trunk></tree>'
    )


def test_what_is_unset_is_left_out_and_false_is_said() -> None:
    assert _written(Leaf()) == "<leaf />"
    assert _written(Leaf(body="")) == "<leaf />"
    assert 'tall="no"' in _written(Tree(height=1, bark="b", tall=False))


def test_children_keep_their_order() -> None:
    tree = Tree(height=1, bark="b", leaves=(Leaf(word="a"), Leaf(word="b")))
    assert [leaf.get("word") for leaf in tree.tree().iterfind("crown/leaf")] == ["a", "b"]


def test_a_required_field_is_required() -> None:
    with pytest.raises(TypeError, match="height"):
        Tree(bark="b")  # type: ignore[call-arg]


def test_elements_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Leaf(word="a").word = "b"  # type: ignore[misc]


@given(word=TEXTS, body=TEXTS)
@example(word="\r\n", body="x")
def test_any_text_round_trips(word: str, body: str) -> None:
    back = parse(Leaf(word=word, body=body).render())
    assert back.get("word") == word
    assert (back.text or "") == body
    assert len(back) == 0


@pytest.mark.parametrize("bad", ["\x00", "\x1b", "\x7f\x00", "\ud800", "\uffff"])
def test_what_xml_cannot_carry_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+"):
        Leaf(word=f"a{bad}b").render()


def test_a_carriage_return_in_text_becomes_what_xml_reads() -> None:
    assert parse(Leaf(body="a\r\nb\rc").render()).text == "a\nb\nc"


def _spec(name: str, title: str, description: str, path: str) -> DomainSpec:
    return DomainSpec(
        server_id=UUID(int=1),
        project_id=UUID(int=2),
        operation_id=UUID(int=3),
        name=name,
        title=title,
        description=description,
        vcpus=1,
        memory_mib=128,
        virt_type="qemu",
        disks=(DiskSpec(Path(path)),),
        nics=(NicSpec(network=name, mac=title),),
        seed_path=Path(path),
        console_log_path=Path(path),
    )


@given(name=TEXTS, title=TEXTS, description=TEXTS, path=TEXTS)
def test_hostile_values_never_change_a_domain(
    name: str, title: str, description: str, path: str
) -> None:
    root = parse(domain_xml(_spec(name, title, description, path)))
    plain = parse(domain_xml(_spec("n", "t", "d", "p")))
    assert root.findtext("name") == name
    assert (root.findtext("title") or "") == " ".join(title.split())
    assert (root.findtext("description") or "") == description
    assert root.find("devices/disk/source").get("file") == str(Path(path))  # type: ignore[union-attr]
    optional = {"title", "description"}
    assert [e.tag for e in root.iter() if e.tag not in optional] == [
        e.tag for e in plain.iter() if e.tag not in optional
    ]


@given(name=TEXTS)
def test_hostile_names_of_volumes_and_hosts_round_trip(name: str) -> None:
    volume = parse(Volume(name=name, capacity=1, format="raw").render())
    host = parse(DhcpHost(mac=name, name=name, ip="10.0.0.1").render())  # type: ignore[arg-type]
    assert volume.findtext("name") == name
    assert host.get("name") == host.get("mac") == name


def test_our_metadata_has_its_namespace_and_prefix() -> None:
    server = uuid4()
    spec = DomainSpec(
        server_id=server,
        project_id=uuid4(),
        operation_id=uuid4(),
        name="n",
        vcpus=1,
        memory_mib=1,
        virt_type="test",
    )
    document = domain_xml(spec)
    assert f'<innkeeper:server id="{server}"' in document
    assert re.search('xmlns:innkeeper="https://innkeeper.dev/xmlns/domain/1"', document)
