// Pins the sources of the libvirt provider for Terraform, so that it can be built where no
// provider registry is reachable. The replace lines repeat those of its own go.mod.
module innkeeper.dev/setup/provider

go 1.23

require github.com/dmacvicar/terraform-provider-libvirt v0.8.3

replace git.apache.org/thrift.git => github.com/apache/thrift v0.0.0-20180902110319-2566ecd5d999

replace golang.org/x/crypto v0.0.0-20220112180741-5e0467b6c7ce => github.com/dmacvicar/golang-x-crypto v0.0.0-20220126233154-a96af8f07497

replace github.com/community-terraform-providers/terraform-provider-ignition/v2 => github.com/dmacvicar/terraform-provider-ignition/v2 v2.1.3-0.20210701165004-13acf61ca184
