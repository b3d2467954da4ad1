"""What is fixed before jax starts."""

import os
import subprocess
import sys

import pytest

from tests.training.harness import composed
from trialfleet.errors import UserError
from trialfleet.training import environment


def test_the_config_says_how_many_devices_and_threads(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3 --xla_dump_to=/tmp/x")
    wanted = environment.variables(composed("runtime.simulated_devices=4", "runtime.cpu_threads=2"))
    assert wanted["PJRT_NPROC"] == "2"
    flags = wanted["XLA_FLAGS"].split()
    assert [flag for flag in flags if "device_count" in flag] == ["--xla_force_host_platform_device_count=4"]
    assert "--xla_dump_to=/tmp/x" in flags
    assert wanted["JAX_PLATFORMS"] == "cpu"  # others simulate none


@pytest.mark.parametrize(
    ("there", "words", "devices", "platform"),
    [
        ("", ("mesh.fsdp=2", "mesh.tp=2"), ["4"], None),
        ("--xla_force_host_platform_device_count=8", ("mesh.fsdp=2",), ["8"], None),
        ("--xla_force_host_platform_device_count=8", ("runtime.simulated_devices=2",), ["2"], None),
        ("", ("mesh.data=3", "runtime.device=h100", "runtime.platform=gpu"), ["3"], "cpu"),
        ("", ("mesh.data=1",), [], None),
    ],
)
def test_shapes_alone_have_as_many_devices_as_the_mesh_asks_for(monkeypatch, there, words, devices, platform):
    monkeypatch.setenv("XLA_FLAGS", there)
    monkeypatch.setattr(environment, "jax_has_devices", lambda: False)
    asked = []
    monkeypatch.setattr(environment, "prepare", asked.append)
    environment.prepare_for_shapes(composed(*words))
    flags = environment.variables(asked[0])["XLA_FLAGS"].split()
    assert [flag.partition("=")[2] for flag in flags if "device_count" in flag] == devices
    assert (asked[0].runtime.platform, asked[0].runtime.compilation_cache) == (platform, None)


@pytest.mark.parametrize(
    ("value", "asked", "on_cpu", "on_gpu"),
    [("auto", False, True, False), ("true", True, True, True), ("false", False, True, False)],
)
def test_equal_bits_are_asked_for_where_they_are_wanted(monkeypatch, value, asked, on_cpu, on_gpu):
    flags = environment.variables(composed(f"runtime.deterministic={value}"))["XLA_FLAGS"]
    assert ("--xla_gpu_deterministic_ops=true" in flags) == asked
    monkeypatch.setenv("XLA_FLAGS", flags)
    assert [environment.is_exact(platform) for platform in ("cpu", "gpu")] == [on_cpu, on_gpu]


def test_a_state_that_is_split_over_nobody_knows_how_many_fits_no_named_device(monkeypatch):
    monkeypatch.setattr(environment, "jax_has_devices", lambda: False)
    with pytest.raises(UserError, match=r"mesh.fsdp: -1 leaves open over how many devices the state is split"):
        environment.prepare_for_shapes(composed("mesh.data=1", "mesh.fsdp=-1", "runtime.device=h100"))


def test_equal_bits_need_another_process_where_jax_runs_without_them(monkeypatch):
    import jax

    jax.devices()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match=r"runtime\.deterministic: true, but jax is running"):
        environment.prepare(composed("runtime.deterministic=true"))


def test_the_cache_is_divided_by_what_makes_programs_differ(monkeypatch):
    wanted = environment.variables(composed("runtime.compilation_cache=/shared/cache"))
    folder = wanted["JAX_COMPILATION_CACHE_DIR"]
    assert folder.startswith("/shared/cache/")
    assert "jaxlib-" in folder
    assert "JAX_COMPILATION_CACHE_DIR" not in environment.variables(composed("runtime.compilation_cache=null"))


def test_the_cache_is_bounded_and_the_oldest_goes_first(tmp_path):
    folder = environment.cache_directory(str(tmp_path))
    folder.mkdir(parents=True)
    for age in range(5):
        entry = folder / f"program{age}-cache"
        entry.write_bytes(bytes(100))
        os.utime(entry, (1000 - age, 1000 - age))
    bounded = (f"runtime.compilation_cache={tmp_path}", "runtime.compilation_cache_bytes=250")
    environment.trim_cache(composed(*bounded))
    assert sorted(path.name for path in folder.iterdir()) == ["program0-cache", "program1-cache"]


def test_another_number_of_devices_needs_another_process():
    import jax

    assert jax.device_count() == 8
    with pytest.raises(UserError, match=r"runtime\.simulated_devices: 2, but jax is running"):
        environment.prepare(composed("runtime.simulated_devices=2"))


@pytest.mark.slow
def test_a_workload_that_has_imported_jax_gets_what_its_config_says(tmp_path):
    code = """
import os, sys
import jax
from tests.training.harness import composed
from trialfleet.training import environment
cache = f"runtime.compilation_cache={sys.argv[1]}"
environment.prepare(composed("runtime.simulated_devices=3", "runtime.cpu_threads=2", cache))
jax.jit(lambda x: x + 1)(1)
kept = any(environment.cache_directory(sys.argv[1]).glob("*-cache"))
print(jax.device_count(), os.environ["PJRT_NPROC"], kept)
"""
    plain = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PJRT_NPROC")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=plain, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == ["3", "2", "True"]


def test_the_package_is_there_before_jax_is():
    code = "import sys, trialfleet.training, trialfleet.training.environment; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
