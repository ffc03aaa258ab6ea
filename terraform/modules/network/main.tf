resource "libvirt_network" "this" {
  name      = var.name
  bridge    = var.bridge
  mode      = var.mode
  domain    = var.domain
  addresses = [var.cidr]
  autostart = true

  dhcp {
    enabled = true
  }

  dns {
    enabled    = var.dns
    local_only = true
  }

  # A bridge that takes part in a spanning tree is deaf to a new network card for twice its forward
  # delay, 4 s in all: each guest that boots or wakes would wait for that. The provider has no
  # argument for it.
  xml {
    xslt = <<-EOT
      <xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
        <xsl:output omit-xml-declaration="yes"/>
        <xsl:template match="@*|node()">
          <xsl:copy><xsl:apply-templates select="@*|node()"/></xsl:copy>
        </xsl:template>
        <xsl:template match="bridge/@stp">
          <xsl:attribute name="stp">off</xsl:attribute>
        </xsl:template>
      </xsl:stylesheet>
    EOT
  }

  lifecycle {
    # The provider would replace a network for it, with the guests that are on it.
    ignore_changes = [xml]
  }
}
