"""Launchers by name, their options, and what is said where one cannot be used."""

from __future__ import annotations

import os
import sys

import pytest

from support.commands import run_cli
from trl_nlpo.errors import UserError
from trl_nlpo.grid.launchers.launcher import environment_of_runs, options_from
from trl_nlpo.grid.launchers.launching import launcher_of
from trl_nlpo.grid.launchers.local import LocalOptions
from trl_nlpo.grid.launchers.ray import RayOptions
from trl_nlpo.grid.launchers.slurm import SlurmOptions


def test_options_have_the_types_of_their_fields():
    asked = ["gpus=2", "memory_gb=7.5", "partition=short,long", 'sbatch={"reservation": "mine"}']
    found = options_from(SlurmOptions, asked)
    assert (found.gpus, found.memory_gb, found.partition) == (2, 7.5, "short,long")
    assert found.sbatch == {"reservation": "mine"}


@pytest.mark.parametrize(
    ("cls", "option", "message"),
    [
        (SlurmOptions, "partitoin=x", r"no such option, did you mean 'partition'\? There are gpus, cpus,"),
        (LocalOptions, "gpus", "write KEY=VALUE"),
        (LocalOptions, "gpus=two", "gpus"),
        (RayOptions, "cores=2", "There are address, gpus, cpus"),
    ],
)
def test_a_wrong_option_is_one_line(cls, option, message):
    with pytest.raises(UserError, match=message):
        options_from(cls, [option])


def test_every_option_has_a_help():
    for cls in (LocalOptions, SlurmOptions, RayOptions):
        assert all(field.metadata["help"].strip() for field in cls.__dataclass_fields__.values())


def test_an_unknown_launcher_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--launcher kubernetes: there are local, slurm and ray"):
        launcher_of("kubernetes", (), tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("local", "submitit", "cluster"), ("slurm", "submitit", "cluster"), ("ray",) * 3]
)
def test_a_package_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf'--launcher {name} needs the package {module}: .*trl-nlpo\[{extra}\]"'):
        launcher_of(name, (), tmp_path)


def test_where_there_is_no_slurm_one_line_says_so(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no Slurm here \(sbatch not found\)"):
        launcher_of("slurm", (), tmp_path)


def test_more_gpus_than_there_are_are_refused(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    with pytest.raises(UserError, match=r"gpus=1 of each cell, but this machine has 0"):
        launcher_of("local", ["gpus=1"], tmp_path)


def test_what_is_passed_on_to_other_machines_has_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HOME", "/cache")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:password@mirror")
    found = environment_of_runs()
    assert found["HF_HOME"] == "/cache"
    assert not {"HF_TOKEN", "HF_ENDPOINT"} & found.keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max_parallel", "2"], "give a --launcher"),
        (["--retries", "2"], "give a --launcher"),
        (["--launcher_options", "gpus=1", "cpus=2"], "give a --launcher"),
        (["--launcher", "local", "--launcher_options", "gpus=0", "gpu=1"], "did you mean 'gpus'"),
        (["--launcher", "local", "--launcher_options", "gpus", "--seeds", "2"], "write KEY=VALUE"),
        (["--launcher", "local", "--rescore"], "give one of them"),
        (["--seeds", "2:2"], "a range"),
    ],
)
def test_the_command_line_says_what_is_wrong_before_anything_runs(tmp_path, monkeypatch, capsys, words, message):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    code, _, error = run_cli(monkeypatch, capsys, "grue", "--tasks", "imdb", "--out", "g", *words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_what_is_submitted_from_inside_of_a_slurm_job_does_not_inherit_it_but_finds_the_cluster(monkeypatch):
    from trl_nlpo.grid.launchers.slurm import _outside_of_allocations

    inside = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "11", "SLURMD_NODENAME": "n", "SUBMITIT_EXECUTOR": "slurm"}
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "mine"}
    for name, value in (inside | kept).items():
        monkeypatch.setenv(name, value)
    with _outside_of_allocations():
        assert not set(inside) & set(os.environ)
        assert kept.items() <= os.environ.items()
    assert (inside | kept).items() <= os.environ.items()
