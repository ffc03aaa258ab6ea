"""A server's life on real hosts: command line, API, Prefect worker, Terraform, libvirt, Ansible."""

from e2e.estate import Estate, unique


def test_created_and_deleted(estate: Estate) -> None:
    server = estate.done(estate.create(unique("first")))
    assert estate.login(server, ["cat", "/proc/sys/kernel/hostname"]).strip() == server["name"]
    estate.done(estate.act(server, "delete"))
    assert estate.audit() == []
