"""Our own element in a domain's metadata: by it, and by nothing else, a domain is ours."""

import xml.etree.ElementTree as ET
from uuid import UUID

from innkeeper.hypervisor.xml.element import Element, attribute

NAMESPACE = "https://innkeeper.dev/xmlns/domain/1"
ET.register_namespace("innkeeper", NAMESPACE)


class ServerMetadata(Element, tag=f"{{{NAMESPACE}}}server"):
    """Which server a domain is, whose it is, and which operation defined it."""

    id: UUID = attribute("id")
    project: UUID = attribute("project")
    operation: UUID = attribute("operation")
