"""The lab's control groups on plain files, for machines that mount the other version."""

from pathlib import Path

from innkeeper.lab.cgroups import ControlGroups


def test_version_2_groups_delegate_and_keep_daemons_in_a_leaf(tmp_path: Path) -> None:
    """The rules of version 2 on plain files, for machines that mount version 1 like CI's."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma\n")
    (tmp_path / "ik-lab1").mkdir()
    (tmp_path / "ik-lab1" / "cgroup.procs").write_text("")
    groups = ControlGroups("ik-lab1", tmp_path)
    groups.ensure()
    assert groups.unified
    assert groups.controllers() == []
    assert groups.folders() == [tmp_path / "ik-lab1"]
    delegated = (tmp_path / "cgroup.subtree_control").read_text().split()
    assert delegated == ["+cpu", "+cpuset", "+io", "+memory", "+pids"]
    leaf = groups.daemons()
    assert leaf == tmp_path / "ik-lab1" / "daemons"
    (leaf / "cgroup.procs").write_text("41\n42\n")
    guest = tmp_path / "ik-lab1" / "machine" / "qemu-1-x"
    guest.mkdir(parents=True)
    (guest / "cgroup.procs").write_text("43\n")
    assert groups.members() == {41, 42, 43}
    for file in tmp_path.rglob("cgroup.procs"):  # a real group's files go with it
        file.unlink()
    groups.remove()
    groups.remove()
    assert not (tmp_path / "ik-lab1").exists()


def test_a_memory_group_of_version_1_is_found_below_whoever_made_it(tmp_path: Path) -> None:
    for controller in ("cpu", "memory"):
        (tmp_path / controller).mkdir()
    groups = ControlGroups("ik-lab1", tmp_path)
    cpu, memory = tmp_path / "cpu" / "ik-lab1", tmp_path / "memory" / "ik-lab1"
    assert groups.folders() == [cpu, memory]
    below = tmp_path / "memory" / "another" / "session" / "ik-lab1"
    below.mkdir(parents=True)
    assert groups.folders() == [cpu, below]
    groups.ensure()
    groups.remove()
    assert not below.exists()
